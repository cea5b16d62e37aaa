"""The workers that a service starts with, where nothing adapts them."""

from __future__ import annotations

from poise.domain.profile import Profile
from poise.domain.service import Service, WorkerKind


def initial_allocation(
    service: Service, profile: Profile, cores: int | None = None
) -> tuple[WorkerKind, ...]:
    """Return the service's own allocation, or one worker of one thread for each core of its budget.

    ``cores`` is how many there really are, where that is known and may be fewer. Without an allocation each
    worker holds as many variants, in the file's order, as fit into its equal share of the memory, but at
    least the first.
    """
    if service.allocation is not None:
        return service.allocation
    count = service.budget.cores if cores is None else min(service.budget.cores, cores)
    left = service.budget.memory_bytes // service.budget.cores
    resident: list[str] = []
    for name in service.variants:
        needed = profile.variant(name).memory_bytes
        if not resident or needed <= left:
            resident.append(name)
            left -= needed
    return (WorkerKind(variants=tuple(resident), threads=1, count=count),)
