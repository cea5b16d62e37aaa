"""Which modality sets a given batch uses: E1's frontier for items alike, a greedy join for mixed batches.

Items whose jobs accept the same modality sets and share one accuracy requirement form a *demand*. A batch of
one demand is planned exactly by its frontier. With several (left-out modalities, several classes, scope
``job``), each starts at its cheapest admissible plan, and the time that is left buys, again and again, the
step along some demand's frontier with the most accuracy for the joint latency it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from poise.planning.frontier import Frontier
from poise.planning.latency_model import LatencyModel
from poise.planning.service_model import VariantPlans
from poise.scheduling.queue import Waiting
from poise.scheduling.view import DispatchView

Reach = Callable[[VariantPlans, int], int]


class Demand:
    """Items of a batch that may be planned together. ``need`` is the least sum of accuracies over them."""

    __slots__ = ("allowed", "items", "members", "need")

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.items = 0
        self.need = 0.0
        self.members: list[tuple[Waiting, int]] = []


class Composition(msgspec.Struct, frozen=True):
    """A planned batch: ``points[d]`` is demand d's place on its frontier; ``accuracy_sum`` is over all items."""

    latency_s: float
    accuracy_sum: float
    demands: Sequence[Demand]
    frontiers: Sequence[Frontier]
    points: Sequence[int]

    def counts(self) -> list[tuple[Waiting, tuple[tuple[int, int], ...]]]:
        """Return each job's part as (mask, items), its items taken from its demand's plan in order."""
        found: list[tuple[Waiting, tuple[tuple[int, int], ...]]] = []
        for demand, frontier, point in zip(self.demands, self.frontiers, self.points, strict=True):
            left = list(frontier.pairs(point))
            for entry, items in demand.members:
                counts: list[tuple[int, int]] = []
                wanted = items
                while wanted:
                    mask, count = left[-1]
                    taken = min(count, wanted)
                    counts.append((mask, taken))
                    wanted -= taken
                    if taken == count:
                        left.pop()
                    else:
                        left[-1] = (mask, count - taken)
                found.append((entry, tuple(counts)))
        return found


def demands_of(
    view: DispatchView,
    plans: VariantPlans,
    taken: Sequence[tuple[Waiting, int]],
    reach: Reach,
    *,
    ignore_soft: bool = False,
) -> list[Demand]:
    """Group the items (entry, count) of a would-be batch into demands.

    With ``ignore_soft``, items of classes that prefer deadlines need no accuracy.
    """
    groups: dict[tuple[object, int], Demand] = {}
    by_class = view.scope == "class"
    for entry, items in taken:
        job = entry.job
        allowed = reach(plans, job.available)
        need = items * entry.floor
        key: object = job.slo_class
        if ignore_soft and view.prefers_deadline(entry):
            key, need = "soft", 0.0
        elif by_class:
            if entry.own_terms:
                key = (job.slo_class, entry.floor)
        else:
            need = max(0.0, entry.floor * (entry.planned_items + items) - entry.accuracy_planned)
            if job.items == 1:
                key = "items"
                admissible = allowed & plans.allowed(job.available, entry.floor)
                if admissible:
                    allowed, need = admissible, 0.0
            else:
                key = job.id
        found = groups.get((key, allowed))
        if found is None:
            found = groups[(key, allowed)] = Demand(allowed)
        found.items += items
        found.need += need
        found.members.append((entry, items))
    if by_class:
        credit: dict[object, float] = {name: view.credit(name) for name in view.balances}
        for (name, _), demand in groups.items():
            used = min(credit.get(name, 0.0), demand.need)
            if used:
                credit[name] -= used
                highest = plans.highest_accuracy(demand.allowed) * demand.items
                demand.need = min(demand.need - used, max(demand.need, highest))
    return list(groups.values())


def compose(plans: VariantPlans, demands: Sequence[Demand], budget_s: float) -> Composition | None:
    """Plan a batch: the most accurate within the budget, else the cheapest; None if a need cannot be met."""
    frontiers: list[Frontier] = []
    points: list[int] = []
    for demand in demands:
        frontier = plans.frontier(demand.allowed, demand.items)
        point = None if frontier is None else frontier.cheapest_at(demand.need / demand.items)
        if frontier is None or point is None:
            return None
        frontiers.append(frontier)
        points.append(point)
    if len(demands) == 1:
        best = frontiers[0].best_within(budget_s)
        if best is not None and best > points[0]:
            points[0] = best
        latency = frontiers[0].latency_s[points[0]]
    else:
        latency = _buy_accuracy(plans.model, frontiers, points, budget_s)
    accuracy = sum(f.accuracy[p] * d.items for f, p, d in zip(frontiers, points, demands, strict=True))
    return Composition(latency, accuracy, demands, frontiers, points)


def _buy_accuracy(
    model: LatencyModel, frontiers: Sequence[Frontier], points: list[int], budget_s: float
) -> float:
    """Move points up their frontiers, best value first, while the joint latency stays within the budget."""
    position = {mask: s for s, mask in enumerate(model.sets)}

    def joint(chosen: Sequence[int]) -> float:
        counts = [0] * len(model.sets)
        for frontier, point in zip(frontiers, chosen, strict=True):
            for mask, items in frontier.pairs(point):
                counts[position[mask]] += items
        return model.latency_s(counts)

    latency = joint(points)
    open_demands = set(range(len(frontiers)))
    while open_demands and latency < budget_s:
        best: tuple[float, int, int, float] | None = None
        for d in tuple(open_demands):
            step = _next_step(frontiers[d], points[d])
            if step is None:
                open_demands.discard(d)
                continue
            trial = [*points[:d], step, *points[d + 1 :]]
            cost = joint(trial)
            if cost > budget_s:
                open_demands.discard(d)
                continue
            gain = (frontiers[d].accuracy[step] - frontiers[d].accuracy[points[d]]) * frontiers[d].batch
            value = gain / max(cost - latency, 1e-12)
            if best is None or value > best[0]:
                best = (value, d, step, cost)
        if best is None:
            break
        _, d, points[d], latency = best
    return latency


def _next_step(frontier: Frontier, point: int) -> int | None:
    """Return the point of steepest ascent ahead: the next vertex of the frontier's upper hull."""
    latency, accuracy = frontier.latency_s, frontier.accuracy
    best, best_slope = None, 0.0
    for ahead in range(point + 1, len(frontier)):
        slope = (accuracy[ahead] - accuracy[point]) / max(latency[ahead] - latency[point], 1e-12)
        if slope > best_slope:
            best, best_slope = ahead, slope
    return best
