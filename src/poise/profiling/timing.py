"""How long things take, in a way that comes out the same again: what to run in which order, and which runs count.

Rounds visit all calls in a shuffled order, so that a machine that drifts does so for all of them alike. A cheap call
is run once uncounted and then timed some times, since what other calls have left in the caches is what changes most
from one profile to the next; in a worker that costs some 10 µs a stage, which large batches do not notice and batches
of one do not have. A run that did not have its core to itself is not counted and is run again. Rounds go on until the
p95 of every call stands still, or the budget is spent. What was timed so far is complete after every round, so it may
be kept then and gone on with later.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from poise.domain.profile import LatencyPoint

WARM_UP_RUNS = 3
DEAR_S = 0.05
"""A call of more than this is warm after one run."""
BUSY_S = 0.5
REST_S = 0.04
"""The core is left to others for ``REST_S`` about every ``BUSY_S``: whoever keeps it to himself by priority has it
taken from him for 5 % of each second, in the middle of a run."""
LEAST_ROUNDS = 5
"""Rounds that are run whatever the budget."""
STABLE_ROUNDS = 100
"""Rounds before the p95 is believed to stand still."""
MOST_ROUNDS = 1_000
CHECK_EVERY = 10
STABLE_FRAC = 0.03
STABLE_S = 2e-6
"""A p95 stands still when the runs of the even rounds and those of the odd ones give it as close as either."""
CHEAP_S = 0.002
MOST_PASSES = 16
"""A call is timed as often at a visit as fits in ``CHEAP_S``, or in what a call takes on average if that is more, up
to this: a p99 wants hundreds of runs, and beside dear calls they cost nothing."""
RETRIES = 2
CONTAMINATED_FRAC = 0.25
"""A point of which more runs than this were disturbed, repetitions included, is marked as contaminated."""
SLACK_S = 20e-6
SLACK_FRAC = 0.05
"""A run whose wall time exceeds its CPU time by more than either was kept waiting."""


class Run(NamedTuple):
    """One timed run. Units: seconds."""

    wall_s: float
    disturbed: bool


class Stopwatch(Protocol):
    """What timing needs of the world."""

    def now_s(self) -> float:
        """Return the time on a clock that only runs forward."""

    def time(self, call: Callable[[], object]) -> Run:
        """Run something and say how long it took, and whether something else disturbed it."""

    def rest(self, seconds: float) -> None:
        """Leave the core to others."""


class CoreStopwatch:
    """Times runs on the calling thread, which is expected to be pinned to cores of its own.

    A run was disturbed if the thread was made to give up its core, or if it took longer on the wall than on the
    CPU. Where the call waits for other threads or processes, only the former tells.
    """

    def __init__(self, *, waits: bool = False) -> None:
        self._alone = not waits
        self._who = getattr(resource, "RUSAGE_THREAD" if self._alone else "RUSAGE_SELF")

    def now_s(self) -> float:
        """Return the monotonic clock."""
        return time.perf_counter()

    def rest(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def time(self, call: Callable[[], object]) -> Run:
        """Run something once; see ``Stopwatch``."""
        switches = resource.getrusage(self._who).ru_nivcsw
        cpu_start = time.thread_time_ns()
        start = time.perf_counter_ns()
        call()
        wall_s = (time.perf_counter_ns() - start) * 1e-9
        cpu_s = (time.thread_time_ns() - cpu_start) * 1e-9
        switched = resource.getrusage(self._who).ru_nivcsw != switches
        waited = self._alone and wall_s - cpu_s > max(SLACK_S, SLACK_FRAC * wall_s)
        return Run(wall_s, switched or waited)


class Timed(msgspec.Struct):
    """What a point's runs gave. Units: seconds. ``rounds[i]`` is the round of ``clean_s[i]``."""

    clean_s: list[float] = []
    rounds: list[int] = []
    disturbed_s: list[float] = []

    def is_stable(self) -> bool:
        """Return whether even and odd rounds agree on the p95."""
        times, rounds = np.array(self.clean_s), np.array(self.rounds)
        even, odd = times[rounds % 2 == 0], times[rounds % 2 == 1]
        if not len(even) or not len(odd):
            return False
        low, high = sorted((np.quantile(even, 0.95), np.quantile(odd, 0.95)))
        return bool(high - low <= max(STABLE_S, STABLE_FRAC * high))

    def summary(
        self, *, batch: int, threads: int, busy_cores: int, bucket: int | None = None
    ) -> LatencyPoint:
        """Return the point of a profile: of clean runs, or of all where too few were clean."""
        contaminated = len(self.disturbed_s) > CONTAMINATED_FRAC * (len(self.clean_s) + len(self.disturbed_s))
        times = self.clean_s if len(self.clean_s) >= LEAST_ROUNDS else [*self.clean_s, *self.disturbed_s]
        p50, p95, p99 = (round(float(q), 8) for q in np.quantile(times, (0.5, 0.95, 0.99)))
        return LatencyPoint(
            threads=threads,
            busy_cores=busy_cores,
            bucket=bucket,
            batch=batch,
            mean_s=round(float(np.mean(times)), 8),
            p50_s=p50,
            p95_s=p95,
            p99_s=p99,
            runs=len(times),
            contaminated=contaminated,
        )


class Timings(msgspec.Struct):
    """The results of timing some calls, complete to the end of a round; it may go on from there.

    ``results[i]`` is what call i gave; ``rounds`` of them are done and took ``spent_s`` seconds in all.
    """

    results: list[Timed] = []
    rounds: int = 0
    spent_s: float = 0.0

    def is_enough(self, budget_s: float) -> bool:
        """Return whether one more round is not wanted, or the budget does not hold it."""
        if self.rounds >= MOST_ROUNDS:
            return True
        if self.rounds < LEAST_ROUNDS:
            return False
        if self.spent_s + self.spent_s / self.rounds > budget_s:
            return True
        looks = self.rounds >= STABLE_ROUNDS and self.rounds % CHECK_EVERY == 0
        return looks and all(result.is_stable() for result in self.results)


def time_calls(
    calls: Sequence[Callable[[], object]],
    stopwatch: Stopwatch,
    *,
    budget_s: float,
    generator: np.random.Generator,
    timings: Timings | None = None,
    on_visit: Callable[[int | None], None] = lambda at: None,
    on_round: Callable[[float], None] = lambda done_frac: None,
) -> list[Timed]:
    """Time each call many times, interleaved; one result for each call.

    ``timings`` are those of an earlier, interrupted run, which count, as the time does that they took; they are added
    to. ``on_visit`` is told before a call's turn which one it is, and None before a rest and at the end. ``on_round``
    is told, after every round, when ``timings`` is complete, how much of the work is done, as a share.
    """
    timings = Timings() if timings is None else timings
    timings.results = timings.results or [Timed() for _ in calls]
    before_s, start = timings.spent_s, stopwatch.now_s()
    if timings.is_enough(budget_s):
        return timings.results
    pace = _Pace(stopwatch, on_visit)
    costs = [_warm_up(call, stopwatch, pace) for call in calls]
    room_s = max(CHEAP_S, sum(costs) / max(len(costs), 1))
    passes = [int(np.clip(room_s / max(cost, 1e-9), 1, MOST_PASSES)) for cost in costs]
    while not timings.is_enough(budget_s):
        for at in map(int, generator.permutation(len(calls))):
            visit = partial(pace.before, costs[at], at)
            visit()
            if passes[at] > 1:
                stopwatch.time(calls[at])
            for _ in range(passes[at]):
                _time_one(calls[at], timings.results[at], stopwatch, timings.rounds, visit)
        timings.rounds += 1
        timings.spent_s = before_s + stopwatch.now_s() - start
        done = max(timings.spent_s / budget_s if budget_s > 0 else 1.0, timings.rounds / MOST_ROUNDS)
        on_round(min(done, 1.0))
    on_visit(None)
    return timings.results


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of a measurement."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


class _Pace:
    """Leaves the core to others in time, and tells them whose turn it is."""

    def __init__(self, stopwatch: Stopwatch, on_visit: Callable[[int | None], None]) -> None:
        self._stopwatch = stopwatch
        self._on_visit = on_visit
        self._rested_s = stopwatch.now_s()
        self._at: int | None = None

    def before(self, cost_s: float, at: int | None = None) -> None:
        """Rest, if a run of this cost would keep the core for too long; then it is the turn of ``at``."""
        if self._stopwatch.now_s() - self._rested_s + cost_s > BUSY_S:
            self._at = None
            self._on_visit(None)
            self._stopwatch.rest(REST_S)
            self._rested_s = self._stopwatch.now_s()
        if at != self._at:
            self._at = at
            self._on_visit(at)


def _warm_up(call: Callable[[], object], stopwatch: Stopwatch, pace: _Pace) -> float:
    """Run a call a few times uncounted; return the least it took, in seconds."""
    pace.before(DEAR_S)
    least = stopwatch.time(call).wall_s
    for _ in range(WARM_UP_RUNS - 1):
        if least > DEAR_S:
            break
        least = min(least, stopwatch.time(call).wall_s)
    return least


def _time_one(
    call: Callable[[], object],
    result: Timed,
    stopwatch: Stopwatch,
    number: int,
    before: Callable[[], None],
) -> None:
    """Time a call once, and again while it is disturbed and may be repeated."""
    for _ in range(1 + RETRIES):
        before()
        run = stopwatch.time(call)
        if not run.disturbed:
            result.clean_s.append(run.wall_s)
            result.rounds.append(number)
            return
        result.disturbed_s.append(run.wall_s)
