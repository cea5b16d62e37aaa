"""How ``poise`` keeps to the shares of an allocation: which variants may answer what, and what is left to others."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from poise.planning.service_model import VariantPlans
from poise.scheduling.queue import Waiting
from poise.scheduling.view import DispatchView, Wait, WorkerState

LOOKED_AT = 4
"""Of the queue, so many largest batches are searched for jobs of other classes."""
SLACK_KEPT = 0.3
"""A job is left to other workers while they would have so much of its remaining time to spare."""
LOOK_AGAIN = 0.5
"""After so much of what they have to spare beyond that, it is looked at again."""

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

    All that waits must be in time on those workers alone, served by those variants, with some of each job's time to
    spare.
    """
    others = [worker for worker in view.workers if worker is not view.worker and _within(view, worker)]
    if not others:
        return None
    dearer = min(_dearer(view, worker) for worker in others)
    deadlines_s = view.queue.deadlines_s
    room_s = np.zeros(len(deadlines_s))
    speed = 0.0
    for worker in others:
        free_s = max(worker.free_at_s, view.now_s)
        speed += 1.0 / worker.calibration.factor
        room_s += np.maximum(deadlines_s - free_s, 0.0) / worker.calibration.factor
    room_s -= dearer * (view.queue.work_s.cumsum() + view.queue.tails_s)
    spare_s = float((room_s / speed - SLACK_KEPT * (deadlines_s - view.now_s)).min())
    return Wait(view.now_s + LOOK_AGAIN * spare_s) if spare_s > 0 else None


def _within(view: DispatchView, worker: WorkerState) -> bool:
    """Whether a worker holds a variant that is within its share of the first job's class."""
    first = view.entries[0].job.slo_class
    return any(not view.account.beyond(first, name) for name in worker.stages)


def _dearer(view: DispatchView, worker: WorkerState) -> float:
    """How many times the least time of the first job one of its items takes, by a worker's variants within shares."""
    first = view.entries[0]
    least_s = view.costs.at(first.job.bucket).latency_s(first.job.available, 0.0, 1)
    best_s = inf
    for plans in worker.plans:
        if view.account.beyond(first.job.slo_class, plans.name):
            continue
        here = plans.at(first.job.bucket)
        frontier = here.frontier(here.allowed(first.job.available), 1)
        if frontier is not None and len(frontier):
            point = frontier.cheapest_at(0.0 if first.terms.soft else first.floor)
            if point is not None:
                best_s = min(best_s, frontier.latency_s[point])
    return best_s / least_s if 0.0 < least_s < inf else inf
