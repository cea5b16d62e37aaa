"""The allocation policies by name, and an adapter put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from poise.adapting.adapter import Adapter
from poise.adapting.core_policies import CorePolicy, Horizontal, InfAdapter, ModelSwitching
from poise.adapting.hpa import Hpa
from poise.adapting.joint import Joint
from poise.adapting.policy import AllocationPolicy
from poise.adapting.static import Static
from poise.adapting.vpa import Vpa
from poise.domain.allocation import Workers
from poise.domain.profile import Profile
from poise.domain.rate_table import RateTable
from poise.domain.service import Service
from poise.errors import ConfigError
from poise.forecasting.base import Forecaster, RateHistory
from poise.planning.default_allocation import initial_allocation
from poise.planning.joint_planner import JointPlanner

CORE_POLICIES: Mapping[str, type[CorePolicy]] = {
    policy.name: policy for policy in (InfAdapter, ModelSwitching, Vpa, Hpa, Horizontal)
}
POLICY_NAMES = (Static.name, Joint.name, *CORE_POLICIES)


class Served(msgspec.Struct, frozen=True):
    """One service as an adapter is put together from it. ``rates``: policy ``poise`` needs them."""

    service: Service
    profile: Profile
    rates: RateTable | None = None


def check_policy(name: str, services: int = 1) -> None:
    """Make sure that there is such a policy, for so many services.

    Raises:
        ConfigError: there is none, or it knows one service only.
    """
    if name not in POLICY_NAMES:
        raise ConfigError(
            f"got {name!r}", field="adapter.policy", expected=f"one of {', '.join(POLICY_NAMES)}"
        )
    if services > 1 and name not in (Static.name, Joint.name):
        raise ConfigError(
            f"got {name!r} for {services} services", field="adapter.policy", expected="poise, or one service"
        )


def first_workers(served: Sequence[Served], name: str, cores: int) -> tuple[Workers, ...]:
    """Return the workers to begin with: those declared, or as many as the budget has.

    None for policies that give cores to variants: they begin with what their first decision says.
    """
    if name in CORE_POLICIES and served[0].service.allocation is None:
        return ()
    several = len(served) > 1
    found: list[Workers] = []
    for each in served:
        share = max(1, cores // len(served))
        for kind in initial_allocation(each.service, each.profile, share):
            found.append(
                Workers(
                    variants=kind.variants,
                    count=kind.count,
                    threads=kind.threads,
                    device=kind.device,
                    batch_cap_s=None if kind.batch_cap_ms is None else kind.batch_cap_ms / 1e3,
                    service=each.service.service if several else "",
                )
            )
    return tuple(found)


def make_policy(served: Sequence[Served], name: str, cores: int) -> AllocationPolicy:
    """Return a policy.

    Raises:
        ConfigError: no such policy, or a profile that it cannot plan with.
    """
    check_policy(name, len(served))
    first = served[0]
    if name == Static.name:
        return Static(first_workers(served, name, cores))
    if name == Joint.name:
        parts = [
            (each.service, each.profile, each.rates if each.rates is not None else RateTable())
            for each in served
        ]
        return Joint(JointPlanner.joined(parts), first.service.adapter)
    return CORE_POLICIES[name](first.service, first.profile, cores)


def make_adapter(
    served: Sequence[Served],
    name: str,
    forecasters: Mapping[str, Forecaster],
    *,
    cores: int | None = None,
    past: Mapping[str, RateHistory] | None = None,
) -> Adapter:
    """Return the adapter of one service, or of several on the first one's budget and settings.

    ``forecasters`` and ``past`` are by service, under the empty name where there is only one.

    Raises:
        ConfigError: as ``make_policy``; a memory that holds no variant.
    """
    first = served[0].service
    cores = first.budget.cores if cores is None else cores
    several = len(served) > 1
    _check_memory(served, first.budget.memory_bytes)
    return Adapter(
        {each.service.service if several else "": each.service for each in served},
        first.adapter,
        make_policy(served, name, cores),
        forecasters,
        cores=cores,
        memory_bytes=first.budget.memory_bytes,
        memory_of=lambda kind: memory_of(kind, served),
        past=past,
    )


def _check_memory(served: Sequence[Served], budget_bytes: int) -> None:
    """Make sure that each service has a variant that the memory holds, all of them together.

    Raises:
        ConfigError: it has not.
    """
    least = [
        min(each.profile.variant(name).memory_bytes for name in each.service.variants) for each in served
    ]
    if sum(least) > budget_bytes:
        raise ConfigError(
            f"got {budget_bytes / 1e6:.0f} MB",
            field="budget.memory",
            expected=f"at least {sum(least) / 1e6:.0f} MB, what the smallest variant needs",
        )


def memory_of(kind: Workers, served: Sequence[Served]) -> int:
    """Return what a worker of a kind needs: the memory of its resident set. Units: bytes."""
    profile = _profile(kind, served)
    return sum(profile.variant(name).memory_bytes for name in kind.variants)


def load_time_s(kind: Workers, served: Sequence[Served]) -> float:
    """Return how long a worker of a kind takes to load: its variants, one after the other. Units: seconds."""
    profile = _profile(kind, served)
    return sum(profile.variant(name).load_time_s for name in kind.variants)


def _profile(kind: Workers, served: Sequence[Served]) -> Profile:
    return next((s.profile for s in served if s.service.service == kind.service), served[0].profile)
