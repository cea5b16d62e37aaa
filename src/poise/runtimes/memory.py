"""How much memory this process and its children may still take."""

from __future__ import annotations

from pathlib import Path

import psutil


def memory_left_bytes() -> int:
    """Return what is left: of the machine, or of the cgroup where that has a limit. Units: bytes."""
    left = int(psutil.virtual_memory().available)
    try:
        membership = Path("/proc/self/cgroup").read_text(encoding="ascii")
    except OSError:
        return left
    within = cgroup_memory_left_bytes(membership, Path("/sys/fs/cgroup"))
    return left if within is None else min(left, within)


def cgroup_memory_left_bytes(membership: str, mount: Path) -> int | None:
    """Return the least that is left below the limit of a process's cgroup or of one above it; None without a limit.

    ``membership`` is the text of ``/proc/self/cgroup``. Only version 2 is read. What the page cache holds counts as
    left, as the kernel gives it up first. Units: bytes.
    """
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), None)
    if path is None:
        return None
    folder = mount / path.lstrip("/")
    found = []
    for place in (folder, *folder.parents):
        if not place.is_relative_to(mount):
            break
        limit, used = _number(place / "memory.max"), _number(place / "memory.current")
        if limit is not None and used is not None:
            found.append(max(0, limit - used + _page_cache(place / "memory.stat")))
    return min(found, default=None)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _page_cache(file: Path) -> int:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = dict(line.split() for line in lines)
    return int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))
