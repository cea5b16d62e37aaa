"""The least that a job costs: what admission and the slack of waiting jobs are reckoned with."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from poise.planning.service_model import VariantPlans
from poise.scheduling.hull import upper_hull

if TYPE_CHECKING:
    from poise.scheduling.queue import Waiting

K = TypeVar("K")
V = TypeVar("V")

PRICE_STEP = 0.02
FLOOR_STEPS = 1000
WAITED_BATCHES = 1.5
"""How many batches' time of an SLO is not there for waiting: a job's own, and on average half of the one that runs."""
SPARE_OF_SLO, SPARE_OF_BATCH = 0.05, 0.5
"""Beside the batch that ends a job so much of the SLO is kept free before its deadline, at most so much of the batch:
workers and front ends are never quite on time."""
BETTER = 0.01
"""A larger batch is worth its latency if it carries so much more load."""
REFUSED_EXPONENT = 2.3
"""−½·ln of the share of jobs that may find no room (1 %)."""
SUSTAINED_STEP = math.log(1.05)
MOST_TERMS, MOST_FIGURES = 4096, 2**15
"""Floors and deadlines may be any client's: what is kept for each is dropped when there is more than this."""


def carried(batch_s: float, items: int, slo_s: float) -> float:
    """Return the items per second that batches of this size and time carry, with 99 % of them within the SLO.

    Larger batches cost less time for each item and leave less of the SLO for waiting. Of Poisson arrivals at
    utilisation *ρ*, served in *r* = ``batch_s``/``items`` seconds each, a share of about exp(−2(1 − ρ)·S/r) finds
    more than *S* seconds of work ahead (Kingman's approximation of heavy traffic); *S* is what the SLO leaves beside
    ``WAITED_BATCHES`` of such batches. Where it leaves nothing the value is negative, and orders by how much.
    """
    item_s = max(batch_s / items, 1e-9)
    room_s = slo_s - WAITED_BATCHES * batch_s
    if room_s <= 0:
        return room_s - batch_s
    return max(0.0, 1.0 - REFUSED_EXPONENT * item_s / room_s) / item_s


class Terms:
    """What jobs have in common for planning: class, floor, modalities. Jobs of equal terms share the object.

    ``item_work_s``: the least time of an item, in efficient batches (profile seconds); ``ordinary``: held to its
    class's floor or above it; ``each``: its one item has to reach the floor by itself (scope ``job``).
    """

    __slots__ = (
        "_batches_s", "_tails_s", "_works_s", "available", "each", "efficient_batch", "floor", "item_work_s",
        "ordinary", "slo_class", "slo_s", "soft",
    )  # fmt: skip

    def __init__(
        self,
        slo_class: str,
        floor: float,
        available: int,
        *,
        soft: bool,
        ordinary: bool,
        each: bool,
        rate: tuple[float, int],
        batches_s: tuple[float, ...],
        slo_s: float,
    ) -> None:
        self.slo_class = slo_class
        self.slo_s = slo_s
        self.floor = floor
        self.available = available
        self.soft = soft
        self.ordinary = ordinary
        self.each = each
        self.item_work_s, self.efficient_batch = rate
        self._batches_s = batches_s
        self._works_s = tuple(
            min(items * self.item_work_s, batch_s) if items else 0.0
            for items, batch_s in enumerate(batches_s)
        )
        self._tails_s = tuple(
            batch_s - work_s if batch_s < math.inf else 0.0
            for batch_s, work_s in zip(batches_s, self._works_s, strict=True)
        )

    def alike(self, other: Terms) -> bool:
        """Whether items on other terms may be planned as if on these: they differ in rung at most."""
        return (
            self.slo_class == other.slo_class
            and self.floor == other.floor
            and self.available == other.available
            and self.each == other.each
        )

    def latency_s(self, items: int) -> float:
        """Return the least time of so many items alone; beyond the largest batch, whole batches in a row."""
        batches_s = self._batches_s
        if items < len(batches_s):
            return batches_s[items]
        if len(batches_s) < 2:
            return math.inf
        whole, rest = divmod(items, len(batches_s) - 1)
        return whole * batches_s[-1] + batches_s[rest]

    def shared_s(self, items: int) -> float:
        """Return the least time of one batch of so many items; infinite where none is as large."""
        return self._batches_s[items] if items < len(self._batches_s) else math.inf

    def last_batch_s(self, items: int, ahead: int) -> float:
        """Return the time to allow for the batch that ends a job, with ``ahead`` items waiting before it.

        A job is done when its whole batch is. Behind a queue, batches are efficient ones, so one of them, and a little
        more, is kept free before its deadline: else it would force a small, dear batch on everyone behind it.
        """
        own_s = self.latency_s(items)
        if not ahead:
            return own_s
        last_s = self.latency_s(self.efficient_batch if self.efficient_batch < ahead else ahead)
        spare_s, most_s = SPARE_OF_SLO * self.slo_s, SPARE_OF_BATCH * last_s
        last_s += spare_s if spare_s < most_s else most_s
        return last_s if last_s > own_s else own_s

    def work_s(self, items: int) -> float:
        """Return the work of so many items of a job: in efficient batches, or in one of its own if that is less."""
        works_s = self._works_s
        if items < len(works_s):
            return works_s[items]
        return items * self.item_work_s

    def parted_s(self, items: int, rest: int) -> float:
        """Return what it costs to answer so many items in two batches instead of one; 0 where one is too small."""
        if items + rest >= len(self._batches_s):
            return 0.0
        extra_s = self._batches_s[items] + self._batches_s[rest] - self._batches_s[items + rest]
        return extra_s if 0.0 < extra_s < math.inf else 0.0

    def tail_s(self, items: int) -> float:
        """Return what so many items cost beyond their work if they are batches of their own."""
        tails_s = self._tails_s
        if items < len(tails_s):
            return tails_s[items]
        if len(tails_s) < 2:
            return 0.0
        whole, rest = divmod(items, len(tails_s) - 1)
        return whole * tails_s[-1] + tails_s[rest]


class LeastCosts:
    """Cheapest admissible latencies under a policy, over the variants that live workers hold; cached.

    Where stages have buckets these are for the longest; ``at`` gives those for shorter items.
    """

    def __init__(self, reach: Callable[[VariantPlans, int], int], plans: Iterable[VariantPlans]) -> None:
        self._reach = reach
        self._plans = tuple(plans)
        self._shorter: dict[int, LeastCosts] = {}
        self._rungs = max((len(p.shorter) for p in self._plans), default=0)
        self.padded = self._rungs > 0
        """Whether shorter items cost less than these."""
        self.largest_batch = max((p.model.max_batch for p in self._plans), default=0)
        self._highest: dict[int, float] = {}
        self._sustained: dict[tuple[int, int, int], tuple[float, int]] = {}
        self._lowest: dict[int, float] = {}
        self._rate: dict[tuple[int, float, float, bool], tuple[float, int]] = {}
        self._price: dict[tuple[int, float], float] = {}
        self._hulls: dict[tuple[int, int], list[tuple[float, float]]] = {}
        self._batch: dict[tuple[int, float, int, bool], float] = {}
        self._terms: dict[tuple[str, float, int, bool, float], Terms] = {}

    def at(self, rung: int) -> LeastCosts:
        """Return the costs of items of a rung in batches of their own: these, where there are no shorter ones."""
        if rung >= self._rungs:
            return self
        found = self._shorter.get(rung)
        if found is None:
            found = self._shorter[rung] = LeastCosts(self._reach, [p.at(rung) for p in self._plans])
        return found

    def beside(self, entry: Waiting, entries: Sequence[Waiting], at: int) -> Terms:
        """Return a job's terms in a batch that it may share with the jobs waiting just before place ``at``."""
        own, rung = entry.cost, entry.job.bucket
        if rung >= self._rungs:
            return own
        neighbours = entries[max(0, at - self.largest_batch) : at]
        longest = max([rung, *[other.job.bucket for other in neighbours]])
        if longest == rung:
            return own
        class_floor = -math.inf if own.ordinary else math.inf
        return self.at(longest).terms(
            own.slo_class, own.floor, own.available, own.soft, own.each, class_floor, own.slo_s
        )

    def highest_accuracy(self, available: int) -> float:
        """Return the highest accuracy the policy can reach with these modalities; -inf where it has no mode."""
        found = self._highest.get(available)
        if found is None:
            found = max(
                (p.highest_accuracy(self._reach(p, available)) for p in self._plans), default=-math.inf
            )
            self._highest[available] = found
        return found

    def lowest_accuracy(self, available: int) -> float:
        """Return the accuracy of the cheapest mode with these modalities, in the smallest batch."""
        found = self._lowest.get(available)
        if found is None:
            least = (math.inf, 0.0)
            for plans in self._plans:
                frontier = plans.frontier(self._reach(plans, available), 1)
                if frontier is not None and len(frontier):
                    least = min(least, (frontier.latency_s[0], frontier.accuracy[0]))
            found = self._lowest[available] = least[1]
        return found

    def terms(
        self,
        slo_class: str,
        floor: float,
        available: int,
        soft: bool,
        each: bool,
        class_floor: float,
        slo_s: float,
    ) -> Terms:
        """Return the terms of a job planned at a floor; ``soft``: its class prefers deadlines to floors."""
        key = (slo_class, floor, available, each, slo_s)
        found = self._terms.get(key)
        if found is None:
            least = 0.0 if soft else floor
            rate = self.efficient(available, least, slo_s, each=each)
            batches_s = (
                0.0,
                *(self._cheapest_s(available, least, n, each) for n in range(1, self.largest_batch + 1)),
            )
            ordinary = floor >= class_floor - 1e-9
            kind = {"soft": soft, "ordinary": ordinary, "each": each}
            made = Terms(slo_class, floor, available, **kind, rate=rate, batches_s=batches_s, slo_s=slo_s)
            found = _keep(self._terms, key, made, MOST_TERMS)
        return found

    def efficient(
        self, available: int, floor: float, slo_s: float, *, each: bool = False
    ) -> tuple[float, int]:
        """Return the least time of an item, and the batch that reaches it: that which carries the highest load.

        See ``carried``. Units: profile seconds, items.
        """
        floor = stepped(floor)
        key = (available, floor, slo_s, each)
        found = self._rate.get(key)
        if found is None:
            found, highest = (math.inf, 1), -math.inf
            for batch in range(1, self.largest_batch + 1):
                batch_s = self._cheapest_s(available, floor, batch, each)
                if batch_s == math.inf:
                    continue
                load = carried(batch_s, batch, slo_s)
                if found[0] == math.inf or load > highest + BETTER * abs(highest):
                    found, highest = (batch_s / batch, batch), load
            _keep(self._rate, key, found, MOST_TERMS)
        return found

    def accuracy_price_s(self, available: int, floor: float) -> float:
        """Return what one more item's worth of accuracy costs around a floor, in large batches.

        The slope of the least time over the floor: it makes batches that spend or earn credit comparable.
        """
        floor = stepped(floor)
        key = (available, floor)
        found = self._price.get(key)
        if found is None:
            reach = self.highest_accuracy(available)
            low, high = max(0.0, min(floor, reach) - PRICE_STEP), min(reach, floor + PRICE_STEP)
            largest = self.largest_batch
            found = 0.0
            if largest and high > low:
                rise_s = self._cheapest_s(available, high, largest) - self._cheapest_s(
                    available, low, largest
                )
                found = max(0.0, rise_s / (largest * (high - low))) if math.isfinite(rise_s) else 0.0
            if found <= 0.0:  # the floor lies below every mode
                found = self._least_price_s(available)
            _keep(self._price, key, found, MOST_TERMS)
        return found

    def _least_price_s(self, available: int) -> float:
        """Return what accuracy costs beyond the cheapest mode, in large batches; 0 where there is none to be had."""
        hull = self._hull(available, self.largest_batch)
        if len(hull) < 2:
            return 0.0
        (time_s, accuracy), (next_s, more) = hull[:2]
        return (next_s - time_s) / (self.largest_batch * (more - accuracy))

    def sustained(self, terms: Terms, item_s: float, batch_s: float) -> tuple[float, int]:
        """Return the highest accuracy that batches of at most ``batch_s`` reach in ``item_s`` for each item.

        And the largest batch that does: while no more items wait, such batches keep up with arrivals that far apart.
        Accuracy -1 where none keeps up. Units: profile seconds; both are taken in steps of a twentieth, downwards.
        """
        steps = math.floor(math.log(item_s if item_s > 1e-9 else 1e-9) / SUSTAINED_STEP)
        longest = math.floor(math.log(batch_s if batch_s > 1e-9 else 1e-9) / SUSTAINED_STEP)
        key = (terms.available, steps, longest)
        found = self._sustained.get(key)
        if found is None:
            item_s, batch_s = math.exp(steps * SUSTAINED_STEP), math.exp(longest * SUSTAINED_STEP)
            found = (-1.0, 0)
            for plans in self._plans:
                allowed = self._reach(plans, terms.available)
                for batch in range(1, plans.model.max_batch + 1):
                    frontier = plans.frontier(allowed, batch)
                    point = None if frontier is None else frontier.best_within(min(batch_s, item_s * batch))
                    if frontier is not None and point is not None:
                        found = max(found, (round(frontier.accuracy[point], 6), batch))
            _keep(self._sustained, key, found, MOST_TERMS)
        return found

    def step_above_s(self, available: int, batch: int, latency_s: float) -> float:
        """Return the time of the first vertex, above a time, of the hull over all variants' batches of a size.

        Spending more at once than that is worse than going back and forth between the vertices around a time.
        """
        hull = self._hull(available, batch)
        place = bisect_right(hull, (latency_s, math.inf))
        return hull[place][0] if place < len(hull) else math.inf

    def _hull(self, available: int, batch: int) -> list[tuple[float, float]]:
        """Return the upper hull of (time, accuracy) over all variants' batches of a size. Units: profile seconds."""
        found = self._hulls.get((available, batch))
        if found is None:
            points = sorted(
                (frontier.latency_s[i], -frontier.accuracy[i])
                for plans in self._plans
                if (frontier := plans.frontier(self._reach(plans, available), batch)) is not None
                for i in range(len(frontier))
            )
            found = self._hulls[available, batch] = upper_hull([(t, -a) for t, a in points])
        return found

    def latency_s(self, available: int, floor: float, items: int, *, each: bool = False) -> float:
        """Return the least time of that many items alone; beyond the largest batch, whole batches in a row.

        The floor is on their mean, or on ``each`` of them.
        """
        largest = self.largest_batch
        if items <= largest:
            return self._cheapest_s(available, floor, items, each)
        if not largest:
            return math.inf
        whole, rest = divmod(items, largest)
        total = self._cheapest_s(available, floor, rest, each) if rest else 0.0
        return total + whole * self._cheapest_s(available, floor, largest, each)

    def _cheapest_s(self, available: int, floor: float, batch: int, each: bool = False) -> float:
        key = (available, floor := stepped(floor), batch, each)
        found = self._batch.get(key)
        if found is None:
            found = math.inf
            for plans in self._plans:
                allowed, least = self._reach(plans, available), floor
                admissible = allowed & plans.allowed(available, floor - 1 / FLOOR_STEPS) if each else 0
                if admissible:
                    allowed, least = admissible, 0.0
                frontier = plans.frontier(allowed, batch)
                if frontier is None or not len(frontier):
                    continue
                point = frontier.cheapest_at(least)
                if point is None and frontier.accuracy[-1] >= floor - 1 / FLOOR_STEPS:
                    point = -1  # the highest there is: only the step lies above it
                if point is not None:
                    found = min(found, frontier.latency_s[point])
            _keep(self._batch, key, found, MOST_FIGURES)
        return found


def _keep(known: dict[K, V], key: K, value: V, most: int) -> V:
    """Keep a value, instead of all that are kept where they are too many; return it."""
    if len(known) >= most:
        known.clear()
    known[key] = value
    return value


def stepped(floor: float) -> float:
    """Return the floor a thousandth at most above, on a grid: floors may be any client's, the caches may not grow."""
    return math.ceil(floor * FLOOR_STEPS - 1e-6) / FLOOR_STEPS
