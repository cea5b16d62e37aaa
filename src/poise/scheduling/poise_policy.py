"""The policy ``poise``: deadlines first, then accuracy with the time that is left, batches across jobs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from poise.planning.service_model import VariantPlans
from poise.scheduling.batches import prefixes, shares_of, time_to_first_deadline
from poise.scheduling.composition import Composition, compose, demands_of
from poise.scheduling.costs import EFFICIENT
from poise.scheduling.queue import Waiting
from poise.scheduling.view import Choice, DispatchView, Policy

HORIZON_OF_SLO = 0.5
"""The waiting items and those to come are planned to be cleared within this share of the shortest SLO."""
CAP_OF_SLO = 0.5
"""No batch takes longer than this share of the shortest SLO: a long batch must not block an urgent job."""


class Poise(Policy):
    """Deadlines first, then accuracy, and some of every slack kept for the arrivals to come.

    A candidate batch is a prefix of the queue. Its time is bounded by (1) the first job's deadline, (2) the
    slack of the jobs left behind, served at their cheapest plans, (3) the batch-time cap, (4) its share
    ``items·C·H / (K + V)`` of the capacity *C* within a horizon *H*, where *K* items wait and *V* virtual ones
    arrive at the running rate, plus what earlier batches left of their shares. Within that time the frontier
    gives the most accurate plan. (4) keeps the queue short: as it grows, each item's time shrinks until the
    queue does. What is left over carries on, so that single items, whose modes are few and far apart, use the
    capacity on average. Where even the cheapest plans exceed (4), the load is above what accuracy can be bought
    for, and the batch with the least time for each item is taken, the smallest of those about as good.
    """

    name = "poise"

    def reach(self, plans: VariantPlans, available: int) -> int:
        """Every set within the available modalities."""
        return plans.allowed(available)

    def choose(self, view: DispatchView) -> Choice | None:
        """Return the best batch over the resident variants and some prefixes of the queue."""
        limits = _Limits(view)
        best = self._best(view, limits, fine=False, ignore_soft=False)
        if best is None or not best.affordable:
            best = self._best(view, limits, fine=True, ignore_soft=False)
        if best is None:
            best = self._best(view, limits, fine=True, ignore_soft=True)
        if best is None:
            return None
        planned = best.planned
        return Choice(
            plans=best.plans,
            shares=shares_of(planned, best.plans if best.floors_dropped else None),
            latency_s=planned.latency_s,
            saved_s=limits.saved_after_s(best.share_s, planned.latency_s),
        )

    def _best(
        self, view: DispatchView, limits: _Limits, *, fine: bool, ignore_soft: bool
    ) -> _Candidate | None:
        best: _Candidate | None = None
        for plans in view.worker.plans:
            for jobs in prefixes(view, plans.model.max_batch, fine=fine):
                found = self._candidate(view, plans, jobs, limits, ignore_soft)
                if found is not None and (best is None or found.score > best.score):
                    best = found
                if found is not None and found.unbound:
                    break  # smaller batches have less time for each item, and share less
        return best

    def _candidate(
        self,
        view: DispatchView,
        plans: VariantPlans,
        jobs: Sequence[tuple[Waiting, int]],
        limits: _Limits,
        ignore_soft: bool,
    ) -> _Candidate | None:
        items = sum(count for _, count in jobs)
        share_s = limits.share_s(items)
        affordable_s = min(share_s + view.saved_s - limits.overhead_s, limits.cap_s)
        demands = demands_of(view, plans, jobs, self.reach, ignore_soft=ignore_soft)
        hard_s = limits.hard_s(jobs)
        planned = compose(plans, demands, min(hard_s, affordable_s))
        if planned is None or planned.latency_s > limits.first_s:
            return None
        affordable = planned.latency_s <= affordable_s + 1e-12
        if affordable:
            score = (2.0, round(planned.accuracy_sum / items, 9), float(items))
        else:
            first = view.entries[0]
            owed = sum(entry.floor * count for entry, count in jobs) - planned.accuracy_sum
            price_s = view.costs.accuracy_price_s(first.job.available, first.floor)
            efficiency = -math.log(
                max((planned.latency_s + limits.overhead_s + price_s * owed) / items, 1e-9)
            )
            score = (
                float(planned.latency_s <= limits.cap_s),
                float(int(efficiency / EFFICIENT)),
                -float(items),
            )
        return _Candidate(
            score=score,
            affordable=affordable,
            unbound=affordable and affordable_s < min(hard_s, limits.cap_s),
            plans=plans,
            planned=planned,
            share_s=share_s,
            floors_dropped=ignore_soft,
        )


class _Candidate(msgspec.Struct, frozen=True):
    """A batch that could be run; the highest ``score`` is taken. Units: profile seconds.

    ``affordable``: within its share of the capacity; ``unbound``: only by that, no deadline or cap came first.
    """

    score: tuple[float, float, float]
    affordable: bool
    unbound: bool
    plans: VariantPlans
    planned: Composition
    share_s: float
    floors_dropped: bool


class _Limits:
    """Bounds on a batch's time, in profile seconds of the free worker."""

    def __init__(self, view: DispatchView) -> None:
        now_s, queue = view.now_s, view.queue
        factor = view.worker.calibration.factor
        self.overhead_s = view.worker.calibration.overhead_s / factor
        self.first_s = time_to_first_deadline(view)
        self.cap_s = CAP_OF_SLO * view.shortest_slo_s / factor
        capacity = sum(1.0 / worker.calibration.factor for worker in view.workers)
        horizon_s = HORIZON_OF_SLO * view.shortest_slo_s
        self._horizon_s = capacity * horizon_s
        self._per_item_s = self._horizon_s / (queue.items + view.arrival_rate * horizon_s)
        self._saved_s = view.saved_s
        self._prefix = view.entries is queue.entries
        self._dearest_s = max(plans.dearest_item_s for plans in view.worker.plans)
        room = np.zeros(len(queue))
        for worker in view.workers:
            free_s = max(worker.free_at_s, now_s)
            room += np.maximum(queue.deadlines_s - free_s, 0.0) / worker.calibration.factor
        self._work_before = np.concatenate(([0.0], np.cumsum(queue.work_s)))
        slack = room - self._work_before[1:]
        self._least_slack = np.append(np.minimum.accumulate(slack[::-1])[::-1], np.inf)

    def hard_s(self, jobs: Sequence[tuple[Waiting, int]]) -> float:
        """Time until the first deadline, or until a job left behind would be late at its cheapest plan."""
        if self._prefix:
            whole = len(jobs)
            entry, count = jobs[-1]
            left = entry.waiting_items
            if count < left:
                whole -= 1
            work_s = float(self._work_before[whole]) + (entry.item_work_s * count if count < left else 0.0)
        else:
            whole, work_s = 0, sum(entry.item_work_s * count for entry, count in jobs)
        return min(self.first_s, float(self._least_slack[whole]) + work_s - self.overhead_s)

    def share_s(self, items: int) -> float:
        """The part of the capacity within the horizon that belongs to so many items."""
        return self._per_item_s * items

    def saved_after_s(self, share_s: float, used_s: float) -> float:
        """What is left of the shares after a batch: at most a quarter of the horizon, or one most accurate item."""
        limit = max(self._horizon_s / 4, self._dearest_s)
        return min(limit, max(-limit, self._saved_s + share_s - used_s - self.overhead_s))
