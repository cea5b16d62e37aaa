"""Whether a job is taken at all: refused at once, with the reason, where it cannot be answered as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.job import Job, RefusalReason
from poise.domain.service import Service
from poise.scheduling.arrival_rate import ShortDeadlines
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.commands import Refuse
from poise.scheduling.costs import LeastCosts, Terms
from poise.scheduling.fleet import Fleet
from poise.scheduling.queue import DeadlineQueue, Waiting

TOLERANCE = 1e-9
WORTH_MORE, WORTH_MUCH_MORE = 1.05, 1.25
"""A job takes the place of others if it is worth so many times as much for the time it needs: of jobs of less
weight, of any."""
MOST_DISPLACED = 16
DEFAULT_PRIORITY = 2
LOWEST_PRIORITY = 8

_Floats = NDArray[np.float64]


class Taken(msgspec.Struct, frozen=True):
    """A job ready to be queued, and the waiting jobs that it takes the place of."""

    entry: Waiting
    displaced: Sequence[Waiting] = ()


def weight_of(class_weight: float, priority: int) -> float:
    """Return what a job's answer is worth: each level of priority below the first halves it.

    Priority 1 is the highest; 0, the protocol's default, is level 2, which has the class's own weight.
    """
    level = min(priority, LOWEST_PRIORITY) if priority > 0 else DEFAULT_PRIORITY
    return class_weight * 2.0 ** (DEFAULT_PRIORITY - level)


def hopeless(refusal: Refuse, job: Job, now_s: float, costs: LeastCosts) -> bool:
    """Whether a refused job could not have been answered by an idle server either: it says nothing about the load."""
    if refusal.reason is RefusalReason.FLOOR_UNREACHABLE:
        return True
    return job.deadline_s - now_s < costs.latency_s(job.available, 0.0, 1)


class Admission:
    """Judges jobs on arrival, at their cheapest admissible plans.

    Floors: a job whose modalities cannot reach its floor may draw the difference from its class's credit (scope
    ``class``), goes below and says so (class prefers deadlines), or is refused. Deadlines: the work ahead of
    the job and its own must fit before its deadline, and no waiting job that could be held may be lost by it; unless
    jobs that are worth less for the time they need make room (as Moore and Hodgson's rule does, weighted).
    """

    def __init__(
        self,
        service: Service,
        balances: Mapping[str, AccuracyBalance],
        deadlines: Mapping[str, ShortDeadlines],
        *,
        by_deadline: bool = True,
    ) -> None:
        self._deadlines = deadlines
        self._by_deadline = by_deadline
        self._classes = service.classes
        self._by_class = service.guarantee.scope == "class"
        self._queue_jobs = service.scheduler.queue_jobs
        self._queue_items = service.scheduler.queue_items
        self._balances = balances

    def judge(
        self, job: Job, now_s: float, queue: DeadlineQueue, fleet: Fleet, costs: LeastCosts
    ) -> Taken | Refuse:
        """Return the job ready to be queued, or its refusal.

        Without a worker, between one that was retired and the next, nothing is known of when a job would be done: its
        deadline is not judged. Its floor is, against ``costs``, those of the last worker.
        """
        if len(queue) >= self._queue_jobs or queue.items + job.items > self._queue_items:
            return Refuse(job.id, RefusalReason.QUEUE_FULL, "the queue is full")
        reachable = costs.highest_accuracy(job.available)
        if reachable < 0:
            return Refuse(
                job.id,
                RefusalReason.FLOOR_UNREACHABLE,
                "no modality set of this service does with the given modalities",
            )
        slo_class = self._classes[job.slo_class]
        floor, deficit = job.accuracy_floor, 0.0
        soft = slo_class.prefer == "deadline"
        if reachable < floor - TOLERANCE:
            if self._by_class:
                deficit = (floor - reachable) * job.items
            if deficit == 0.0 or deficit > self._free_credit(job, queue):
                if not soft:
                    return Refuse(
                        job.id,
                        RefusalReason.FLOOR_UNREACHABLE,
                        f"accuracy floor {floor:g} is not reachable with the given modalities: "
                        f"the highest is {reachable:.4f}",
                    )
                deficit = 0.0
        planned_floor = reachable if reachable < floor else floor
        slo_s = self._deadlines[job.slo_class].coarse_s * fleet.pace
        entry = self._entry(
            job, planned_floor, queue, costs.at(job.bucket), slo_s, soft=soft, deficit=deficit
        )
        displaced: Sequence[Waiting] = ()
        if self._by_deadline and fleet.workers and not _in_time(entry, now_s, queue, fleet, costs):
            found = _to_displace(entry, now_s, queue, fleet)
            if found is None:
                return Refuse(
                    job.id,
                    RefusalReason.DEADLINE_UNREACHABLE,
                    "the deadline cannot be met with the jobs already accepted"
                    if len(queue)
                    else "the deadline is shorter than an answer takes",
                )
            displaced = found
        entry.own_terms = not entry.terms.ordinary
        entry.below_floor = planned_floor < floor - TOLERANCE and deficit == 0.0
        if deficit:
            entry.credit_drawn = deficit
            self._balances[job.slo_class].spend(deficit)
        return Taken(entry, displaced)

    def _free_credit(self, job: Job, queue: DeadlineQueue) -> float:
        """Return the credit of a job's class that no waiting job keeps."""
        return self._balances[job.slo_class].credit - queue.reserved.get(job.slo_class, 0.0)

    def _entry(
        self,
        job: Job,
        floor: float,
        queue: DeadlineQueue,
        costs: LeastCosts,
        slo_s: float,
        *,
        soft: bool,
        deficit: float,
    ) -> Waiting:
        """Return a job as it would wait, with the least that it costs. Units: ``slo_s`` in profile seconds.

        In scope ``class`` a floor binds the mean of all answers: where there is credit that no other waiting job needs,
        a job is reckoned at its cheapest mode, and what that spends is reserved for it.
        """
        slo_class = self._classes[job.slo_class]
        by_class = self._by_class
        class_floor = slo_class.accuracy_floor
        each = not by_class and job.items == 1
        terms = cost = costs.terms(job.slo_class, floor, job.available, soft, each, class_floor, slo_s)
        reserved = 0.0
        if by_class and terms.ordinary and not soft and not deficit:
            spent = (floor - costs.lowest_accuracy(job.available)) * job.items
            if 0.0 < spent <= self._free_credit(job, queue):
                reserved = spent
                cost = costs.terms(job.slo_class, 0.0, job.available, soft, each, class_floor, slo_s)
        weight = slo_class.weight if job.priority == 0 else weight_of(slo_class.weight, job.priority)
        return Waiting(job, terms, cost, floor, job.items, weight, reserved)


def _in_time(entry: Waiting, now_s: float, queue: DeadlineQueue, fleet: Fleet, costs: LeastCosts) -> bool:
    """Whether a job can be held where it would stand, and all behind it that could be held without it."""
    job, size = entry.job, len(queue)
    at = queue.position(job)
    if at == size:
        ahead_s, ahead = queue.total_work_s, queue.items
    else:
        ahead_s, ahead = float(queue.work_s[:at].sum()), queue.items * at // size
    first_s = queue.entries[0].job.deadline_s if at else job.deadline_s
    if not _has_room(
        job.deadline_s, entry, ahead_s, ahead, now_s, fleet, first_s, costs.beside(entry, queue.entries, at)
    ):
        return False
    if at == size:
        return True
    left = fleet.room_s(queue.deadlines_s[at:], now_s) - ahead_s - np.cumsum(queue.work_s[at:])
    left -= queue.tails_s[at:]
    held = left[left >= 0]
    return not len(held) or float(held.min()) >= entry.work_s


def _has_room(
    deadline_s: float,
    entry: Waiting,
    ahead_s: float,
    ahead: int,
    now_s: float,
    fleet: Fleet,
    first_s: float = -inf,
    beside: Terms | None = None,
) -> bool:
    """Whether a job fits behind ``ahead`` items that need ``ahead_s``: its work, and its own last batch.

    That batch is reckoned on the terms ``beside``, where longer items may share it; else on the job's own.

    Where all of them fit into one batch by ``first_s``, the first one's deadline, that is enough.
    """
    items = entry.job.items
    cost = beside or entry.cost
    last_s = cost.last_batch_s(items, ahead)
    shared_s = cost.shared_s(items + ahead)
    done_s, together_s = fleet.first_ends_s(now_s, last_s, shared_s)
    if together_s <= first_s and together_s <= deadline_s:
        return True
    return done_s + ahead_s / fleet.capacity <= deadline_s and (
        ahead_s + entry.work_s <= fleet.room_before_s(deadline_s, now_s)
    )


def _to_displace(entry: Waiting, now_s: float, queue: DeadlineQueue, fleet: Fleet) -> list[Waiting] | None:
    """Return waiting jobs, worth no more than a newcomer together, without which it fits; None if there are none.

    First those of less weight, which then also bear the time kept free before deadlines; then any that need more time.
    """
    if not len(queue) or not _has_room(entry.job.deadline_s, entry, 0.0, 0, now_s, fleet):
        return None
    weights = queue.weights
    worth = weights / np.maximum(queue.work_s, 1e-12)
    worth[weights == 0.0] = np.inf
    lighter = np.where(weights < entry.weight * (1 - TOLERANCE), worth, np.inf)
    own = entry.weight / max(entry.work_s, 1e-12)
    for candidates, times, margin in ((lighter, WORTH_MORE, False), (worth, WORTH_MUCH_MORE, True)):
        if float(candidates.min()) <= own / times:
            found = _make_room(entry, candidates, own / times, margin, now_s, queue, fleet)
            if found is not None:
                return found
    return None


def _make_room(
    entry: Waiting,
    worth: _Floats,
    limit: float,
    margin: bool,
    now_s: float,
    queue: DeadlineQueue,
    fleet: Fleet,
) -> list[Waiting] | None:
    """Return jobs worth at most ``limit`` for their time without which a newcomer fits; None if that is not enough.

    The least worth go first, of those that stand before the first deadline that fails. Shapes: ``worth`` has one
    entry for each waiting job.
    """
    at = queue.position(entry.job)
    room_s = fleet.room_s(queue.deadlines_s, now_s) - queue.tails_s
    work_s = queue.work_s.copy()
    held_before = room_s >= np.cumsum(work_s)
    chosen: list[int] = []
    spent = 0.0
    while len(chosen) < MOST_DISPLACED:
        done_s = np.cumsum(work_s)
        ahead_s = float(done_s[at - 1]) if at else 0.0
        ahead = max(0, queue.items * at // len(queue) - len(chosen)) if margin else 0
        fails = np.flatnonzero(held_before[at:] & (done_s[at:] + entry.work_s > room_s[at:]))
        if not _has_room(entry.job.deadline_s, entry, ahead_s, ahead, now_s, fleet):
            until = at
        elif len(fails):
            until = at + int(fails[0]) + 1
        else:
            return [queue.entries[i] for i in chosen]
        if not until:
            return None
        least = int(np.argmin(worth[:until]))
        spent += float(queue.weights[least])
        if float(worth[least]) > limit or spent > entry.weight * (1 + TOLERANCE):
            return None
        worth[least], work_s[least] = np.inf, 0.0
        held_before[least] = False
        chosen.append(least)
    return None
