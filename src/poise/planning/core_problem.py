"""E3's problem for a service: its variants' capacities from the profile, its settings from the service file."""

from __future__ import annotations

from collections.abc import Mapping

from poise.domain.allocation import Allocation, Terms, Workers
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.errors import ConfigError
from poise.planning.core_allocation import Candidate, CoreAllocation, CoreProblem
from poise.planning.core_capacity import candidate_of


def candidates_of(service: Service, profile: Profile, cores: int) -> tuple[Candidate, ...]:
    """Return the variants as E3 knows them, held to the SLO of the service's first class.

    Raises:
        ConfigError: the profile says nothing about a variant's capacity.
    """
    slo_s = service.classes[service.default_class].latency_slo_s
    try:
        return tuple(
            candidate_of(profile.variant(name), slo_s, cores, service.adapter) for name in service.variants
        )
    except ValueError as error:
        raise ConfigError(str(error), file=service.profile) from None


def core_problem(
    service: Service,
    candidates: tuple[Candidate, ...],
    load_rps: float,
    cores: int,
    current: Mapping[str, int],
) -> CoreProblem:
    """Return E3's problem at a load. Units: requests/s."""
    settings = service.adapter
    return CoreProblem(
        candidates=candidates,
        cores=cores,
        load_rps=load_rps,
        current=current,
        min_cores=settings.min_cores,
        alpha=settings.alpha,
        beta=settings.beta,
        gamma=settings.gamma,
    )


def as_allocation(found: CoreAllocation, slo_class: str) -> Allocation:
    """Return an answer to E3 as an allocation: *n* cores are *n* workers of one thread."""
    return Allocation(
        objective=found.objective,
        terms=Terms(accuracy=found.accuracy, resource=found.resource, loading=found.loading),
        workers=tuple(Workers(variants=(variant,), count=count) for variant, count in found.cores.items()),
        shares={slo_class: dict(found.load_rps)},
        shed={slo_class: found.shed_rps},
        solve_s=found.solve_s,
        status=found.status,
        gap=found.gap,
    )
