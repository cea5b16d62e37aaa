"""Jobs of a queue as E2 plans them: their points, the workers that will be free, and the plan."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from itertools import pairwise

import msgspec

HELD_S = 1e-9
"""A finish at most this long after its deadline is in time: finishes are sums of floats. Units: seconds."""


class JobPoints:
    """The points that a job may be answered at: its frontier at or above its floor. Made once, shared by jobs alike.

    Shapes: ``latency_s[p]`` and ``value[p]`` (accuracy times items) of point *p*, both rising. ``hull[v]`` is
    the point of vertex *v* of their upper concave hull, ``extra_s[v]`` its latency above the cheapest point's.
    ``steps[v]`` leads from vertex *v* to the next: (slope in value per second, seconds, value). Units: profile
    seconds.

    Raises:
        ValueError: no points, or latencies or values that do not rise or are not finite.
    """

    __slots__ = ("extra_s", "hull", "latency_s", "steps", "value")

    def __init__(self, latency_s: Sequence[float], value: Sequence[float]) -> None:
        self.latency_s = list(latency_s)
        self.value = list(value)
        if not self.latency_s or len(self.latency_s) != len(self.value):
            raise ValueError(
                f"got {len(self.latency_s)} latencies and {len(self.value)} values, expected as many, at least one"
            )
        if not all(map(math.isfinite, (*self.latency_s, *self.value))) or self.latency_s[0] < 0:
            raise ValueError("got latencies or values that are negative or not finite")
        for name, numbers in (("latencies", self.latency_s), ("values", self.value)):
            if any(after <= before for before, after in pairwise(numbers)):
                raise ValueError(f"got {name} that do not rise")
        self.hull = _upper_hull(self.latency_s, self.value)
        self.extra_s = [self.latency_s[p] - self.latency_s[0] for p in self.hull]
        self.steps = [
            (
                (self.value[q] - self.value[p]) / (self.latency_s[q] - self.latency_s[p]),
                self.latency_s[q] - self.latency_s[p],
                self.value[q] - self.value[p],
            )
            for p, q in pairwise(self.hull)
        ]

    def __len__(self) -> int:
        return len(self.latency_s)


def _upper_hull(latency_s: Sequence[float], value: Sequence[float]) -> list[int]:
    """Return the vertices of the upper concave hull, from the cheapest point to the most accurate."""
    hull = [0]
    for point in range(1, len(latency_s)):
        while len(hull) > 1:
            first, second = hull[-2], hull[-1]
            rise = (value[second] - value[first]) * (latency_s[point] - latency_s[first])
            if rise > (value[point] - value[first]) * (latency_s[second] - latency_s[first]):
                break
            hull.pop()
        hull.append(point)
    return hull


class QueuedJob(msgspec.Struct, frozen=True):
    """A job of the queue. Units: ``deadline_s`` in seconds, on the clock of ``FreeWorker.free_s``."""

    points: JobPoints
    deadline_s: float
    weight: float = 1.0


class FreeWorker(msgspec.Struct, frozen=True):
    """When a worker is free, and how long it really takes: ``factor`` times profile seconds plus ``overhead_s``."""

    free_s: float
    factor: float = 1.0
    overhead_s: float = 0.0

    def finish_s(self, start_s: float, latency_s: float) -> float:
        """Return when a job that starts then is done."""
        return start_s + latency_s * self.factor + self.overhead_s


class QueuePlan(msgspec.Struct, frozen=True):
    """A plan of the queue.

    Shapes: ``points[j]`` is job *j*'s point, None where it is refused. ``value`` is Σ accuracy·items of the kept
    jobs, ``bound`` what no plan of them exceeds. ``virtual_kept``: how many virtual jobs limited the spending.
    """

    points: tuple[int | None, ...]
    value: float
    bound: float
    virtual_kept: int = 0

    @property
    def refused(self) -> tuple[int, ...]:
        """The positions of the refused jobs."""
        return tuple(at for at, point in enumerate(self.points) if point is None)

    @property
    def kept(self) -> tuple[int, ...]:
        """The positions of the kept jobs."""
        return tuple(at for at, point in enumerate(self.points) if point is not None)


def finishes_s(latency_s: Sequence[float], workers: Sequence[FreeWorker]) -> list[float]:
    """Return when each job is done, each placed in turn on the worker that is free first. Units: seconds."""
    if len(workers) == 1:
        (worker,) = workers
        now_s, found = worker.free_s, []
        for each_s in latency_s:
            now_s = worker.finish_s(now_s, each_s)
            found.append(now_s)
        return found
    free = sorted((worker.free_s, at) for at, worker in enumerate(workers))
    found = []
    for each_s in latency_s:
        start_s, at = free.pop(0)
        done_s = workers[at].finish_s(start_s, each_s)
        insort(free, (done_s, at))
        found.append(done_s)
    return found


def all_held(jobs: Sequence[QueuedJob], latency_s: Sequence[float], workers: Sequence[FreeWorker]) -> bool:
    """Whether every job is done by its deadline."""
    done = finishes_s(latency_s, workers)
    return all(at_s <= job.deadline_s + HELD_S for at_s, job in zip(done, jobs, strict=True))
