"""How fast simulations run, and what bounds them: drawing jobs, the driver, the scheduler, the summary."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter, process_time
from types import MappingProxyType

import msgspec

from poise.domain.job import Job
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.scheduling.commands import Answer, AnswerPart, BatchPart, Command, RunBatch
from poise.scheduling.events import BatchDone, Event, JobArrived, WorkerReady
from poise.scheduling.scheduler import Scheduler
from poise.simulation.driver import EventHandler
from poise.simulation.simulate import simulate
from poise.workload import summarise

from .bench import Bench
from .emulated import NAME, emulated
from .grid import Grid
from .simulated import draw_poisson
from .spread import Spread, spread_of

BATCH_S, ITEM_S = 2e-3, 0.1e-3
"""A made-up variant to which batches are worth much: a batch costs 2 ms, an item and modality 0.1 ms."""
FLOOR = 0.944
"""Two thirds of the way from one modality's accuracy to that of three."""
ONE_BY_ONE = 0.02
"""A load at which jobs seldom meet, as a multiple of what the service carries with all modalities."""
LOADS = (0.3, 0.5, 0.7, 0.9)
"""Loads at which batches grow, likewise; the first at which they hold ``FULL_BATCH`` items on average."""
FULL_BATCH = 8
STAND_IN = "none"
"""In the place of a policy: no scheduler, but a queue in order of arrival, so that the rest can be seen."""
GOALS: Mapping[tuple[str, bool], float] = MappingProxyType(
    {("edf", True): 100_000, ("poise", True): 50_000, ("poise", False): 15_000}
)
"""(policy, full batches) -> jobs/s that are wanted."""


class Parts(msgspec.Struct, frozen=True):
    """Where the time of a run goes; each by repeat. Units: seconds of processor time a job.

    ``whole_s`` is the drawing of the jobs and the whole of ``simulate``; ``driver_s`` what is left of it by the
    others. The scheduler is timed by the clock on the wall, and given the same share of the processor's time.
    """

    whole_s: Spread
    draw_s: Spread
    driver_s: Spread
    scheduler_s: Spread
    summary_s: Spread


class Run(msgspec.Struct, frozen=True):
    """A policy on a service. Units: ``load_rps`` in virtual jobs/s, ``speed`` in jobs simulated in a second."""

    policy: str
    service: str
    load_rps: float
    jobs: int
    mean_batch: float
    speed: Spread
    parts: Parts


class Result(msgspec.Struct, frozen=True):
    """All of it."""

    runs: list[Run]


class InOrder:
    """A stand-in for the scheduler: whole jobs in order of arrival, with all modalities, in batches."""

    def __init__(self, variant: str, modalities: int, max_batch: int) -> None:
        self._variant, self._modalities, self._max_batch = variant, modalities, max_batch
        self._parts = (AnswerPart(0, 1, modalities, variant),)
        self._queue: deque[Job] = deque()
        self._idle: list[int] = []
        self._running: dict[int, list[Job]] = {}
        self._batches = 0

    def handle(self, event: Event) -> Sequence[Command]:
        """Take one event."""
        out: list[Command] = []
        if isinstance(event, JobArrived):
            self._queue.append(event.job)
        elif isinstance(event, BatchDone):
            self._idle.append(event.worker_id)
            out += [
                Answer(job.id, self._parts, 1.0, 0.0, 0.0, event.now_s > job.deadline_s)
                for job in self._running.pop(event.batch_id)
            ]
        elif isinstance(event, WorkerReady):
            self._idle.append(event.worker_id)
        while self._queue and self._idle:
            size = min(self._max_batch, len(self._queue))
            jobs = [self._queue.popleft() for _ in range(size)]
            self._batches += 1
            self._running[self._batches] = jobs
            parts = tuple(BatchPart(job.id, 0, 1, self._modalities) for job in jobs)
            out.append(RunBatch(self._batches, self._idle.pop(), self._variant, parts, 0.0))
        return out


class _Case(msgspec.Struct, frozen=True):
    name: str
    service: Service
    profile: Profile
    variant: str
    floor: float
    all_modalities_rps: float


def measure(bench: Bench) -> Result:
    """Simulate with each policy, and with none, at full batches and one by one."""
    service, profile = emulated(bench.service, batch_s=BATCH_S, item_s=ITEM_S)
    batch = service.scheduler.max_batch
    carried = batch / (BATCH_S + batch * len(service.modalities) * ITEM_S)
    made_up = _Case("made up", service, profile, NAME, FLOOR, carried)
    example = _Case(
        bench.service.service,
        bench.service,
        bench.profile,
        bench.variant,
        bench.floor,
        bench.all_modalities_rps,
    )
    runs = []
    for policy in (STAND_IN, "edf", "poise"):
        runs.append(_run(bench, made_up, policy, _full_load(made_up, policy)))
        runs += [
            _run(bench, case, policy, ONE_BY_ONE * case.all_modalities_rps) for case in (made_up, example)
        ]
        bench.say(f"simulator: {policy}")
    return Result(runs)


def _full_load(case: _Case, policy: str) -> float:
    """Return the lowest of ``LOADS`` with full batches, else the highest. Units: jobs/s."""
    for share in LOADS:
        load = share * case.all_modalities_rps
        if _mean_batch(case, policy, load, 2000) >= FULL_BATCH:
            break
    return load


def _scheduler(case: _Case, policy: str) -> Callable[[], EventHandler]:
    if policy == STAND_IN:
        every = case.service.modality_index.all
        return lambda: InOrder(case.variant, every, case.service.scheduler.max_batch)
    return lambda: Scheduler(case.service, case.profile, policy)


def _mean_batch(case: _Case, policy: str, load: float, jobs: int) -> float:
    """Count the items of batches, in a run that is not timed."""
    sizes: list[int] = []

    def count(_: Event, commands: Sequence[Command]) -> None:
        sizes.extend(sum(p.items for p in c.parts) for c in commands if isinstance(c, RunBatch))

    duration_s = jobs / load
    draws = draw_poisson(case.service, load, duration_s, 1, case.floor)
    scheduler = _scheduler(case, policy)()
    simulate(case.service, case.profile, draws, duration_s=duration_s, scheduler=scheduler, observe=count)
    return sum(sizes) / len(sizes)


def _run(bench: Bench, case: _Case, policy: str, load: float) -> Run:
    """Simulate a load once for each seed, timed."""
    duration_s = bench.options.pick(100_000 if policy == STAND_IN else 30_000, 5_000) / load
    times: list[tuple[float, float, float, float, float]] = []
    count = 0
    for seed in bench.seeds:
        scheduler = _scheduler(case, policy)()
        start = process_time()
        draws = draw_poisson(case.service, load, duration_s, seed, case.floor)
        drawn = process_time()
        on_wall = perf_counter()
        run = simulate(
            case.service, case.profile, draws, duration_s=duration_s, seed=seed, scheduler=scheduler
        )
        wall_s = perf_counter() - on_wall
        done = process_time()
        summarise(
            run.outcomes,
            duration_s,
            floor_scope=case.service.guarantee.scope,
            classes=tuple(case.service.classes),
        )
        summary_s = process_time() - done
        scheduler_s = run.report.decisions.total_s * (done - drawn) / wall_s
        driver_s = done - drawn - scheduler_s - summary_s
        parts = (done - start, drawn - start, driver_s, scheduler_s, summary_s)
        times.append(tuple(value / len(draws) for value in parts))  # type: ignore[arg-type]
        count += len(draws)
    whole, draw, driver, decided, summary = (spread_of(values) for values in zip(*times, strict=True))
    return Run(
        policy=policy,
        service=case.name,
        load_rps=load,
        jobs=count,
        mean_batch=_mean_batch(case, policy, load, 5000),
        speed=spread_of(1 / values[0] for values in times),
        parts=Parts(whole, draw, driver, decided, summary),
    )


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    yield Grid(
        "Jobs simulated in a second of one core",
        ["policy", "service", "mean batch", "jobs/s", "goal", *_PARTS],
        [
            [
                run.policy,
                run.service,
                f"{run.mean_batch:.1f}",
                run.speed.text(",.0f"),
                _goal(run),
                *(
                    spread.text(".2f", 1e6)
                    for spread in (
                        run.parts.draw_s,
                        run.parts.driver_s,
                        run.parts.scheduler_s,
                        run.parts.summary_s,
                    )
                ),
            ]
            for run in result.runs
        ],
        note=f"Jobs of one item. Policy {STAND_IN}: a queue in order of arrival in the scheduler's place. The "
        "scheduler's share holds the clock that takes it, some 0.05 µs an event.",
    )


_PARTS = ["draw, µs a job", "driver", "scheduler", "summary"]


def _goal(run: Run) -> str:
    goal = GOALS.get((run.policy, run.mean_batch >= FULL_BATCH))
    return "" if goal is None else f"{goal:,.0f}"
