"""The least that a job costs: what admission and the slack of waiting jobs are reckoned with."""

from __future__ import annotations

import math
from collections.abc import Iterable

from poise.planning.service_model import VariantPlans
from poise.scheduling.view import Policy


class LeastCosts:
    """Cheapest admissible latencies under a policy, over the variants that live workers hold; cached."""

    def __init__(self, policy: Policy, plans: Iterable[VariantPlans]) -> None:
        self._policy = policy
        self._plans = tuple(plans)
        self._rate: dict[tuple[int, float], float] = {}
        self._batch: dict[tuple[int, float, int], float] = {}

    def highest_accuracy(self, available: int) -> float:
        """Return the highest accuracy the policy can reach with these modalities; -inf where it has no mode."""
        return max(
            (p.highest_accuracy(self._policy.reach(p, available)) for p in self._plans), default=-math.inf
        )

    def rate_s(self, available: int, floor: float) -> float:
        """Return the least time of an item in the batch size that costs least for each. Units: profile seconds."""
        key = (available, floor)
        found = self._rate.get(key)
        if found is None:
            largest = max((p.model.max_batch for p in self._plans), default=0)
            found = min(
                (self._cheapest_s(available, floor, batch) / batch for batch in range(1, largest + 1)),
                default=math.inf,
            )
            self._rate[key] = found
        return found

    def latency_s(self, available: int, floor: float, items: int) -> float:
        """Return the least time of that many items alone; beyond the largest batch, whole batches in a row."""
        largest = max((p.model.max_batch for p in self._plans), default=0)
        if not largest:
            return math.inf
        whole, rest = divmod(items, largest)
        total = self._cheapest_s(available, floor, rest) if rest else 0.0
        return total + (whole * self._cheapest_s(available, floor, largest) if whole else 0.0)

    def _cheapest_s(self, available: int, floor: float, batch: int) -> float:
        key = (available, floor, batch)
        found = self._batch.get(key)
        if found is None:
            found = math.inf
            for plans in self._plans:
                frontier = plans.frontier(self._policy.reach(plans, available), batch)
                point = None if frontier is None else frontier.cheapest_at(floor)
                if frontier is not None and point is not None:
                    found = min(found, frontier.latency_s[point])
            self._batch[key] = found
        return found
