"""A simulated run with an adapter: the load, the allocations, and what both cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.random import SeedSequence

from poise.adapting.decision import Decision
from poise.adapting.policies import Served, first_workers, load_time_s, make_adapter, memory_of
from poise.forecasting.base import Forecaster, RateHistory
from poise.scheduling.scheduler import Scheduler
from poise.simulation.adaptation import SOLVE_S, AdaptedDriver, Beat
from poise.simulation.driver import Observer
from poise.simulation.faults import NO_FAULTS, Faults
from poise.simulation.service_times import ServiceTimes
from poise.simulation.simulate import SimulationReport, arrivals_of, decisions_of
from poise.workload.jobs import JobDraw
from poise.workload.outcomes import Outcomes
from poise.workload.summary import RunReport, summarise


class AdaptedReport(SimulationReport, frozen=True, kw_only=True):
    """The report of a run with an adapter; the JSON of ``poise simulate --adapter``. Fields are added, never renamed.

    ``mean_cores`` answered or did their last batch; ``mean_surge_cores`` belonged to workers that were loading beside
    them; ``mean_resident_bytes``: what all loaded workers need. ``reconfigurations``: decisions that changed the
    workers; ``loads``: workers that were loaded after the start; ``lost_jobs``: accepted and without an outcome.
    """

    adapter: str
    forecaster: str
    mean_cores: float
    mean_surge_cores: float
    mean_resident_bytes: float
    reconfigurations: int
    loads: int
    lost_jobs: int
    decided: dict[str, int]


class AdaptedRun(msgspec.Struct, frozen=True):
    """A run: its report, what became of each job, each second of it, and the decisions."""

    report: AdaptedReport
    outcomes: Outcomes
    beats: list[Beat]
    decisions: list[Decision]


def simulate_adapted(
    served: Served,
    draws: Iterable[JobDraw],
    *,
    duration_s: float,
    adapter: str,
    forecaster: Forecaster,
    past: RateHistory | None = None,
    policy: str | None = None,
    seed: int = 1,
    faults: Faults = NO_FAULTS,
    front_end_s: float = 0.0,
    solve_s: float = SOLVE_S,
    scheduler: Scheduler | None = None,
    observe: Observer | None = None,
) -> AdaptedRun:
    """Simulate a service and its adapter under jobs that arrive over ``duration_s`` seconds.

    ``adapter`` is the allocation policy, ``policy`` the scheduler's; ``past`` what the forecaster knows of the load
    before. As ``simulate`` otherwise.

    Raises:
        ConfigError: no such policy, a profile that it cannot plan with.
        InternalError: the scheduler or the adapter asked for something impossible.
    """
    service, profile = served.service, served.profile
    name = service.scheduler.policy if policy is None else policy
    index = service.modality_index
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=(1 << 16,)))
    adapting = make_adapter([served], adapter, {"": forecaster}, past={} if past is None else {"": past})
    if scheduler is None:
        scheduler = Scheduler(service, profile, name)
    driver = AdaptedDriver(
        scheduler,
        ServiceTimes(profile, index, rng, error_factor=faults.profile_error),
        index,
        adapting,
        service,
        load_time_s=lambda kind: load_time_s(kind, [served]),
        memory_of=lambda kind: memory_of(kind, [served]),
        initial=first_workers([served], adapter, service.budget.cores),
        epoch_s=0.0 if past is None else past.end_s,
        solve_s=solve_s,
        faults=faults,
        observe=observe,
    )
    driver.run(arrivals_of(draws, service, front_end_s))
    outcomes = driver.outcomes
    summary = summarise(
        outcomes, duration_s, floor_scope=service.guarantee.scope, classes=tuple(service.classes)
    )
    report = AdaptedReport(
        **{field: getattr(summary, field) for field in RunReport.__struct_fields__},
        policy=name,
        seed=seed,
        load=summary.offered_rps,
        decisions=decisions_of(driver.decision_s),
        adapter=adapter,
        forecaster=forecaster.name,
        mean_cores=_mean(beat.cores for beat in driver.beats),
        mean_surge_cores=_mean(beat.surge_cores for beat in driver.beats),
        mean_resident_bytes=_mean(beat.resident_bytes for beat in driver.beats),
        reconfigurations=sum(_changes(decision) for decision in driver.decisions),
        loads=driver.loads,
        lost_jobs=len(scheduler.jobs),
        decided=dict(Counter(decision.outcome for decision in driver.decisions)),
    )
    return AdaptedRun(report, outcomes, driver.beats, driver.decisions)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _changes(decision: Decision) -> bool:
    return decision.loads + decision.activates + decision.parks + decision.stops > 0
