"""E2 on one worker: one point for each job, for the most accuracy with each deadline held.

The problem: maximise ``Σ_j value_j(p_j)`` subject to ``Σ_{i≤j} latency_i(p_i) ≤ room_j`` for every *j*: a
multiple-choice knapsack with nested budgets. Source: MOSEL (EMNLP 2024), step 3, which holds one sum only.

Three steps. (1) Its relaxation over the concave hulls of the jobs' points is solved exactly by a heap: jobs are
taken in order with all their steps, and where a budget is exceeded the steps of least slope are given back, the
last one in part. That yields a bound, a plan (the given-back steps rounded down) and for each job the price of
time. (2) What the rounding left over is filled, latest job first. (3) What is left of the gap is searched: a
point whose loss at the prices exceeds the gap is in no better plan, so few jobs have a choice left (the core). A
dynamic programme over (time, value) runs through them, where a state is dropped once its loss exceeds the gap,
or once the jobs to come cannot use the time that it leaves. It is exact while its states stay within the width;
beyond, those of least loss go on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf

import msgspec

from poise.planning.queue_job import JobPoints

ROOM_S = 1e-10
"""By how much sums may exceed a budget: far less than ``HELD_S``. Units: seconds."""
CLOSE = 5e-7
"""A plan this close to the bound is not improved; a share of the bound, for each job."""
STEPS_AT_LEAST, STEPS_EACH = 2400, 10
"""The most states that one search forms: at least so many, and so many for each job."""
MANY_JOBS = 100
"""Beyond, one narrow search instead of a narrow and a wide one."""
ANY = 1 << 30

_State = tuple[float, float, int]


class Relaxation(msgspec.Struct, frozen=True):
    """The relaxation over concave hulls, solved.

    Shapes: by job. ``slack_s`` is the time above the cheapest plans that the first *j* jobs may use, budgets of
    later jobs included; ``vertices`` the last hull vertex that is fully used; ``prices`` the value of a second
    of job *j*'s time, falling. ``bound`` is its optimum.
    """

    slack_s: list[float]
    vertices: list[int]
    prices: list[float]
    bound: float


def relax(jobs: Sequence[JobPoints], room_s: Sequence[float]) -> Relaxation:
    """Solve the relaxation. The cheapest plans must be within the budgets."""
    slack_s = _slack_s(jobs, room_s)
    heap: list[tuple[float, int, int, float]] = []
    used_s, bound = 0.0, sum(job.value[0] for job in jobs)
    vertices: list[int] = []
    prices = [0.0] * len(jobs)
    for at, job in enumerate(jobs):
        for vertex, (slope, step_s, gain) in enumerate(job.steps):
            heappush(heap, (slope, at, vertex, step_s))
            used_s += step_s
            bound += gain
        vertices.append(len(job.steps))
        limit_s = slack_s[at] + ROOM_S
        while used_s > limit_s and heap:
            slope, owner, vertex, step_s = heappop(heap)
            vertices[owner] = vertex
            prices[at] = slope
            used_s -= step_s
            bound -= slope * step_s
            if used_s < limit_s - 2 * ROOM_S:
                part_s = limit_s - used_s
                heappush(heap, (slope, owner, vertex, part_s))
                used_s = limit_s
                bound += slope * part_s
                break
    for at in range(len(jobs) - 2, -1, -1):
        prices[at] = max(prices[at], prices[at + 1])
    return Relaxation(slack_s, vertices, prices, bound)


def _slack_s(jobs: Sequence[JobPoints], room_s: Sequence[float]) -> list[float]:
    found, cheapest_s = [], 0.0
    for job, limit_s in zip(jobs, room_s, strict=True):
        cheapest_s += job.latency_s[0]
        found.append(max(0.0, limit_s - cheapest_s))
    for at in range(len(found) - 2, -1, -1):
        found[at] = min(found[at], found[at + 1])
    return found


def most_accurate(jobs: Sequence[JobPoints], room_s: Sequence[float]) -> tuple[list[int], float]:
    """Return a point for each job, and the bound: no choice of points has more value.

    Shapes: ``room_s[j]`` is the most that the first *j* jobs may take in all. Units: profile seconds.
    """
    if not jobs:
        return [], 0.0
    found = relax(jobs, room_s)
    search = _Search(jobs, found)
    if search.gap > search.close:
        search.fill()
    steps = max(STEPS_AT_LEAST, STEPS_EACH * len(jobs))
    if search.gap > search.close:
        used = search.improve(steps if len(jobs) > MANY_JOBS else steps // 4, most=4, widest=8)
        if search.gap > search.close and len(jobs) <= MANY_JOBS:
            search.improve(steps - used, most=ANY, widest=ANY)
    return search.best, found.bound


class _Stage(msgspec.Struct):
    """A job with a choice. Deviations from the rounded plan: ``options`` are (seconds, value, point).

    A state goes on if its deviation is at most ``room_s`` and ``value − price·deviation > threshold``, less
    ``unused_price`` for each second that it lies below ``low_s``: time that no later job can use.
    """

    job: int
    options: list[tuple[float, float, int]]
    room_s: float = 0.0
    price: float = 0.0
    threshold: float = 0.0
    low_s: float = -inf
    unused_price: float = 0.0


class _Search:
    """The best plan so far, and what is needed to better it. Used once."""

    def __init__(self, jobs: Sequence[JobPoints], relaxed: Relaxation) -> None:
        self.jobs = jobs
        self._relaxed = relaxed
        self._base = [job.hull[vertex] for job, vertex in zip(jobs, relaxed.vertices, strict=True)]
        self._base_value = 0.0
        self._left_s: list[float] = []
        used_s = 0.0
        for job, vertex, slack_s in zip(jobs, relaxed.vertices, relaxed.slack_s, strict=True):
            used_s += job.extra_s[vertex]
            self._left_s.append(slack_s - used_s)
            self._base_value += job.value[job.hull[vertex]]
        self.best = list(self._base)
        self.value = self._base_value
        self.close = CLOSE * len(jobs) * abs(relaxed.bound)

    @property
    def gap(self) -> float:
        """How much value a better plan could add at most."""
        return self._relaxed.bound - self.value

    def fill(self) -> None:
        """Raise jobs within the time that the rounding left, latest first: it is shared by the fewest."""
        room_s = inf
        for at in range(len(self.jobs) - 1, -1, -1):
            room_s = min(room_s, self._left_s[at])
            job, point = self.jobs[at], self.best[at]
            now_s = job.latency_s[point]
            higher = bisect_right(job.latency_s, now_s + room_s + ROOM_S) - 1
            if higher > point:
                room_s -= job.latency_s[higher] - now_s
                self.value += job.value[higher] - job.value[point]
                self.best[at] = higher

    def improve(self, steps: int, *, most: int, widest: int) -> int:
        """Search the core with at most about so many states, ``most`` options a job; return how many there were."""
        core = self._core()
        if not core:
            return 0
        most = min(most, max(2, steps // (4 * len(core))))
        count = 0
        for stage in core:
            if len(stage.options) > most:
                price = self._relaxed.prices[stage.job]
                stage.options = sorted(sorted(stage.options, key=lambda o: price * o[0] - o[1])[:most])
            count += len(stage.options)
        self._fit(core)
        return self._run(core, min(widest, max(2, steps // count)))

    def _core(self) -> list[_Stage]:
        """Return the jobs that have more than one point whose loss at the prices is below the gap."""
        known: dict[tuple[int, int, float], list[tuple[float, float, int]]] = {}
        found: list[_Stage] = []
        gap = self.gap
        for at, (job, price) in enumerate(zip(self.jobs, self._relaxed.prices, strict=True)):
            if price <= 0.0:
                continue
            vertex = self._relaxed.vertices[at]
            key = (id(job), vertex, price)
            options = known.get(key)
            if options is None:
                options = known[key] = _options(job, vertex, price, gap)
            if len(options) > 1:
                found.append(_Stage(at, list(options)))
        return found

    def _fit(self, core: Sequence[_Stage]) -> None:
        """Work out the limits of each stage, from the last job back."""
        prices, left_s, jobs = self._relaxed.prices, self._left_s, len(self.jobs)
        need = self.value - self._base_value + 1e-12
        at, next_price, saved, room_s = jobs, 0.0, 0.0, inf
        unused_price, most_s, priced_left_s = 0.0, 0.0, -inf
        for stage in reversed(core):
            stage.price, stage.threshold = next_price, need - saved
            stage.low_s, stage.unused_price = priced_left_s - most_s, unused_price
            room_s = inf
            while at > stage.job:
                at -= 1
                room_s = min(room_s, left_s[at])
                drop = prices[at] - (prices[at + 1] if at + 1 < jobs else 0.0)
                if drop > 0.0:
                    saved += drop * left_s[at]
                    unused_price, most_s, priced_left_s = drop, 0.0, left_s[at]
            stage.room_s = room_s + ROOM_S
            next_price = prices[at]
            most_s += stage.options[-1][0]

    def _run(self, core: Sequence[_Stage], width: int) -> int:
        """Run the dynamic programme; take its plan if it is better. Returns how many states were formed."""
        trace: list[tuple[int, int]] = []
        states: list[_State] = [(0.0, 0.0, -1)]
        count = 0
        for stage in core:
            formed = _extended(states, stage)
            count += len(formed)
            states = []
            for time_s, minus, before, point in _thinned(formed, stage, width):
                states.append((time_s, minus, len(trace)))
                trace.append((before, point))
        if states:
            _, minus, last = min(states, key=lambda state: state[1])
            if self._base_value - minus > self.value:
                self.value = self._base_value - minus
                self.best = list(self._base)
                for stage in reversed(core):
                    last, self.best[stage.job] = trace[last]
        return count


def _options(job: JobPoints, vertex: int, price: float, gap: float) -> list[tuple[float, float, int]]:
    """Return (seconds, value, point) against a vertex, of points that lose less than the gap at a price."""
    latency_s, value, hull = job.latency_s, job.value, job.hull
    base = hull[vertex]
    least = value[base] - price * latency_s[base] - gap
    low = high = vertex
    while low > 0 and value[hull[low]] - price * latency_s[hull[low]] > least:
        low -= 1
    while high < len(hull) - 1 and value[hull[high]] - price * latency_s[hull[high]] > least:
        high += 1
    return [
        (latency_s[p] - latency_s[base], value[p] - value[base], p)
        for p in range(hull[low], hull[high] + 1)
        if value[p] - price * latency_s[p] > least
    ]


def _extended(states: Sequence[_State], stage: _Stage) -> list[tuple[float, float, int, int]]:
    """Return (time, minus value, state before, point) of every state that may still be part of a better plan."""
    formed: list[tuple[float, float, int, int]] = []
    add = formed.append
    room_s, price, threshold = stage.room_s, stage.price, stage.threshold
    low_s, unused_price, options = stage.low_s, stage.unused_price, stage.options
    for before_s, minus, last in states:
        for more_s, gain, point in options:
            time_s = before_s + more_s
            if time_s > room_s:
                break
            value = gain - minus
            worth = value - price * time_s
            if worth > threshold and (time_s >= low_s or worth - unused_price * (low_s - time_s) > threshold):
                add((time_s, -value, last, point))
    return formed


def _thinned(
    formed: list[tuple[float, float, int, int]], stage: _Stage, width: int
) -> list[tuple[float, float, int, int]]:
    """Return the states that no other beats in both time and value; of too many, those of least loss."""
    formed.sort()
    kept = []
    least = inf
    for state in formed:
        if state[1] < least - 1e-12:
            least = state[1]
            kept.append(state)
    if len(kept) > width:
        price, low_s, unused_price = stage.price, stage.low_s, stage.unused_price
        # Of equal losses the later time: it leaves less to be used up.
        kept.sort(
            key=lambda s: (
                s[1] + (price - 1e-9) * s[0]
                if s[0] >= low_s
                else s[1] + price * s[0] + unused_price * (low_s - s[0])
            )
        )
        del kept[width:]
    return kept
