"""Which jobs of a queue are kept: the largest weight of jobs in time at their cheapest points.

One worker: Moore and Hodgson's rule (1968) where all weights are equal, which is exact. With weights the problem
is a knapsack. Where dropping one job is known to be best that is done; else a dynamic programme over (time,
weight) is run, exact while it has at most ``MOST_STATES`` states, as it does with a few different weights.
Several workers: the rule with list scheduling, where the job with the most time for its weight is dropped and
dropped ones are tried again, or the heaviest jobs added first, whichever keeps more; a heuristic. A queue that can
be held is always kept whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from poise.planning.queue_job import HELD_S, FreeWorker, QueuedJob, finishes_s

MOST_STATES = 4096
_Floats = NDArray[np.float64]


def kept_jobs(
    jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker], droppable: Sequence[bool] | None = None
) -> list[bool]:
    """Return for each job, in deadline order, whether it is kept.

    ``droppable``: which may be dropped at all (default: all); the others alone must be in time, else they are
    kept late.
    """
    may_go = list(droppable) if droppable is not None else [True] * len(jobs)
    late = _first_late(jobs, workers)
    if late is None:
        return [True] * len(jobs)
    if len(workers) > 1:
        return _of_several(jobs, workers, may_go)
    cost_s = [_real_s(workers[0], job.points.latency_s[0]) for job in jobs]
    room_s = [job.deadline_s - workers[0].free_s + HELD_S for job in jobs]
    weights = [job.weight if free else 0.0 for job, free in zip(jobs, may_go, strict=True)]
    if all(may_go):
        one = _one_dropped(cost_s, room_s, weights, late)
        if one is not None:
            return [at != one for at in range(len(jobs))]
        if min(weights) < max(weights):
            return _weighted(cost_s, room_s, weights)
    return _by_rule(cost_s, room_s, may_go)


def _real_s(worker: FreeWorker, latency_s: float) -> float:
    """Return how long a worker really takes for a latency of the profile. Units: seconds."""
    return worker.finish_s(0.0, latency_s)


def _first_late(jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]) -> int | None:
    done = finishes_s([job.points.latency_s[0] for job in jobs], workers)
    for at, (done_s, job) in enumerate(zip(done, jobs, strict=True)):
        if done_s > job.deadline_s + HELD_S:
            return at
    return None


def _by_rule(cost_s: Sequence[float], room_s: Sequence[float], may_go: Sequence[bool]) -> list[bool]:
    """Moore and Hodgson's rule: whenever a job is late, the longest so far goes."""
    kept = [True] * len(cost_s)
    longest: list[tuple[float, int]] = []
    used_s = 0.0
    for at, each_s in enumerate(cost_s):
        used_s += each_s
        if may_go[at]:
            heappush(longest, (-each_s, -at))
        while used_s > room_s[at] and longest:
            minus_s, minus_at = heappop(longest)
            used_s += minus_s
            kept[-minus_at] = False
    return kept


def _one_dropped(
    cost_s: Sequence[float], room_s: Sequence[float], weights: Sequence[float], late: int
) -> int | None:
    """Return the one job to drop where that is surely best: two would weigh at least as much.

    A job up to the first late one must go in any case. Of equal weights the longest goes.
    """
    used_s = worst_s = 0.0
    for each_s, limit_s in zip(cost_s, room_s, strict=True):
        used_s += each_s
        worst_s = max(worst_s, used_s - limit_s)
    enough = [at for at in range(late + 1) if cost_s[at] >= worst_s]
    if not enough:
        return None
    found = min(enough, key=lambda at: (weights[at], -cost_s[at]))
    return found if weights[found] <= 2 * min(weights[: late + 1]) else None


def _weighted(cost_s: Sequence[float], room_s: Sequence[float], weights: Sequence[float]) -> list[bool]:
    """The dynamic programme: the states after *j* jobs are (time, weight) pairs that no other beats in both."""
    time_s, weight = np.zeros(1), np.zeros(1)
    before: list[tuple[NDArray[np.intp], int]] = []
    for each_s, limit_s, each in zip(cost_s, room_s, weights, strict=True):
        grown_s = time_s + each_s
        fits = int(np.searchsorted(grown_s, limit_s, side="right"))
        size = len(time_s)
        both_s = np.concatenate((time_s, grown_s[:fits]))
        both = np.concatenate((weight, weight[:fits] + each))
        chosen = _non_dominated(both_s, both)
        time_s, weight = both_s[chosen], both[chosen]
        before.append((chosen, size))
    state = len(time_s) - 1
    kept: list[bool] = []
    for chosen, size in reversed(before):
        at = int(chosen[state])
        kept.append(at >= size)
        state = at - size if at >= size else at
    return kept[::-1]


def _non_dominated(time_s: _Floats, weight: _Floats) -> NDArray[np.intp]:
    order = np.lexsort((-weight, time_s))
    heaviest = np.maximum.accumulate(np.concatenate(([-np.inf], weight[order][:-1])))
    found = order[weight[order] > heaviest + 1e-9]
    if len(found) > MOST_STATES:
        found = found[np.linspace(0, len(found) - 1, MOST_STATES).astype(np.intp)]
    return found


def _of_several(
    jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker], may_go: Sequence[bool]
) -> list[bool]:
    """Return the better of two: dropping whenever a job is late, and adding the heaviest first."""
    kept = [True] * len(jobs)
    while True:
        chosen = [at for at in range(len(jobs)) if kept[at]]
        late = _first_late([jobs[at] for at in chosen], workers)
        candidates = [at for at in chosen[: late + 1] if may_go[at]] if late is not None else []
        if not candidates:
            break
        kept[max(candidates, key=lambda at: (jobs[at].points.latency_s[0] / jobs[at].weight, at))] = False
    dropped = [at for at in range(len(jobs)) if not kept[at]]
    _add(jobs, workers, kept, dropped)
    added = [not free for free in may_go]
    _add(jobs, workers, added, [at for at in range(len(jobs)) if may_go[at]])
    return max(
        (kept, added),
        key=lambda found: sum(job.weight for job, stays in zip(jobs, found, strict=True) if stays),
    )


def _add(
    jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker], kept: list[bool], others: Sequence[int]
) -> None:
    """Keep others too, the heaviest first, where all that are kept stay in time."""
    for at in sorted(others, key=lambda at: (-jobs[at].weight, jobs[at].points.latency_s[0])):
        kept[at] = True
        if _first_late([job for job, stays in zip(jobs, kept, strict=True) if stays], workers) is not None:
            kept[at] = False
