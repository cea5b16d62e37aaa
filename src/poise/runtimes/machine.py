"""The machine as a process may use it: its cores, their pinning, and how a profile names it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from poise.domain.profile import MachineFingerprint
from poise.domain.service import Service
from poise.runtimes.cores import usable_cores

_CPUINFO = Path("/proc/cpuinfo")


def fingerprint(runtime: str) -> MachineFingerprint:
    """Return how a profile names this machine and a runtime."""
    return MachineFingerprint(cpu=_cpu_model(), cores=len(usable_cores()), runtime=runtime)


def onnx_runtime_name() -> str:
    """Return the name and version of the ONNX Runtime here."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def runtime_names(service: Service) -> str:
    """Return the names and versions here of the runtimes that a service's variants use, joined by commas."""
    used = {variant.runtime for variant in service.variants.values()}
    names = []
    if "onnx" in used:
        names.append(onnx_runtime_name())
    if "torch" in used:
        try:
            names.append(f"torch {version('torch')}")
        except PackageNotFoundError:
            names.append("torch (not installed)")
    if "python" in used:
        names.append(f"python {platform.python_version()}")
    return ", ".join(names)


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep this thread, and those it starts meanwhile, on some cores; give the old ones back afterwards."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def first_in_line() -> Iterator[None]:
    """Run this thread ahead of all ordinary processes, where the operating system lets us.

    A visitor on the core spoils a timing, and a machine that others use has many; niceness does not keep them away
    (Linux weighs it within a session only). The right is root's, as a rule: without it nothing changes. Processes
    started meanwhile inherit it.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def _cpu_model() -> str:
    try:
        with _CPUINFO.open(encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return os.uname().machine
