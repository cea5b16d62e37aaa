"""The processor time that a server, and all the machine, have used."""

from __future__ import annotations

import msgspec
import psutil


class Cores(msgspec.Struct, frozen=True):
    """Processor seconds so far: of a server's first process, of it and all below, of the machine."""

    front_end_s: float
    server_s: float
    machine_s: float

    def __sub__(self, other: Cores) -> Cores:
        return Cores(
            self.front_end_s - other.front_end_s,
            self.server_s - other.server_s,
            self.machine_s - other.machine_s,
        )


def cores_used(pid: int) -> Cores:
    """Return what was used so far."""
    machine = psutil.cpu_times()
    guests_s = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # user time already
    busy_s = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - guests_s
    if not pid:
        return Cores(0.0, 0.0, busy_s)
    first = psutil.Process(pid)
    each = [_cpu_s(first), *(_cpu_s(child) for child in first.children(recursive=True))]
    return Cores(each[0], sum(each), busy_s)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
