"""The least that a job costs: what admission and the slack of waiting jobs are reckoned with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from poise.planning.service_model import VariantPlans

PRICE_STEP = 0.02
FLOOR_STEPS = 1000
LAST_BATCHES = 1.5
"""How many efficient batches' time is kept free before the deadline of a job behind a queue."""
EFFICIENT = 0.05
"""A batch is efficient if its time for each item is within this share of the least."""


class LeastCosts:
    """Cheapest admissible latencies under a policy, over the variants that live workers hold; cached."""

    def __init__(self, reach: Callable[[VariantPlans, int], int], plans: Iterable[VariantPlans]) -> None:
        self._reach = reach
        self._plans = tuple(plans)
        self._rate: dict[tuple[int, float], tuple[float, int]] = {}
        self._price: dict[tuple[int, float], float] = {}
        self._batch: dict[tuple[int, float, int], float] = {}

    def highest_accuracy(self, available: int) -> float:
        """Return the highest accuracy the policy can reach with these modalities; -inf where it has no mode."""
        return max((p.highest_accuracy(self._reach(p, available)) for p in self._plans), default=-math.inf)

    def rate_s(self, available: int, floor: float) -> float:
        """Return the least time of an item, in efficient batches. Units: profile seconds."""
        return self._efficient(available, floor)[0]

    def efficient_batch(self, available: int, floor: float) -> int:
        """Return the smallest batch whose time for each item is within ``EFFICIENT`` of the least."""
        return self._efficient(available, floor)[1]

    def _efficient(self, available: int, floor: float) -> tuple[float, int]:
        floor = _stepped(floor)
        key = (available, floor)
        found = self._rate.get(key)
        if found is None:
            largest = max((p.model.max_batch for p in self._plans), default=0)
            rates = [self._cheapest_s(available, floor, batch) / batch for batch in range(1, largest + 1)]
            least = min(rates, default=math.inf)
            batch = next((b for b, rate in enumerate(rates, 1) if rate <= least * (1 + EFFICIENT)), 1)
            found = self._rate[key] = (rates[batch - 1] if rates else math.inf, batch)
        return found

    def accuracy_price_s(self, available: int, floor: float) -> float:
        """Return what one more item's worth of accuracy costs around a floor, in large batches.

        The slope of the least time over the floor: it makes batches that spend or earn credit comparable.
        """
        floor = _stepped(floor)
        key = (available, floor)
        found = self._price.get(key)
        if found is None:
            reach = self.highest_accuracy(available)
            low, high = max(0.0, min(floor, reach) - PRICE_STEP), min(reach, floor + PRICE_STEP)
            largest = max((p.model.max_batch for p in self._plans), default=0)
            found = 0.0
            if largest and high > low:
                rise_s = self._cheapest_s(available, high, largest) - self._cheapest_s(
                    available, low, largest
                )
                found = max(0.0, rise_s / (largest * (high - low))) if math.isfinite(rise_s) else 0.0
            self._price[key] = found
        return found

    def last_batch_s(self, available: int, floor: float, items: int, ahead: int) -> float:
        """Return the time to allow for the batch that ends a job, with ``ahead`` items waiting before it.

        A job is done when its whole batch is. Behind a queue, batches are efficient ones, so that much is kept
        free before its deadline: else it would force a small, dear batch on everyone behind it.
        """
        own_s = self.latency_s(available, floor, items)
        if not ahead:
            return own_s
        batch = min(self.efficient_batch(available, floor), ahead)
        return max(own_s, LAST_BATCHES * self.latency_s(available, floor, batch))

    def latency_s(self, available: int, floor: float, items: int) -> float:
        """Return the least time of that many items alone; beyond the largest batch, whole batches in a row."""
        largest = max((p.model.max_batch for p in self._plans), default=0)
        if not largest:
            return math.inf
        whole, rest = divmod(items, largest)
        total = self._cheapest_s(available, floor, rest) if rest else 0.0
        return total + (whole * self._cheapest_s(available, floor, largest) if whole else 0.0)

    def _cheapest_s(self, available: int, floor: float, batch: int) -> float:
        floor = _stepped(floor)
        key = (available, floor, batch)
        found = self._batch.get(key)
        if found is None:
            found = math.inf
            for plans in self._plans:
                frontier = plans.frontier(self._reach(plans, available), batch)
                if frontier is None or not len(frontier):
                    continue
                point = frontier.cheapest_at(floor)
                if point is None and frontier.accuracy[-1] >= floor - 1 / FLOOR_STEPS:
                    point = -1  # the highest there is: only the step lies above it
                if point is not None:
                    found = min(found, frontier.latency_s[point])
            self._batch[key] = found
        return found


def _stepped(floor: float) -> float:
    """Return the floor a thousandth at most above, on a grid: floors may be any client's, the caches may not grow."""
    return math.ceil(floor * FLOOR_STEPS - 1e-6) / FLOOR_STEPS
