"""The workers that a service starts with."""

from __future__ import annotations

import msgspec

from poise.domain.profile import Profile
from poise.domain.service import Device, Service
from poise.planning.default_allocation import initial_allocation


class SimulatedWorker(msgspec.Struct, frozen=True):
    """One worker: its id, resident set, threads, device and batch-time cap. Units: ``batch_cap_s`` in seconds."""

    id: int
    variants: tuple[str, ...]
    threads: int
    device: Device
    batch_cap_s: float | None = None


def workers_of(service: Service, profile: Profile) -> tuple[SimulatedWorker, ...]:
    """Return the workers that the service starts with, numbered from 0 in the order of its allocation."""
    workers: list[SimulatedWorker] = []
    for kind in initial_allocation(service, profile):
        cap_s = None if kind.batch_cap_ms is None else kind.batch_cap_ms / 1000.0
        for _ in range(kind.count):
            workers.append(SimulatedWorker(len(workers), kind.variants, kind.threads, kind.device, cap_s))
    return tuple(workers)
