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
from poise.scheduling.view import DispatchView, Share

Reach = Callable[[VariantPlans, int], int]


class Demand:
    """Items of a batch that may be planned together. ``need`` is the least sum of accuracies over them."""

    __slots__ = ("allowed", "items", "members", "need", "soft")

    def __init__(self, allowed: int, soft: bool) -> None:
        self.allowed = allowed
        self.items = 0
        self.need = 0.0
        self.soft = soft
        self.members: list[tuple[Waiting, int]] = []


class Composition(msgspec.Struct, frozen=True):
    """A planned batch: ``points[d]`` is demand d's place on its frontier; ``accuracy_sum`` is over all items."""

    latency_s: float
    accuracy_sum: float
    demands: Sequence[Demand]
    frontiers: Sequence[Frontier]
    points: Sequence[int]
    below_floor: Sequence[bool]

    def shares(self) -> tuple[Share, ...]:
        """Return each job's part, its items taken from its demand's plan in order."""
        found: list[Share] = []
        for demand, frontier, point, below in zip(
            self.demands, self.frontiers, self.points, self.below_floor, strict=True
        ):
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
                found.append(Share(entry=entry, counts=tuple(counts), below_floor=below))
        return tuple(found)


def demands_of(
    view: DispatchView, plans: VariantPlans, taken: Sequence[tuple[Waiting, int]], reach: Reach
) -> list[Demand]:
    """Group the items (entry, count) of a would-be batch into demands."""
    groups: dict[tuple[object, int], Demand] = {}
    by_class = view.scope == "class"
    for entry, items in taken:
        job = entry.job
        allowed = reach(plans, job.available)
        need = items * entry.floor
        key: object = job.slo_class
        if not by_class:
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
            found = groups[(key, allowed)] = Demand(allowed, view.prefers_deadline(entry))
        found.items += items
        found.need += need
        found.members.append((entry, items))
    if by_class:
        credit: dict[object, float] = {name: view.credit(name) for name in view.balances}
        for (name, _), demand in groups.items():
            used = min(credit[name], demand.need)
            demand.need -= used
            credit[name] -= used
    return list(groups.values())


def compose(
    plans: VariantPlans, demands: Sequence[Demand], budget_s: float, *, ignore_soft: bool = False
) -> Composition | None:
    """Plan a batch: the most accurate within the budget, else the cheapest; None if a need cannot be met.

    With ``ignore_soft``, demands whose class prefers deadlines are planned without their need.
    """
    frontiers: list[Frontier] = []
    points: list[int] = []
    below: list[bool] = []
    for demand in demands:
        frontier = plans.frontier(demand.allowed, demand.items)
        if frontier is None or not len(frontier):
            return None
        point = frontier.cheapest_at(demand.need / demand.items)
        dropped = False
        if (ignore_soft or point is None) and demand.soft:
            dropped = point != 0
            point = 0
        if point is None:
            return None
        frontiers.append(frontier)
        points.append(point)
        below.append(dropped)
    if len(demands) == 1:
        frontier = frontiers[0]
        best = frontier.best_within(budget_s)
        if best is not None and best > points[0]:
            points[0] = best
        latency = frontier.latency_s[points[0]]
    else:
        latency = _buy_accuracy(plans.model, frontiers, points, budget_s)
    below = [
        dropped and frontier.accuracy[point] * demand.items < demand.need - 1e-9
        for dropped, frontier, point, demand in zip(below, frontiers, points, demands, strict=True)
    ]
    accuracy = sum(f.accuracy[p] * d.items for f, p, d in zip(frontiers, points, demands, strict=True))
    return Composition(latency, accuracy, demands, frontiers, points, below)


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
