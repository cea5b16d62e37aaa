"""Whether a job is taken at all: refused at once, with the reason, where it cannot be answered as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from poise.domain.job import Job, RefusalReason
from poise.domain.service import Service
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.commands import Refuse
from poise.scheduling.costs import LeastCosts
from poise.scheduling.queue import DeadlineQueue, Waiting
from poise.scheduling.view import WorkerState

TOLERANCE = 1e-9


class Admission:
    """Judges jobs on arrival, at their cheapest admissible plans.

    Floors: a job whose modalities cannot reach its floor may draw the difference from its class's credit (scope
    ``class``), goes below and says so (class prefers deadlines), or is refused. Deadlines: the work ahead of
    the job and its own must fit before its deadline, and no waiting job that could be held may be lost by it.
    """

    def __init__(
        self, service: Service, balances: Mapping[str, AccuracyBalance], *, by_deadline: bool = True
    ) -> None:
        self._by_deadline = by_deadline
        self._service = service
        self._balances = balances

    def judge(
        self, job: Job, now_s: float, queue: DeadlineQueue, workers: Sequence[WorkerState], costs: LeastCosts
    ) -> Waiting | Refuse:
        """Return the job ready to be queued, or its refusal."""
        settings = self._service.scheduler
        if len(queue) >= settings.queue_jobs or queue.items + job.items > settings.queue_items:
            return Refuse(job.id, RefusalReason.QUEUE_FULL, "the queue is full")
        reachable = costs.highest_accuracy(job.available)
        if reachable < 0:
            return Refuse(
                job.id,
                RefusalReason.FLOOR_UNREACHABLE,
                "no modality set of this service does with the given modalities",
            )
        prefers_deadline = self._service.classes[job.slo_class].prefer == "deadline"
        floor, deficit = job.accuracy_floor, 0.0
        if reachable < floor - TOLERANCE:
            if self._service.guarantee.scope == "class":
                deficit = (floor - reachable) * job.items
            if deficit == 0.0 or deficit > self._balances[job.slo_class].credit:
                if not prefers_deadline:
                    return Refuse(
                        job.id,
                        RefusalReason.FLOOR_UNREACHABLE,
                        f"accuracy floor {floor:g} is not reachable with the given modalities: "
                        f"the highest is {reachable:.4f}",
                    )
                deficit = 0.0
        planned_floor = min(floor, reachable)
        work_floor = 0.0 if prefers_deadline else planned_floor
        entry = Waiting(job, planned_floor, costs.rate_s(job.available, work_floor))
        if self._by_deadline and not self._in_time(entry, now_s, queue, workers, costs, work_floor):
            return Refuse(
                job.id,
                RefusalReason.DEADLINE_UNREACHABLE,
                "the deadline cannot be met with the jobs already accepted"
                if len(queue)
                else "the deadline is shorter than an answer takes",
            )
        entry.own_terms = planned_floor < self._service.classes[job.slo_class].accuracy_floor - TOLERANCE
        entry.below_floor = planned_floor < floor - TOLERANCE and deficit == 0.0
        if deficit:
            entry.credit_drawn = deficit
            self._balances[job.slo_class].spend(deficit)
        return entry

    def _in_time(
        self,
        entry: Waiting,
        now_s: float,
        queue: DeadlineQueue,
        workers: Sequence[WorkerState],
        costs: LeastCosts,
        floor: float,
    ) -> bool:
        job = entry.job
        at = queue.position(job)
        ahead_s = float(queue.work_s[:at].sum())
        ahead = queue.items * at // len(queue) if at else 0
        last_s = costs.last_batch_s(job.available, floor, job.items, ahead)
        capacity = sum(1.0 / worker.calibration.factor for worker in workers)
        done_s = min(max(w.free_at_s, now_s) + w.calibration.real_s(last_s) for w in workers)
        if done_s + ahead_s / capacity > job.deadline_s:
            return False
        free = [(max(worker.free_at_s, now_s), worker.calibration.factor) for worker in workers]
        room = sum(max(0.0, job.deadline_s - free_s) / factor for free_s, factor in free)
        if ahead_s + entry.work_s > room:
            return False
        if at == len(queue):
            return True
        later = queue.deadlines_s[at:]
        left = np.zeros(len(later))
        for free_s, factor in free:
            left += np.maximum(later - free_s, 0.0) / factor
        left -= ahead_s + np.cumsum(queue.work_s[at:])
        held = left[left >= 0]
        return not len(held) or float(held.min()) >= entry.work_s
