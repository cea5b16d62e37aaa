"""How ``poise`` keeps to the shares of an allocation: which variants may answer what, and what is left to others."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from poise.planning.service_model import VariantPlans
from poise.scheduling.fleet import Fleet
from poise.scheduling.queue import Waiting
from poise.scheduling.view import DispatchView, Wait, WorkerState

LOOKED_AT = 4
"""Of the queue, so many largest batches are searched for jobs of other classes."""
SLACK_KEPT = 0.3
"""A job is left to other workers while they would have so much of its remaining time to spare."""
LEAST_SPARE = 0.05
"""What they have to spare beyond that is nothing where it is less than so much of the first job's remaining time."""
LOOK_AGAIN = 0.5
"""After so much of it the job is looked at again."""

Within = list[tuple[VariantPlans, Sequence[Waiting] | None]]
"""Variants, each with the jobs that it may answer: all waiting ones where that is None."""


def within_shares(view: DispatchView) -> Within | None:
    """Return the free worker's variants that may lead with the first job, and what else each may answer.

    None where none of them is beyond its share of any class: there is nothing to heed.
    """
    account, first = view.account, view.entries[0].job.slo_class
    found: Within = []
    beyond_any = False
    for plans in view.worker.plans:
        beyond = {name for name in account.shares if account.beyond(name, plans.name)}
        beyond_any |= bool(beyond)
        if not beyond:
            found.append((plans, None))
        elif first not in beyond:
            looked_at = view.entries[: LOOKED_AT * view.max_batch]
            found.append((plans, [entry for entry in looked_at if entry.job.slo_class not in beyond]))
    return found if beyond_any else None


def left_to_others(view: DispatchView) -> Wait | None:
    """Return until when the first job may be left to workers whose variants are within their share; None: it may not.

    All that waits must be in time on those workers alone, answered by those variants at their best, with some of each
    job's time to spare.
    """
    kinds = {worker.resident: worker for worker in view.workers}
    dearer = {resident: _dearer(view, worker) for resident, worker in kinds.items()}
    others = [w for w in view.workers if w is not view.worker and dearer[w.resident] < inf]
    if not others:
        return None
    queue, fleet = view.queue, Fleet(others)
    times = min(dearer[worker.resident] for worker in others)
    left_s = fleet.room_s(queue.deadlines_s, view.now_s) - times * (queue.work_s.cumsum() + queue.tails_s)
    spare_s = float((left_s / fleet.capacity - SLACK_KEPT * (queue.deadlines_s - view.now_s)).min())
    if spare_s < LEAST_SPARE * (view.entries[0].job.deadline_s - view.now_s):
        return None
    return Wait(view.now_s + LOOK_AGAIN * spare_s)


def _dearer(view: DispatchView, worker: WorkerState) -> float:
    """How many times its least time an item of the first job takes at its best, by a worker's variants within shares.

    Infinite where none of them can answer it.
    """
    first = view.entries[0]
    least_s = view.costs.at(first.job.bucket).latency_s(first.job.available, 0.0, 1)
    best_s = inf
    for plans in worker.plans:
        if view.account.beyond(first.job.slo_class, plans.name):
            continue
        here = plans.at(first.job.bucket)
        frontier = here.frontier(here.allowed(first.job.available), 1)
        if frontier is not None and len(frontier) and frontier.accuracy[-1] >= first.least_accuracy:
            best_s = min(best_s, frontier.latency_s[-1])
    return best_s / least_s if 0.0 < least_s < inf else inf
