"""The workers that a service starts with."""

from __future__ import annotations

import msgspec

from poise.domain.profile import Profile
from poise.domain.service import Device, Service


class SimulatedWorker(msgspec.Struct, frozen=True):
    """One worker: its id, resident set, threads and device."""

    id: int
    variants: tuple[str, ...]
    threads: int
    device: Device


def workers_of(service: Service, profile: Profile) -> tuple[SimulatedWorker, ...]:
    """Return the workers of the service's allocation, numbered from 0 in the file's order.

    Without an allocation: one worker with one thread for each core of the budget. Each holds as many
    variants, in the file's order, as fit into its equal share of the memory, but at least the first.
    """
    if service.allocation is None:
        resident = _fitting(service, profile)
        return tuple(SimulatedWorker(i, resident, 1, "cpu") for i in range(service.budget.cores))
    workers: list[SimulatedWorker] = []
    for kind in service.allocation:
        for _ in range(kind.count):
            workers.append(SimulatedWorker(len(workers), kind.variants, kind.threads, kind.device))
    return tuple(workers)


def _fitting(service: Service, profile: Profile) -> tuple[str, ...]:
    left = service.budget.memory_bytes // service.budget.cores
    fitting: list[str] = []
    for name in service.variants:
        needed = profile.variant(name).memory_bytes
        if not fitting or needed <= left:
            fitting.append(name)
            left -= needed
    return tuple(fitting)
