"""The policy ``poise``: deadlines first, then accuracy with the time that is left, batches across jobs."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import ClassVar

import msgspec

from poise.planning.frontier import Frontier
from poise.planning.service_model import FLOOR_TOLERANCE, VariantPlans
from poise.scheduling.batches import (
    COARSE_SHARES,
    EVERY_SIZE,
    FINE_SHARES,
    Cut,
    Prefixes,
    Taken,
    shares_of,
)
from poise.scheduling.composition import (
    Composition,
    alike,
    compose,
    compose_one,
    demands_of,
    uniform_demand,
)
from poise.scheduling.costs import LeastCosts
from poise.scheduling.limits import Limits
from poise.scheduling.queue import Waiting
from poise.scheduling.steering import Within, left_to_others, within_shares
from poise.scheduling.view import Choice, DispatchView, Policy, Wait

EFFICIENT = 0.01
"""In overload, batches whose times for each item differ by less than this are equally good: the smaller is taken."""

EARNING_OF_SLACK, EARNING_IF_BOLD = 0.6, 0.3
"""The most of the slack that may go into a class's balance, and how much more when bold,"""
EARNING_UNTIL = 0.5
"""less as it fills, none from this share of its cap on,"""
EARNING_BATCHES = 2
"""and none while more items wait than so many batches for each worker."""
WORTH_BUYING = 1.6
"""Accuracy is bought for a class's balance where it costs at most so many times what it does in large batches,"""
WORTH_OF_IDLE = 40.0
"""and *e* to the power of so many times the workers' idle share: time that nobody uses is worth little."""
MOST_IDLE = 0.5
"""More does not make it worth less."""
SPENT = 0.003
"""Below this share of its cap a balance counts as spent: batches that draw from it are not affordable then."""
STRETCH = 1.01
"""What is affordable, or the least time, is exceeded by this: at its edge points save no time worth the accuracy."""
BARGAIN = 0.25
"""Accuracy is bought in any case where it costs no more than this share of its price in large batches."""
GIVEN_UP_AFTER = 4
"""Once so many smaller batches in a row were worse, still smaller ones are not looked at."""
SUSTAINED_TOLERANCE = 1e-6
"""The accuracy that keeps up with the arrivals is rounded to this."""
IN_TIME = 0.98
"""The largest batch in time for the first deadline takes this share of what is left: none takes just what it should."""
HARMLESS = 1.5
"""The score of a batch beyond its share that costs nobody a deadline and blocks no urgent job."""

STEERED_OF_SLACK = 0.5
"""To keep to the shares of an allocation a batch beyond its share of the capacity may take so much of the slack:
steering that takes all of it leaves the next burst none."""


class Poise(Policy):
    """Deadlines first, then accuracy, and some of every slack kept for the arrivals to come.

    A candidate batch is a prefix of the queue. Its time is bounded by (1) the first job's deadline, (2) the
    slack of the jobs left behind, served at their cheapest plans, (3) the batch-time cap, (4) its share
    ``items·C·H / (K + V)`` of the capacity *C* within a horizon *H*, where *K* items wait and *V* virtual ones
    arrive at the running rate, plus what earlier batches left of their shares. Within that time the frontier
    gives the most accurate plan. (4) keeps the queue short: as it grows, each item's time shrinks until the
    queue does. What is left over carries on, so that single items, whose modes are few and far apart, use the
    capacity on average. Two things may take more than (4), never more than the others: the accuracy that keeps
    up with the arrivals in batches as large as wait, and, while a class's balance is low, the slack, where
    accuracy costs little more than it does in large batches, or the workers are idle now and then: a balance
    with credit lets a burst be answered at the cheapest modes. A batch that leaves others for a second one is
    charged with what both cost more than one. Of several candidates the most accurate is taken, less what its time is
    worth. Where even the cheapest plans exceed (4), the load is above what accuracy can be bought for, and the
    batch with the least time for each item is taken, the smallest of those about as good.

    Where an allocation gives the variants shares, those that have answered more than theirs of late are passed over,
    unless no other could answer in time, or within (4) or half of the slack; such departures are counted. A worker that
    holds none but those is left idle while the others have time to spare (``steering``).
    """

    name: ClassVar[str] = "poise"

    def reach(self, plans: VariantPlans, available: int) -> int:
        """Every set within the available modalities."""
        return plans.allowed(available)

    def choose(self, view: DispatchView) -> Choice | Wait | None:
        """Return the best batch over the resident variants and some prefixes of the queue."""
        limits = Limits(view)
        if view.account.shares:
            within = within_shares(view)
            if within is not None:
                found = self._within(view, limits, within)
                if found is not None:
                    return found
        search = _Search(self, view, limits)
        best = search.found()
        return None if best is None else search.choice(best)

    def _within(self, view: DispatchView, limits: Limits, within: Within) -> Choice | Wait | None:
        """Return the best batch that keeps to the shares, or leave it to others; None where that harms somebody."""
        if not within:
            return left_to_others(view)
        search = _Search(self, view, limits, within)
        best = search.found()
        if best is None:
            return None
        if not best.affordable:
            room_s = STEERED_OF_SLACK * limits.hard_s(best.cut, best.prefixes.among)
            if best.score[0] < HARMLESS or best.planned.latency_s > room_s:
                return None
        return search.choice(best)


class _Candidate(msgspec.Struct):
    """A batch that could be run; the highest ``score`` is taken. Units: profile seconds.

    ``affordable``: within its share of the capacity; ``unbound``: only by that, no deadline or cap came first.
    """

    score: tuple[float, float, float]
    affordable: bool
    unbound: bool
    plans: VariantPlans
    frontier: Frontier | None
    """Of all sets that the first job could be answered by, and the candidate's items."""
    planned: Composition
    prefixes: Prefixes
    cut: Cut
    share_s: float


class _Search:
    """The search for the best batch at one decision."""

    def __init__(
        self, policy: Poise, view: DispatchView, limits: Limits, within: Within | None = None
    ) -> None:
        """Search among all resident variants, or those ``within`` their shares with what each may answer."""
        self.ignore_soft = False
        self._reach = policy.reach
        self._view = view
        self._limits = limits
        first = self._first = view.entries[0]
        self._available = available = first.job.available
        costs = self._costs = view.costs.at(first.job.bucket)
        self._accuracy_s = costs.accuracy_price_s(available, first.floor)
        self._price_s = self._accuracy_s if self._accuracy_s > 1e-9 else 1e-9
        self._needed = view.costs.lowest_accuracy(available) < first.floor
        """Whether a balance is of any use: below the cheapest mode's accuracy a floor asks for nothing."""
        stock = self._stock(first)
        self._spent = stock < SPENT
        self._earning = self._earning_share(stock)
        self._most_worth = 0.0
        if self._earning:
            self._most_worth = WORTH_BUYING * math.exp(WORTH_OF_IDLE * min(view.idle_share, MOST_IDLE))
        self._pressure = limits.pressure * stock
        self._prefixes = _prefixes(view, within)
        rung = max([entry.job.bucket for entry, _ in self.longest]) if view.costs.padded else 0
        self._sustained = limits.sustained_accuracy(rung)

    @property
    def longest(self) -> Taken:
        """The longest prefix of the queue that could be a batch."""
        return self._prefixes[0][1].longest

    def _stock(self, first: Waiting) -> float:
        """How full the balance of the first job's class is: 1 in scope ``job``, where accuracy earns nothing."""
        if self._view.scope == "job" or not self._needed:
            return 1.0
        balance = self._view.balances[first.job.slo_class]
        full = balance.credit / balance.cap if balance.cap > 0 else 1.0
        return 0.0 if full <= 0.0 else 1.0 if full >= 1.0 else full

    def _earning_share(self, stock: float) -> float:
        """The share of the slack that may buy accuracy for the balance of the first job's class.

        A balance with credit in it lets bursts be answered at the cheapest modes. None in scope ``job``, with the
        balance half full, or with more items waiting than two batches for each worker.
        """
        view = self._view
        if view.scope == "job" or view.queue.items > EARNING_BATCHES * view.max_batch * len(view.workers):
            return 0.0
        most = EARNING_OF_SLACK + EARNING_IF_BOLD * view.boldness
        return most * (1.0 - stock / EARNING_UNTIL) if stock < EARNING_UNTIL else 0.0

    def found(self) -> _Candidate | None:
        """Return the best candidate: of few sizes if it is affordable, else of many, and with soft floors dropped."""
        best = self.best(COARSE_SHARES)
        if best is None or not best.affordable:
            for _, prefixes, _ in self._prefixes:
                if prefixes.items > EVERY_SIZE:
                    best = self.best(FINE_SHARES)
                    break
        if best is None and any(entry.terms.soft for entry, _ in self.longest):
            self.ignore_soft = True
            best = self.best(FINE_SHARES)
        return best

    def choice(self, best: _Candidate) -> Choice:
        """Return a candidate as the worker's next batch."""
        planned = self.improved(best)
        if not planned.demands[0].members:
            planned.demands[0].members = best.prefixes.taken(best.cut)
        return Choice(
            best.plans,
            shares_of(planned, best.plans if self.ignore_soft else None),
            planned.latency_s,
            self._limits.saved_after_s(best.share_s, planned.latency_s),
        )

    def best(self, shares: tuple[float, ...]) -> _Candidate | None:
        """Return the best candidate over the resident variants and batch sizes."""
        best: _Candidate | None = None
        for plans, prefixes, uniform in self._prefixes:
            worse = 0
            most = self._most_in_time(prefixes.items) if shares is FINE_SHARES else 0
            for cut in prefixes.cuts_and(shares, most) if most else prefixes.cuts(shares):
                found = self._candidate(plans, prefixes, cut, uniform)
                if found is None:
                    continue
                if best is None or found.score > best.score:
                    best, worse = found, 0
                elif HARMLESS <= best.score[0] >= found.score[0]:
                    worse += 1
                if found.unbound or worse == GIVEN_UP_AFTER:
                    break  # smaller batches have less time for each item, and share less
        return best

    def _most_in_time(self, items: int) -> int:
        """Return how many of so many items fit into a batch that ends by the first deadline, at the cheapest plans."""
        limits, cost = self._limits, self._first.cost
        limit_s = limits.first_s if limits.most_urgent else min(limits.first_s, limits.cap_s)
        return bisect_right(range(1, items + 1), IN_TIME * limit_s, key=cost.shared_s)

    def _candidate(
        self, plans: VariantPlans, prefixes: Prefixes, cut: Cut, uniform: int
    ) -> _Candidate | None:
        view, limits, items = self._view, self._limits, cut.items
        first, costs, rung = self._first, view.costs, 0
        if plans.shorter:
            rung = prefixes.rung(cut)
            plans = plans.at(rung)
        if costs.padded:
            costs = costs.at(rung)
        allowed = self._reach(plans, self._available)
        frontier = plans.frontier(allowed, items)
        share_s = limits.share_s(items)
        cap_s = limits.cap_s
        affordable_s = share_s + view.saved_s - limits.overhead_s
        affordable_s = affordable_s if affordable_s < cap_s else cap_s
        if len(view.worker.plans) > 1:
            step_s = costs.step_above_s(self._available, items, share_s)
            step_s = step_s if step_s > share_s else share_s
            affordable_s = affordable_s if affordable_s < step_s else step_s
        if self._sustained >= 0 and frontier is not None:
            sustained_s = self._sustained_s(frontier)
            affordable_s = affordable_s if affordable_s > sustained_s else sustained_s
        hard_s = limits.hard_s(cut, prefixes.among)
        if self._earning:
            worth_s = self._worth_s(costs, frontier, items, self._most_worth)
            earning_s = min(self._earning * hard_s, cap_s, worth_s)
            affordable_s = affordable_s if affordable_s > earning_s else earning_s
        affordable_s *= STRETCH
        budget_s = affordable_s if affordable_s < hard_s else hard_s
        budget_s = budget_s if budget_s < limits.most_s else limits.most_s
        if cut.whole + (cut.part > 0) <= uniform and not (self.ignore_soft and first.terms.soft):
            reserved = prefixes.reserved(cut) if view.queue.reserved else 0.0
            demand = uniform_demand(view, plans, first, items, allowed, reserved)
            planned = compose_one(plans, demand, budget_s)
        else:
            taken = prefixes.taken(cut)
            demands = demands_of(view, plans, taken, self._reach, ignore_soft=self.ignore_soft)
            planned = compose(plans, demands, budget_s)
        if planned is None or planned.latency_s > limits.first_s:
            return None
        if planned.latency_s > limits.most_s and items > 1:
            return None
        latency_s = planned.latency_s
        left = view.queue.items - items
        parted_s = first.terms.parted_s(items, left) if left > 0 else 0.0
        affordable = latency_s <= budget_s + 1e-12
        if not affordable and limits.most_urgent:
            affordable = latency_s <= min(hard_s, share_s + view.saved_s - limits.overhead_s - parted_s)
        if affordable and self._spent and self._owed(prefixes, cut, planned) > FLOOR_TOLERANCE:
            affordable = False
        if affordable:
            spent = self._pressure * (latency_s + limits.overhead_s) / self._price_s
            score = (2.0, round((planned.accuracy_sum - spent) / items, 9), float(items))
        else:
            score = self._cheap_score(prefixes, cut, planned, hard_s, parted_s)
        unbound = affordable and affordable_s < hard_s and affordable_s < cap_s
        return _Candidate(score, affordable, unbound, plans, frontier, planned, prefixes, cut, share_s)

    def _owed(self, prefixes: Prefixes, cut: Cut, planned: Composition) -> float:
        """By how much a batch's accuracies fall short of its floors in sum: what it draws from balances."""
        if not planned.demands[0].members:
            return self._first.floor * cut.items - planned.accuracy_sum
        return sum([entry.floor * count for entry, count in prefixes.taken(cut)]) - planned.accuracy_sum

    def improved(self, found: _Candidate) -> Composition:
        """Plan a batch anew with the time that buys accuracy far below its price; beyond its share, a little more.

        Else a balance would be spent on modes that save next to no time.
        """
        planned = found.planned
        if len(planned.points) == 1 and planned.points[0] + 1 == len(planned.frontiers[0]):
            return planned  # there is nothing more accurate
        costs = self._view.costs
        if costs.padded:
            costs = costs.at(found.prefixes.rung(found.cut))
        budget_s = self._worth_s(costs, found.frontier, found.cut.items, BARGAIN)
        if not found.affordable:
            budget_s = max(budget_s, STRETCH * planned.latency_s)
        budget_s = min(budget_s, self._limits.hard_s(found.cut, found.prefixes.among), self._limits.most_s)
        better = compose(found.plans, planned.demands, budget_s) if budget_s > planned.latency_s else None
        return better or planned

    def _worth_s(self, costs: LeastCosts, frontier: Frontier | None, items: int, most: float) -> float:
        """The time of a batch up to which more accuracy costs at most ``most`` times its price."""
        if frontier is None:
            return 0.0
        price_s = self._accuracy_s
        if costs is not self._costs:
            price_s = costs.accuracy_price_s(self._available, self._first.floor)
        return frontier.worth_s(most * items * price_s)

    def _sustained_s(self, frontier: Frontier) -> float:
        """The time of a batch at the accuracy that keeps up with the arrivals, at most the cap."""
        point = frontier.cheapest_at(self._sustained - SUSTAINED_TOLERANCE)
        if point is None:
            return 0.0
        latency_s, cap_s = frontier.latency_s[point], self._limits.cap_s
        return latency_s if latency_s < cap_s else cap_s

    def _cheap_score(
        self, prefixes: Prefixes, cut: Cut, planned: Composition, hard_s: float, parted_s: float
    ) -> tuple[float, float, float]:
        """Score a batch that costs more than its share: the least time for each item that harms no one."""
        limits = self._limits
        owed = self._owed(prefixes, cut, planned)
        worth_s = self._price_s * owed if self._needed else 0.0
        item_s = (planned.latency_s + parted_s + limits.overhead_s + worth_s) / cut.items
        short = planned.latency_s <= limits.cap_s or limits.most_urgent
        harmless = (planned.latency_s <= hard_s + 1e-12) + 0.5 * short
        return harmless, float(int(-math.log(max(item_s, 1e-9)) / EFFICIENT)), -float(cut.items)


def _prefixes(view: DispatchView, within: Within | None) -> list[tuple[VariantPlans, Prefixes, int]]:
    """Return each variant with the prefixes that it may answer, and how many of the first jobs are alike."""
    if within is None and len(view.worker.plans) == 1:
        plans = view.worker.plans[0]
        prefixes = Prefixes(view, plans.model.max_batch)
        return [(plans, prefixes, alike(view, prefixes.longest))]
    found: list[tuple[VariantPlans, Prefixes, int]] = []
    known: dict[int, tuple[Prefixes, int]] = {}
    for plans, among in within or [(plans, None) for plans in view.worker.plans]:
        largest = plans.model.max_batch
        if among is not None:
            prefixes = Prefixes(view, largest, among)
            found.append((plans, prefixes, alike(view, prefixes.longest)))
            continue
        if largest not in known:
            prefixes = Prefixes(view, largest)
            known[largest] = prefixes, alike(view, prefixes.longest)
        found.append((plans, *known[largest]))
    return found
