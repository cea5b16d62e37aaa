"""Policies that give cores to variants, one variant to a worker: InfAdapter's and what it is compared with.

All plan for the forecast's middle times the headroom (the paper's 10 %), and a smaller allocation is adopted only when
it was asked for ``adapter.stabilise`` times in a row (the paper's four).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec.structs import replace

from poise.adapting.policy import AllocationPolicy, Situation, Solve, cores_by_variant
from poise.domain.allocation import Allocation, Workers
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.errors import ConfigError
from poise.planning.core_allocation import CoreAllocation, CoreProblem, allocate_cores, judge
from poise.planning.core_problem import as_allocation, candidates_of, core_problem


class CorePolicy(AllocationPolicy):
    """What they have in common: E3's problem at the present situation, and the answer as an allocation.

    Raises:
        ConfigError: the profile says nothing about a variant's capacity.
    """

    def __init__(self, service: Service, profile: Profile, cores: int) -> None:
        self.service = service
        self.settings = service.adapter
        self._candidates = candidates_of(service, profile, cores)

    def problem(self, situation: Situation) -> CoreProblem:
        """Return E3's problem; variants that could not be loaded of late are left out."""
        excluded = {name for kind in situation.excluded for name in kind.variants}
        return core_problem(
            self.service,
            tuple(c for c in self._candidates if c.name not in excluded),
            situation.jobs_rps,
            situation.cores,
            self.current(situation),
        )

    def shares(self, found: Allocation, running: tuple[Workers, ...]) -> dict[str, dict[str, float]]:
        """Return the shares by the same rule, for the workers that there are: the most accurate is filled first."""
        load_rps = sum(found.shares[self.service.default_class].values()) + sum(found.shed.values())
        cores = {
            c.name: min(count, len(c.capacity_rps) - 1)
            for c in self._candidates
            if (count := cores_by_variant(running).get(c.name, 0))
        }
        most = max([len(c.capacity_rps) - 1 for c in self._candidates])
        judged = judge(core_problem(self.service, self._candidates, load_rps, most, {}), cores)
        return {name: dict(judged.load_rps) for name in self.service.classes}

    def carries(self, workers: tuple[Workers, ...], items_rps: Mapping[str, float]) -> bool:
        """Whether the capacities of the variants add up to a load; one item counts as one request."""
        cores = cores_by_variant(workers)
        capacity = sum(
            c.capacity_rps[min(cores.get(c.name, 0), len(c.capacity_rps) - 1)] for c in self._candidates
        )
        return capacity >= sum(items_rps.values())

    def current(self, situation: Situation) -> Mapping[str, int]:
        """The cores that each variant has now."""
        return cores_by_variant(situation.running)

    def enough(self, situation: Situation, variant: str) -> int:
        """Return the fewest cores on which a variant carries the load, or all: to begin with, where nothing runs."""
        only = tuple(c for c in self._candidates if c.name == variant)
        found = best_single(replace(self.problem(situation), candidates=only))
        return self.settings.min_cores if found is None else sum(found.cores.values())

    def answer(self, found: CoreAllocation | None) -> Allocation | None:
        """Return what was found as an allocation, with what each class's load goes by."""
        if found is None:
            return None
        answer = as_allocation(found, self.service.default_class)
        shares = answer.shares[self.service.default_class]
        # E3 knows one load: all classes go the same way.
        return replace(answer, shares=dict.fromkeys(self.service.classes, shares))


class InfAdapter(CorePolicy):
    """E3 as published, exact. Source: InfAdapter (EuroMLSys 2023), equation 1."""

    name: ClassVar[str] = "infadapter"

    def ask(self, situation: Situation) -> Solve:
        """Solve E3 at the present situation."""
        problem = self.problem(situation)
        limit_s = self.settings.time_limit_s
        return lambda: self.answer(allocate_cores(problem, time_limit_s=limit_s))


class ModelSwitching(CorePolicy):
    """One variant at a time: the best by E3's objective, each with the fewest cores that carry the load.

    Source: MS+ of the InfAdapter paper, after Model-Switching (HotCloud 2020).
    """

    name: ClassVar[str] = "model-switching"

    def ask(self, situation: Situation) -> Solve:
        """Judge each variant on the fewest cores that carry the load, or all where none do."""
        problem = self.problem(situation)
        return lambda: self.answer(best_single(problem))


class Horizontal(CorePolicy):
    """Replicas of one variant for the forecast load: the core of MArk (ATC 2019), without its mix of instances.

    ``adapter.variant`` names the variant; the most accurate one where it does not.
    """

    name: ClassVar[str] = "horizontal"

    def __init__(self, service: Service, profile: Profile, cores: int) -> None:
        super().__init__(service, profile, cores)
        self.variant = fixed_variant(service, profile)
        self._candidates = tuple(c for c in self._candidates if c.name == self.variant)

    def ask(self, situation: Situation) -> Solve:
        """Return the fewest replicas that carry the load."""
        problem = self.problem(situation)
        return lambda: self.answer(best_single(problem))


def best_single(problem: CoreProblem) -> CoreAllocation | None:
    """Return the best allocation of a single variant on the fewest cores that carry the load.

    Where none carries it, the one that carries the most on the fewest cores that do; None without candidates.
    """
    carrying: list[CoreAllocation] = []
    largest: tuple[float, CoreAllocation] | None = None
    for candidate in problem.candidates:
        choices = problem.choices(candidate)
        if not choices:
            continue
        enough = next((n for n in choices if candidate.capacity_rps[n] >= problem.load_rps), None)
        if enough is not None:
            carrying.append(judge(problem, {candidate.name: enough}))
            continue
        most = max(choices, key=lambda n: (candidate.capacity_rps[n], -n))
        if largest is None or candidate.capacity_rps[most] > largest[0]:
            largest = candidate.capacity_rps[most], judge(problem, {candidate.name: most})
    if carrying:
        return max(carrying, key=lambda found: found.objective)
    return None if largest is None else largest[1]


def fixed_variant(service: Service, profile: Profile) -> str:
    """Return the variant that a policy of one variant is to run: ``adapter.variant``, else the most accurate one.

    Raises:
        ConfigError: the profile lacks it.
    """
    if service.adapter.variant is not None:
        return service.adapter.variant
    try:
        return max(
            service.variants, key=lambda name: max(mode.accuracy for mode in profile.variant(name).modes)
        )
    except KeyError as error:
        raise ConfigError(f"variant {error} has no profile", file=service.profile) from None
