"""What the scheduler costs: for each job, for each decision, with a deep queue; and what its frontiers cost."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterator, Sequence
from time import perf_counter

import msgspec
import numpy as np

from poise.cli.demo import FLOOR_OF_RANGE
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.planning.frontier import frontiers
from poise.scheduling.commands import Command, RunBatch
from poise.scheduling.events import Event
from poise.scheduling.scheduler import Scheduler
from poise.simulation.simulate import simulate

from .bench import Bench
from .collector import collector_as_served
from .deep_queue import decisions_with_queue
from .emulated import emulated
from .grid import Grid
from .simulated import POLICIES, draw_poisson, median_capacity
from .spread import Spread, spread_of
from .stage_curves import models

FULL_BATCH = 8
BATCH_S, ITEM_S = 2e-3, 0.1e-3
"""A made-up variant to which batches are worth much: a batch costs 2 ms, an item and modality 0.1 ms."""
FACTORS = (0.1, 1.0)
"""Loads on the example, as multiples of the policy's capacity."""
FULL_FACTORS = (0.3, 0.5, 0.7, 0.9)
"""Loads on the made-up service, as multiples of what it carries when every item uses every modality; tried until
batches hold ``FULL_BATCH`` items on average."""
QUEUED = 1000


class Times(msgspec.Struct, frozen=True):
    """Of some calls. Units: seconds."""

    count: int
    p50_s: float
    p99_s: float
    p999_s: float
    worst_s: float


class Steady(msgspec.Struct, frozen=True):
    """A simulated run with the scheduler timed. Units: jobs/s, seconds.

    ``job_s``: all its calls over all jobs, by repeat; ``decision``: the calls that gave a batch, of all repeats.
    """

    policy: str
    service: str
    load_rps: float
    mean_batch: float
    jobs: int
    job_s: Spread
    decision: Times


class Deep(msgspec.Struct, frozen=True):
    """Decisions with ``queued`` jobs waiting, and the arrivals between them."""

    policy: str
    queued: int
    decision: Times
    arrival: Times


class Table(msgspec.Struct, frozen=True):
    """E1: the frontiers of all batch sizes. Units: seconds."""

    layout: str
    sets: int
    max_batch: int
    points: int
    took_s: Spread


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    steady: list[Steady]
    deep: list[Deep]
    tables: list[Table]


class Timed:
    """A scheduler whose calls are timed; takes its place in a simulation."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._handle = scheduler.handle
        self.total_s = 0.0
        self.decision_s = array("d")
        self.items = 0

    def handle(self, event: Event) -> Sequence[Command]:
        """Pass an event on."""
        start = perf_counter()
        commands = self._handle(event)
        took_s = perf_counter() - start
        self.total_s += took_s
        batches = [command for command in commands if isinstance(command, RunBatch)]
        if batches:
            self.decision_s.append(took_s)
            self.items += sum(part.items for batch in batches for part in batch.parts)
        return commands


def measure(bench: Bench) -> Result:
    """Run everything in this process, with the collector set as the server sets it."""
    with collector_as_served():
        steady = []
        for policy in POLICIES:
            capacity = median_capacity(bench, policy)
            example = _Case(bench.service.service, bench.service, bench.profile, bench.floor)
            steady += [_steady(bench, example, policy, factor * capacity) for factor in FACTORS]
            for factor in FULL_FACTORS:
                found = _steady(bench, _made_up(bench), policy, factor * _made_up_rps(bench))
                if found.mean_batch >= FULL_BATCH:
                    break
            steady.append(found)
            bench.say(f"scheduler: {policy} in steady state")
        deep = []
        for policy in POLICIES:
            count = int(bench.options.pick(5000, 500))
            decision_s, arrival_s = decisions_with_queue(bench, policy, queued=QUEUED, decisions=count)
            deep.append(Deep(policy, QUEUED, _times(decision_s), _times(arrival_s)))
            bench.say(f"scheduler: {policy} with {QUEUED:,} jobs queued")
        tables = list(_tables(bench))
    return Result(steady=steady, deep=deep, tables=tables)


class _Case(msgspec.Struct, frozen=True):
    name: str
    service: Service
    profile: Profile
    floor: float


def _made_up(bench: Bench) -> _Case:
    service, profile = emulated(bench.service, batch_s=BATCH_S, item_s=ITEM_S)
    accuracies = [mode.accuracy for mode in profile.variants[0].modes]
    low, high = min(accuracies), max(accuracies)
    return _Case("made up", service, profile, round(low + FLOOR_OF_RANGE * (high - low), 3))


def _made_up_rps(bench: Bench) -> float:
    batch = bench.service.scheduler.max_batch
    return batch / (BATCH_S + batch * len(bench.service.modalities) * ITEM_S)


def _steady(bench: Bench, case: _Case, policy: str, load: float) -> Steady:
    """Simulate a load once for each seed."""
    duration_s = bench.options.pick(10_000, 2_000) / load
    decision_s = array("d")
    each_s: list[float] = []
    items = count = 0
    for seed in bench.seeds:
        jobs = draw_poisson(case.service, load, duration_s, seed, case.floor)
        timed = Timed(Scheduler(case.service, case.profile, policy))
        simulate(case.service, case.profile, jobs, duration_s=duration_s, seed=seed, scheduler=timed)
        decision_s.extend(timed.decision_s)
        each_s.append(timed.total_s / len(jobs))
        items += timed.items
        count += len(jobs)
    return Steady(
        policy=policy,
        service=case.name,
        load_rps=load,
        mean_batch=items / len(decision_s),
        jobs=count,
        job_s=spread_of(each_s),
        decision=_times(decision_s),
    )


def _times(values_s: Sequence[float]) -> Times:
    found = np.asarray(values_s)
    p50, p99, p999 = np.quantile(found, [0.5, 0.99, 0.999], method="inverted_cdf").tolist()
    return Times(len(found), p50, p99, p999, float(found.max()))


def _tables(bench: Bench) -> Iterator[Table]:
    for layout, model in models(bench):
        took_s = []
        for _ in range(bench.options.repeats):
            start = perf_counter()
            found = frontiers(model)
            took_s.append(perf_counter() - start)
        points = sum(len(frontier) for frontier in found)
        yield Table(layout, len(model.sets), model.max_batch, points, spread_of(took_s))
        bench.say(f"frontiers, {layout}, {len(model.sets)} sets: {statistics.median(took_s):.3f} s")


def grids(result: Result) -> Iterator[Grid]:
    """Yield one table for each of the three questions."""
    yield Grid(
        "The scheduler in steady state, simulated",
        ["service", "policy", "jobs/s", "mean batch", "µs a job", *_TIMES],
        [
            [
                s.service,
                s.policy,
                f"{s.load_rps:.0f}",
                f"{s.mean_batch:.1f}",
                s.job_s.text(".1f", 1e6),
                *_cells(s.decision),
            ]
            for s in result.steady
        ],
        note="A job's cost: all calls of the scheduler, over all jobs. A decision: a call that gives a batch. "
        "The made-up service gains much from batches; the example is at a tenth of capacity, and at capacity.",
    )
    yield Grid(
        f"One call with {result.deep[0].queued:,} jobs queued",
        ["policy", "call", "calls", *_TIMES],
        [
            [d.policy, name, f"{times.count:,}", *_cells(times)]
            for d in result.deep
            for name, times in (("decision", d.decision), ("arrival", d.arrival))
        ],
    )
    yield Grid(
        "The whole table of frontiers",
        ["layout", "modality sets", "batch sizes", "points", "seconds"],
        [
            [t.layout, f"{t.sets}", f"{t.max_batch}", f"{t.points:,}", t.took_s.text(".3f")]
            for t in result.tables
        ],
    )


_TIMES = ["p50 µs", "p99 µs", "p99.9 µs", "worst µs"]


def _cells(times: Times) -> list[str]:
    return [f"{value * 1e6:.0f}" for value in (times.p50_s, times.p99_s, times.p999_s, times.worst_s)]
