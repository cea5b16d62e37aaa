"""Exact answers to E2 for small queues: what its planners are held against in tests and benchmarks."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

from poise.planning.queue_job import HELD_S, FreeWorker, QueuedJob, all_held

MOST_PLACED = 20_000
"""States of ``best_value_of_several`` beyond which it gives up."""


def enumerated_value(jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]) -> float | None:
    """Return the most value of any choice of points that holds every deadline, by trying all; None if none does."""
    best: float | None = None
    for points in product(*(range(len(job.points)) for job in jobs)):
        value = sum(job.points.value[p] for job, p in zip(jobs, points, strict=True))
        if (best is None or value > best) and all_held(
            jobs, [job.points.latency_s[p] for job, p in zip(jobs, points, strict=True)], workers
        ):
            best = value
    return best


def best_value(jobs: Sequence[QueuedJob], worker: FreeWorker) -> float | None:
    """Return the most value on one worker, or None, by dynamic programming over all states.

    A state is (finish, value); one is dropped only if another is no later and worth no less.
    """
    done_s, value = np.array([worker.free_s]), np.zeros(1)
    for job in jobs:
        each_s = np.asarray(job.points.latency_s) * worker.factor + worker.overhead_s
        after_s = (done_s[:, None] + each_s).ravel()
        worth = (value[:, None] + np.asarray(job.points.value)).ravel()
        held = after_s <= job.deadline_s + HELD_S
        after_s, worth = after_s[held], worth[held]
        order = np.lexsort((-worth, after_s))
        most = np.maximum.accumulate(np.concatenate(([-np.inf], worth[order][:-1])))
        order = order[worth[order] > most]
        done_s, value = after_s[order], worth[order]
    return float(value.max()) if len(value) else None


def best_value_of_several(jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]) -> float | None:
    """Return the most value on workers alike, or None where no choice holds, by dynamic programming.

    A state is (sorted free times, value). One whose free times are all no later and whose value is no less leads
    to no worse a plan, since on workers alike an earlier start makes no job later.

    Raises:
        ValueError: workers that differ, or more than ``MOST_PLACED`` states.
    """
    if len({(worker.factor, worker.overhead_s) for worker in workers}) > 1:
        raise ValueError("got workers that differ, expected workers alike")
    states: dict[tuple[float, ...], float] = {tuple(sorted(worker.free_s for worker in workers)): 0.0}
    for job in jobs:
        grown: dict[tuple[float, ...], float] = {}
        for free, value in states.items():
            for latency_s, gain in zip(job.points.latency_s, job.points.value, strict=True):
                done_s = workers[0].finish_s(free[0], latency_s)
                if done_s > job.deadline_s + HELD_S:
                    break
                after = list(free[1:])
                insort(after, done_s)
                key = tuple(after)
                grown[key] = max(grown.get(key, -np.inf), value + gain)
        states = _undominated(grown)
        if len(states) > MOST_PLACED:
            raise ValueError(f"got {len(states)} states, expected at most {MOST_PLACED}")
    return max(states.values(), default=None)


def _undominated(states: dict[tuple[float, ...], float]) -> dict[tuple[float, ...], float]:
    ordered = sorted(states.items(), key=lambda pair: -pair[1])
    times = np.array([free for free, _ in ordered])
    kept: list[int] = []
    for at in range(len(ordered)):
        if not kept or not (times[kept] <= times[at]).all(axis=1).any():
            kept.append(at)
    return dict(ordered[at] for at in kept)


def most_weight_in_time(jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]) -> float:
    """Return the largest weight of jobs in time at their cheapest points, by trying every subset."""
    best = 0.0
    for count in range(1, len(jobs) + 1):
        for subset in combinations(jobs, count):
            weight = sum(job.weight for job in subset)
            if weight > best and all_held(subset, [job.points.latency_s[0] for job in subset], workers):
                best = weight
    return best
