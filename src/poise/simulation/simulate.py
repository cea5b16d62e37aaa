"""One simulated run: jobs in, report out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.random import SeedSequence

from poise.domain.job import Job
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.scheduling.scheduler import Scheduler
from poise.simulation.driver import Driver, EventHandler, Observer
from poise.simulation.faults import NO_FAULTS, Faults
from poise.simulation.service_times import ServiceTimes
from poise.simulation.workers import workers_of
from poise.workload.jobs import JobDraw
from poise.workload.outcomes import Outcomes
from poise.workload.summary import RunReport, summarise


class Decisions(msgspec.Struct, frozen=True):
    """What the scheduler's calls cost on the machine that simulated. Units: seconds of real time.

    ``total_s`` is what all of them took together.
    """

    count: int
    p50_s: float
    p99_s: float
    total_s: float


class SimulationReport(RunReport, frozen=True, kw_only=True):
    """The report of a simulated run; the JSON of ``poise simulate``. Fields are added, never renamed.

    ``decisions`` is what one event cost the scheduler; ``load`` the jobs per second that arrived; ``seed``
    that of the service times.
    """

    policy: str
    seed: int
    load: float
    decisions: Decisions


class SimulatedRun(msgspec.Struct, frozen=True):
    """A run: its report, and what became of each job, in the order in which they left."""

    report: SimulationReport
    outcomes: Outcomes


def simulate(
    service: Service,
    profile: Profile,
    draws: Iterable[JobDraw],
    *,
    duration_s: float,
    policy: str | None = None,
    seed: int = 1,
    faults: Faults = NO_FAULTS,
    front_end_s: float = 0.0,
    scheduler: EventHandler | None = None,
    observe: Observer | None = None,
) -> SimulatedRun:
    """Simulate a service under jobs, in order of arrival, that arrive over ``duration_s`` seconds.

    ``policy`` overrides the service file's; ``scheduler`` takes the place of poise's own. ``front_end_s``
    is what the front end needs for one job (see ``arrivals_of``). ``observe`` is shown every event with its
    commands. The same arguments give the same outcomes.

    Raises:
        ConfigError: an unknown policy, a variant that is not profiled as the workers run it, or a fault of a
            worker that there is not.
        InternalError: the scheduler asked for something impossible.
    """
    name = service.scheduler.policy if policy is None else policy
    index = service.modality_index
    # A child of the seed, so that service times do not repeat the numbers that drew the jobs.
    rng = np.random.default_rng(SeedSequence(seed, spawn_key=(1 << 16,)))
    driver = Driver(
        Scheduler(service, profile, name) if scheduler is None else scheduler,
        ServiceTimes(profile, index, rng, error_factor=faults.profile_error),
        workers_of(service, profile),
        index,
        faults=faults,
        observe=observe,
    )
    driver.run(arrivals_of(draws, service, front_end_s))
    scope = service.guarantee.scope
    outcomes = driver.outcomes
    summary = summarise(outcomes, duration_s, floor_scope=scope, classes=tuple(service.classes))
    report = SimulationReport(
        **{field: getattr(summary, field) for field in RunReport.__struct_fields__},
        policy=name,
        seed=seed,
        load=summary.offered_rps,
        decisions=decisions_of(driver.decision_s),
    )
    return SimulatedRun(report, outcomes)


def arrivals_of(
    draws: Iterable[JobDraw], service: Service, front_end_s: float = 0.0
) -> Iterator[tuple[float, Job]]:
    """Return (when the scheduler sees it, job) of each draw, in order.

    The job's number is its id; deadline and floor are the draw's, else the class's. A deadline beyond the
    class's SLO is cut to it, as a server does. Draws have no lengths: inputs with buckets are as long as the longest.
    The front end takes one job at a time and needs ``front_end_s`` seconds for each, during which its deadline runs
    already.
    """
    classes = {name: (slo.latency_slo_s, slo.accuracy_floor) for name, slo in service.classes.items()}
    longest = max(0, len(service.buckets_of(service.modalities)) - 1)
    free_s = 0.0
    for draw in draws:
        slo_s, floor = classes[draw.slo_class]
        arrival_s = draw.arrival_s
        deadline_s, own_floor = draw.deadline_s, draw.accuracy_floor
        job = Job(  # by position, which is what a million of them gain by
            draw.number,
            draw.slo_class,
            draw.items,
            arrival_s,
            arrival_s + (slo_s if deadline_s is None or deadline_s > slo_s else deadline_s),
            floor if own_floor is None else own_floor,
            draw.available,
            0,
            longest,
        )
        free_s = (arrival_s if arrival_s > free_s else free_s) + front_end_s
        yield free_s, job


def decisions_of(decision_s: Sequence[float]) -> Decisions:
    """Return what calls of the scheduler cost. Units: seconds."""
    if not decision_s:
        return Decisions(count=0, p50_s=0.0, p99_s=0.0, total_s=0.0)
    took_s = np.asarray(decision_s)
    p50_s, p99_s = np.quantile(took_s, [0.5, 0.99]).tolist()
    return Decisions(count=len(took_s), p50_s=p50_s, p99_s=p99_s, total_s=float(took_s.sum()))
