"""Bounds on the time of the next batch, from the deadlines that wait and the load that comes.

Here, and wherever else every decision passes, the lesser of two numbers is found by comparing them: a call of ``min``
takes eight times as long, and a decision would make fifty.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import inf

import numpy as np
from numpy.typing import NDArray

from poise.scheduling.batches import Cut
from poise.scheduling.queue import Waiting
from poise.scheduling.view import DispatchView

HORIZON_OF_SLO = 0.5
"""The waiting items and those to come are planned to be cleared within this share of a class's SLO."""
HORIZON_ITEMS = 4.0
"""But never within less than so many of the dearest items: shares of less would buy none."""
CAP_OF_SLO = 0.5
"""No batch takes longer than this share of the shortest deadlines: a long batch must not block an urgent job."""
KEPT_UP = 0.9
"""The share of the time between arrivals that an item may take, in batches that are to keep up with them."""
SUSTAINED_OF_SLO = 1 / 3
"""Batches that keep up take at most this share of the shortest deadlines: a job waits for one and is in the next."""
URGENT_BATCHES = 1.5
"""Where the dearest item takes longer than that, it may, if it leaves an urgent job so much of its least time,"""
URGENT_BATCHES_IDLE = 1.0
"""or so much where the workers have time to spare."""
SPARE_FROM, SPARE_FULL = 0.3, 0.55
"""Idle shares between which time to spare grows from none to full: where deadlines leave little to wait, workers
idle up to the first at their highest load too."""
SHARES_OF_SPARE = 1.5
"""Shares of the capacity grow by so much where there is time to spare."""
SHORT_QUEUE = 16
"""So many jobs are reckoned with one by one: arrays only pay beyond that. Both add up in the same order."""

_Values = NDArray[np.float64] | list[float]


class Limits:
    """Bounds on a batch's time, in profile seconds of the free worker."""

    __slots__ = (
        "_count", "_dearest_s", "_horizon_s", "_least_slack", "_per_item_s", "_prefix", "_room_left",
        "_saved_limit_s", "_saved_s", "_share_factor", "_spare_time", "_view", "_work_before", "cap_s", "first_s",
        "most_s", "most_urgent", "overhead_s", "shortest_slo_s",
    )  # fmt: skip

    def __init__(self, view: DispatchView) -> None:
        self._view = view
        worker, entries = view.worker, view.entries
        calibration = worker.calibration
        factor = calibration.factor
        first = entries[0].job
        self.overhead_s = calibration.overhead_s / factor
        self.first_s = calibration.profile_s(first.deadline_s - view.now_s)
        self._dearest_s = worker.dearest_item_s
        self.shortest_slo_s = view.shortest_slo_s
        own_s = view.deadlines_s[first.slo_class]
        self.most_urgent = own_s <= self.shortest_slo_s
        """No class has shorter deadlines than the first job's."""
        spare = (view.idle_share - SPARE_FROM) / (SPARE_FULL - SPARE_FROM)
        self._spare_time = view.boldness * (0.0 if spare <= 0.0 else 1.0 if spare >= 1.0 else spare)
        self._share_factor = 1.0 + SHARES_OF_SPARE * self._spare_time
        cap_s = worker.batch_cap_s
        self.most_s = inf if cap_s is None else calibration.profile_s(cap_s)
        """The worker's own cap: only a single item's batch may exceed it."""
        block_s = self._cap_s(self.shortest_slo_s / factor)
        self.cap_s = block_s if block_s < self.most_s else self.most_s
        self._saved_s = view.saved_s
        self._count = len(view.queue.entries)
        self._prefix = entries is view.queue.entries
        self._least_slack: _Values | None = None
        self._share_horizons(own_s)
        quarter_s = self._horizon_s / 4
        self._saved_limit_s = quarter_s if quarter_s > self._dearest_s else self._dearest_s

    def _cap_s(self, urgent_s: float) -> float:
        view = self._view
        first = view.entries[0]
        floor = 0.0 if first.terms.soft else first.floor
        least_s = view.costs.at(first.job.bucket).latency_s(first.job.available, floor, 1)
        kept_s = (URGENT_BATCHES + self._spare_time * (URGENT_BATCHES_IDLE - URGENT_BATCHES)) * least_s
        cap_s, left_s = CAP_OF_SLO * urgent_s, urgent_s - kept_s
        left_s = left_s if left_s < self._dearest_s else self._dearest_s
        cap_s = cap_s if cap_s > left_s else left_s
        if first.waiting_items > 1 and self.most_urgent:
            cap_s += view.boldness * max(0.0, self._whole_s() - cap_s)
        return cap_s

    def _whole_s(self) -> float:
        """The time of all of the first job by its most accurate modes: parts of it block its own class no less."""
        view = self._view
        first = view.entries[0]
        longest_s = 0.0
        for plans in view.worker.plans:
            here = plans.at(first.job.bucket) if plans.shorter else plans
            frontier = here.frontier(here.allowed(first.job.available), first.waiting_items)
            if frontier is not None and len(frontier):
                longest_s = max(longest_s, frontier.latency_s[-1])
        return longest_s

    def _share_horizons(self, own_s: float) -> None:
        """Work out the time of an item: the least over the horizons of the first job's class and longer ones."""
        view = self._view
        capacity = view.fleet.capacity
        deadlines_s = view.deadlines_s
        least_horizon_s = HORIZON_ITEMS * self._dearest_s
        best: tuple[float, float] | None = None
        for slo_s in deadlines_s.values():
            if slo_s < own_s:
                continue
            horizon_s = HORIZON_OF_SLO * slo_s
            horizon_s = horizon_s if horizon_s > least_horizon_s else least_horizon_s
            waiting, rate = float(view.queue.items), view.arrival_rate
            if len(deadlines_s) > 1:
                rate = sum([view.rates[name] for name, other_s in deadlines_s.items() if other_s <= slo_s])
                until_s = view.now_s + slo_s
                share = float(np.searchsorted(view.queue.deadlines_s, until_s)) / max(1, self._count)
                waiting = max(waiting * share, 1.0)
            per_item_s = capacity * horizon_s / (waiting + rate * horizon_s)
            if best is None or per_item_s < best[0]:
                best = per_item_s, capacity * horizon_s
        assert best is not None
        self._per_item_s, self._horizon_s = best

    def _slacks(self) -> _Values:
        """Work out, for each place in the queue, the least slack of the jobs from there on at their cheapest plans.

        Only once a batch is looked at that leaves some of them behind.
        """
        view, queue, fleet = self._view, self._view.queue, self._view.fleet
        deadlines_s = queue.deadlines_s
        if self._count <= SHORT_QUEUE and fleet.few:
            done = list(accumulate(queue.work_s.tolist()))
            rooms_s = [fleet.room_before_s(deadline_s, view.now_s) for deadline_s in deadlines_s.tolist()]
            left_s = [room_s - done_s for room_s, done_s in zip(rooms_s, done, strict=True)]
            slacks_s = [
                room_s - tail_s for room_s, tail_s in zip(left_s, queue.tails_s.tolist(), strict=True)
            ]
            slacks_s.reverse()
            self._work_before: _Values = done
            self._room_left: _Values = left_s
            self._least_slack = least = list(accumulate(slacks_s, min))
            return least
        room = fleet.room_s(deadlines_s, view.now_s)
        self._work_before = queue.work_s.cumsum()
        room -= self._work_before
        self._room_left = room
        room = room - queue.tails_s
        self._least_slack = found = np.minimum.accumulate(room[::-1])
        return found

    def hard_s(self, cut: Cut, among: Sequence[Waiting] | None = None) -> float:
        """Time until the first deadline, or until a job left behind would be late at its cheapest plan.

        The cut is of the jobs that the worker may be given, or of those ``among`` them.
        """
        whole, count = cut.whole, self._count
        prefix = self._prefix and among is None
        if prefix and whole >= count:  # then there is no part, and nobody is left behind
            return self.first_s
        entries = self._view.entries if among is None else among
        least_slack = self._slacks() if self._least_slack is None else self._least_slack
        if prefix:
            work_s = float(self._work_before[whole - 1]) if whole else 0.0
        else:
            work_s = sum(entry.work_s for entry in entries[:whole])
            whole = 0
        least_s = self.first_s
        if cut.part:
            entry = entries[cut.whole]
            left = entry.waiting_items - cut.part
            work_s += entry.work_s - entry.cost.work_s(left)
            tail_s = entry.cost.tail_s(left)
            if len(self._view.workers) > 1:
                least_s = min(least_s, self._rest_held_s(entry, left))
            if prefix:  # what is left of the job has a batch of its own to wait for
                least_s = min(least_s, float(self._room_left[whole]) - tail_s + work_s - self.overhead_s)
                whole += 1
        if whole >= count:
            return least_s
        slack_s = float(least_slack[count - whole - 1]) + work_s - self.overhead_s
        return slack_s if slack_s < least_s else least_s

    def _rest_held_s(self, entry: Waiting, left: int) -> float:
        """Time after which this worker can no longer answer what is left of a split job; none where another can.

        Room on several workers adds up to more than the rest needs where none of them has enough.
        """
        view, deadline_s = self._view, entry.job.deadline_s
        rest_s = entry.cost.latency_s(left)
        for worker in view.workers:
            if worker is not view.worker:
                free_s = max(worker.free_at_s, view.now_s)
                if worker.calibration.profile_s(deadline_s - free_s) >= rest_s:
                    return inf
        return view.worker.calibration.profile_s(deadline_s - view.now_s) - rest_s - self.overhead_s

    def share_s(self, items: int) -> float:
        """The part of the capacity within the horizon that belongs to so many items."""
        return self._per_item_s * items * self._share_factor

    def sustained_accuracy(self, rung: int = 0) -> float:
        """The accuracy that keeps up with arrivals of a rung, in batches as large as those that wait; -1: none does."""
        view = self._view
        capacity = view.fleet.capacity
        rate = view.arrival_rate
        item_s = KEPT_UP * capacity / (rate if rate > 1e-9 else 1e-9)
        batch_s = SUSTAINED_OF_SLO * self.shortest_slo_s / view.worker.calibration.factor
        accuracy, batch = view.costs.at(rung).sustained(
            view.entries[0].terms, item_s, batch_s if batch_s < self.cap_s else self.cap_s
        )
        return accuracy if view.queue.items <= batch * len(view.workers) else -1.0

    @property
    def pressure(self) -> float:
        """How scarce time is: 0 where all shares were left over lately, 1 where all of them were used."""
        limit = self._saved_limit_s
        used = (limit - self._saved_s) / limit
        return 0.0 if used <= 0.0 else 1.0 if used >= 1.0 else used

    def saved_after_s(self, share_s: float, used_s: float) -> float:
        """What is left of the shares after a batch: at most a quarter of the horizon, or one most accurate item."""
        limit = self._saved_limit_s
        saved_s = self._saved_s + share_s - used_s - self.overhead_s
        return limit if saved_s > limit else -limit if saved_s < -limit else saved_s
