"""Which cores this process may use, and which of them each worker is pinned to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def usable_cores() -> tuple[int, ...]:
    """Return the cores of this process's affinity, cut to its cgroup's CPU quota (the last ones stay).

    A core count of the machine is never used: in a container it is somebody else's.
    """
    cores = tuple(sorted(os.sched_getaffinity(0)))
    try:
        membership = Path("/proc/self/cgroup").read_text(encoding="ascii")
    except OSError:
        return cores
    quota = cpu_quota(membership, Path("/sys/fs/cgroup"))
    return cores if quota is None else cores[-max(1, int(quota)) :]


def cpu_quota(membership: str, mount: Path) -> float | None:
    """Return the smallest CPU quota, in cores, of a process's cgroup and all above it; None without one.

    ``membership`` is the text of ``/proc/self/cgroup``; both cgroup versions are read.
    """
    found: list[float] = []
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            roots, read = (mount, mount / "unified"), _quota_v2
        elif "cpu" in controllers.split(","):
            roots, read = (mount / "cpu", mount / controllers), _quota_v1
        else:
            continue
        for root in roots:
            folder = root / path.lstrip("/")
            for place in (folder, *folder.parents):
                if place.is_relative_to(root) and (quota := read(place)) is not None:
                    found.append(quota)
    return min(found, default=None)


def place_workers(threads: Sequence[int], cores: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the cores of each worker: its own from the last core down, or all cores where there are too few.

    The first cores are left over for the front end, which is not pinned.
    """
    if sum(threads) > len(cores):
        return [tuple(cores)] * len(threads)
    left = list(cores)
    placed = []
    for count in threads:
        placed.append(tuple(left[-count:]))
        del left[-count:]
    return placed


def _quota_v2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    if len(words) != 2 or words[0] == "max":
        return None
    return _ratio(words[0], words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    if len(quota) != 1 or len(period) != 1 or quota[0].startswith("-"):
        return None
    return _ratio(quota[0], period[0])


def _ratio(quota: str, period: str) -> float | None:
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
