"""E2: a queue's modality plans. First which jobs are kept, then one point for each, then the future's share.

Jobs stand in deadline order, each with the points at or above its floor; they are placed in that order on the
worker that is free first. (1) The largest weight of jobs that can be in time at their cheapest points is kept,
the others are refused and cost nothing (``moore_hodgson``). (2) Each kept job is given one point, for the most
``Σ accuracy·items`` with each deadline held (``queue_accuracy``, ``queue_workers``). (3) *Virtual jobs*, arrivals
that are only forecast, stand in the queue at their cheapest plans: their accuracy does not count, their deadlines
must hold. They never go before the first job, which starts now, and never cause a refusal; those that cannot be
held beside the kept jobs are dropped.
Source: MOSEL (EMNLP 2024), step 3, which holds one sum over the whole queue and knows no future.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, isnan

import msgspec

from poise.planning.moore_hodgson import kept_jobs
from poise.planning.queue_accuracy import most_accurate
from poise.planning.queue_job import HELD_S, FreeWorker, JobPoints, QueuedJob, QueuePlan, all_held
from poise.planning.queue_workers import most_accurate_of_several


class VirtualJob(msgspec.Struct, frozen=True):
    """Arrivals to come, as one job at its cheapest plan. Units: profile seconds; ``deadline_s`` absolute."""

    latency_s: float
    deadline_s: float


def plan_queue(
    jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker], virtual: Sequence[VirtualJob] = ()
) -> QueuePlan:
    """Return which jobs are kept, and at which points.

    Raises:
        ValueError: no workers, deadlines that fall, times that are none, or a factor or weight that is not positive.
    """
    _check(jobs, workers)
    kept = kept_jobs(jobs, workers)
    real = [at for at, stays in enumerate(kept) if stays]
    queue = [(jobs[at], at) for at in real]
    if virtual:
        later = [(QueuedJob(JobPoints([v.latency_s], [0.0]), v.deadline_s), -1) for v in virtual]
        # The first job is about to start: nothing that has yet to arrive goes before it.
        queue = queue[:1] + sorted([*queue[1:], *later], key=lambda pair: pair[0].deadline_s)
        stays_too = kept_jobs([job for job, _ in queue], workers, [at < 0 for _, at in queue])
        queue = [pair for pair, stays in zip(queue, stays_too, strict=True) if stays]
    placed = [job for job, _ in queue]
    if len(workers) == 1:
        chosen, bound = most_accurate([job.points for job in placed], _room_s(placed, workers[0]))
    else:
        chosen, bound = most_accurate_of_several(placed, workers)
    points: list[int | None] = [None] * len(jobs)
    value = 0.0
    for (job, at), point in zip(queue, chosen, strict=True):
        value += job.points.value[point]
        if at >= 0:
            points[at] = point
    return QueuePlan(tuple(points), value, bound, virtual_kept=len(queue) - len(real))


def holds(jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker], plan: QueuePlan) -> bool:
    """Whether every kept job of a plan is done by its deadline, by placing them one after another."""
    pairs = [(job, point) for job, point in zip(jobs, plan.points, strict=True) if point is not None]
    return all_held([job for job, _ in pairs], [job.points.latency_s[p] for job, p in pairs], workers)


def _room_s(jobs: Sequence[QueuedJob], worker: FreeWorker) -> list[float]:
    """Return the profile time that the first *j* jobs may take in all."""
    each_s = worker.overhead_s / worker.factor
    tolerance_s = HELD_S / 2
    return [
        (job.deadline_s + tolerance_s - worker.free_s) / worker.factor - count * each_s
        for count, job in enumerate(jobs, 1)
    ]


def _check(jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]) -> None:
    if not workers:
        raise ValueError("got no workers, expected at least one")
    for worker in workers:
        if not (worker.factor > 0 and isfinite(worker.factor + worker.free_s + worker.overhead_s)):
            raise ValueError(f"got {worker}, expected finite times and a positive factor")
    if any(not job.weight > 0 or isnan(job.deadline_s) for job in jobs):
        raise ValueError("got a job whose weight is not positive or whose deadline is no time")
    if any(first.deadline_s > second.deadline_s for first, second in pairwise(jobs)):
        raise ValueError("got deadlines that fall, expected deadline order")
