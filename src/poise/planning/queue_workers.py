"""E2 on several workers: one point for each job, each job in turn on the worker that is free first.

The relaxation pools the workers: the first *j* jobs take at most ``Σ_w (d_j − R_w)`` of all workers' time. Its
prices rank the states of a beam that runs through the jobs in order; a state is when each worker is free, and the
value so far. No state is kept that could not be finished in time at the cheapest points, so every plan that comes
out holds every deadline. A heuristic: exact only while the states stay within the width.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import accumulate
from math import inf

from poise.planning.queue_accuracy import relax
from poise.planning.queue_job import HELD_S, FreeWorker, JobPoints, QueuedJob

STEPS_OF_FEW, STEPS_EACH = 24_000, 12
"""The states that a beam forms, about: the more for each job the fewer there are; and so many for each of many."""
FEW_JOBS = 12
MOST_SIMULATED = 3
"""With more than few jobs, so many states after each are tried out for whether they can be finished."""
MOST_OPTIONS = 16
"""A job is tried at no more of its points."""
SAME_S = 1e-9
"""States whose workers are free at the same nanoseconds are one."""

_Free = tuple[tuple[float, int], ...]
_State = tuple[float, float, float, _Free, int]
"""(rank, sum of the free times, value, when workers are free, trace)."""


def most_accurate_of_several(
    jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]
) -> tuple[list[int], float]:
    """Return a point for each job, and a bound: no choice of points has more value.

    At the cheapest points every deadline must hold.
    """
    if not jobs:
        return [], 0.0
    return _Beam(jobs, workers).run()


def pooled_room_s(jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]) -> list[float]:
    """Return the most that the first *j* jobs may take in all, on all workers. Units: profile seconds."""
    least_s = min(worker.overhead_s / worker.factor for worker in workers)
    latest_s = accumulate((job.deadline_s for job in jobs), max)
    return [
        sum(max(0.0, until_s - worker.free_s) / worker.factor for worker in workers) - count * least_s
        for count, until_s in enumerate(latest_s, 1)
    ]


class _Beam:
    """Used once."""

    def __init__(self, jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]) -> None:
        self._jobs = jobs
        self._workers = workers
        points = [job.points for job in jobs]
        relaxed = relax(points, pooled_room_s(jobs, workers))
        self._bound = relaxed.bound
        steps = max(STEPS_OF_FEW // max(len(jobs), FEW_JOBS), STEPS_EACH * len(jobs))
        self._options = _options(points, relaxed.vertices, relaxed.prices, max(2, steps // (4 * len(jobs))))
        self._width = max(2, steps // sum(map(len, self._options)))
        factor = sum(worker.factor for worker in workers) / len(workers)
        self._prices = [price / factor for price in (*relaxed.prices[1:], 0.0)]
        self._certain_s = self._certificates()
        self._trace: list[tuple[int, int]] = []

    def run(self) -> tuple[list[int], float]:
        free = tuple(sorted((worker.free_s, at) for at, worker in enumerate(self._workers)))
        states: list[_State] = [(0.0, sum(at_s for at_s, _ in free), 0.0, free, -1)]
        for at in range(len(self._jobs)):
            states = self._kept(at + 1, self._extended(at, states))
        if not states:  # only where the last float of a sum decides
            return [0] * len(self._jobs), self._bound
        _, _, _, _, last = max(states, key=lambda state: state[2])
        points: list[int] = []
        while last >= 0:
            last, point = self._trace[last]
            points.append(point)
        return points[::-1], self._bound

    def _extended(self, at: int, states: Sequence[_State]) -> list[tuple[_State, int]]:
        """Return every state after a job, with the point that leads there; ``_State`` still has its parent's trace."""
        job, options, price = self._jobs[at], self._options[at], self._prices[at]
        points, limit_s = job.points, job.deadline_s + HELD_S
        found: list[tuple[_State, int]] = []
        for _, total_s, value, free, last in states:
            start_s, who = free[0]
            worker, rest = self._workers[who], free[1:]
            tried = -1
            for option in options:
                point = option
                done_s = worker.finish_s(start_s, points.latency_s[point])
                late = done_s > limit_s
                if late:
                    # The most that fits may lie between two options.
                    room_s = (limit_s - start_s - worker.overhead_s) / worker.factor
                    point = bisect_right(points.latency_s, room_s) - 1
                    if point <= tried:
                        break
                    done_s = worker.finish_s(start_s, points.latency_s[point])
                    if done_s > limit_s:
                        break
                after_s = total_s - start_s + done_s
                worth = value + points.value[point]
                after = [*rest]
                insort(after, (done_s, who))
                found.append(((price * after_s - worth, after_s, worth, tuple(after), last), point))
                if late:
                    break
                tried = point
        return found

    def _kept(self, at: int, found: list[tuple[_State, int]]) -> list[_State]:
        """Return the best of the states before job ``at`` from which all deadlines can be held, each once."""
        found.sort(key=lambda pair: pair[0][0])
        kept: list[_State] = []
        seen: set[tuple[int, ...]] = set()
        simulated, most = 0, MOST_SIMULATED if len(self._jobs) > FEW_JOBS else self._width
        for (rank, total_s, value, free, last), point in found:
            if total_s > self._certain_s[at]:
                if kept and simulated >= most:
                    continue
                simulated += 1
                if not self._can_finish(at, free, total_s):
                    continue
            key = tuple([round(at_s / SAME_S) for at_s, _ in free])
            if key in seen:
                continue  # found is sorted by rank: the one seen has at least its value
            seen.add(key)
            kept.append((rank, total_s, value, free, len(self._trace)))
            self._trace.append((last, point))
            if len(kept) == self._width:
                break
        return kept

    def _certificates(self) -> list[float]:
        """Return, before each job, a sum of free times up to which all deadlines hold at the cheapest points.

        A job starts no later than the mean of the free times before it.
        """
        factor = max(worker.factor for worker in self._workers)
        overhead_s = max(worker.overhead_s for worker in self._workers)
        found = [inf]
        for job in reversed(self._jobs):
            most_s = job.points.latency_s[0] * factor + overhead_s
            found.append(min(len(self._workers) * (job.deadline_s - most_s), found[-1] - most_s))
        return found[::-1]

    def _can_finish(self, at: int, free: _Free, total_s: float) -> bool:
        waiting = list(free)
        for job, certain_s in zip(self._jobs[at:], self._certain_s[at:], strict=False):
            if total_s <= certain_s:
                return True
            start_s, who = waiting.pop(0)
            done_s = self._workers[who].finish_s(start_s, job.points.latency_s[0])
            if done_s > job.deadline_s + HELD_S:
                return False
            insort(waiting, (done_s, who))
            total_s += done_s - start_s
        return True


def _options(
    jobs: Sequence[JobPoints], vertices: Sequence[int], prices: Sequence[float], most: int
) -> list[list[int]]:
    """Return the points at which each job is tried: those of least loss at its price, and the cheapest."""
    known: dict[tuple[int, int, float], list[int]] = {}
    found: list[list[int]] = []
    most = min(most, MOST_OPTIONS)
    for job, vertex, price in zip(jobs, vertices, prices, strict=True):
        key = (id(job), vertex, price)
        points = known.get(key)
        if points is None:
            points = list(range(len(job)))
            if len(points) > most:
                low, high = max(0, vertex - 1), min(len(job.hull) - 1, vertex + 1)
                near = range(job.hull[low], job.hull[high] + 1)
                near_best = sorted(near, key=lambda p: price * job.latency_s[p] - job.value[p])
                points = sorted({0, *near_best[: most - 1]})
            known[key] = points
        found.append(points)
    return found
