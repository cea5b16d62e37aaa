"""Which modality sets a given batch uses: E1's frontier for items alike, a greedy join for mixed batches.

Items whose jobs accept the same modality sets and share one accuracy requirement form a *demand*. A batch of
one demand is planned exactly by its frontier. With several (left-out modalities, several classes, scope
``job``), each starts at its cheapest admissible plan, and the time that is left buys, again and again, the
step along some demand's frontier with the most accuracy for the joint latency it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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

    def __init__(self, allowed: int, items: int = 0, need: float = 0.0) -> None:
        self.allowed = allowed
        self.items = items
        self.need = need
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
            pairs = frontier.pairs(point)
            if len(pairs) == 1:
                mask = pairs[0][0]
                found += [(entry, ((mask, items),)) for entry, items in demand.members]
                continue
            left = list(pairs)
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


def alike(view: DispatchView, taken: Sequence[tuple[Waiting, int]]) -> int:
    """Return how many of the first jobs form one demand together, however many of them are taken."""
    terms = taken[0][0].terms
    count = 0
    if view.scope == "class":
        for entry, _ in taken:
            if entry.terms is not terms and not terms.alike(entry.terms):
                break
            count += 1
        return count
    for entry, _ in taken:
        if (entry.terms is not terms and not terms.alike(entry.terms)) or entry.job.items != 1:
            break
        count += 1
    return count


def uniform_demand(
    view: DispatchView, plans: VariantPlans, entry: Waiting, items: int, allowed: int, reserved: float
) -> Demand:
    """Return the demand of so many items of jobs that are ``alike`` the given one, without its members.

    ``allowed``: the sets that the policy would use for them; ``reserved``: the credit that is kept for these jobs.
    """
    terms = entry.terms
    demand = Demand(allowed, items, terms.floor * items)
    if view.scope == "class":
        if terms.ordinary:
            _spend(demand, _usable(view, terms.slo_class, reserved), plans)
    else:
        admissible = demand.allowed & plans.allowed(terms.available, terms.floor)
        if admissible:
            demand.allowed, demand.need = admissible, 0.0
    return demand


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
        if ignore_soft and entry.terms.soft:
            key, need = None, 0.0
        elif by_class:
            if entry.own_terms:
                key = (job.slo_class, entry.floor)
        else:
            need = max(0.0, entry.floor * (entry.planned_items + items) - entry.accuracy_planned)
            key = job.id
            if job.items == 1:
                admissible = allowed & plans.allowed(job.available, entry.floor)
                if admissible:
                    key, allowed, need = "items", admissible, 0.0
        found = groups.get((key, allowed))
        if found is None:
            found = groups[(key, allowed)] = Demand(allowed)
        found.items += items
        found.need += need
        found.members.append((entry, items))
    if by_class:
        _spend_credit(view, plans, taken, groups)
    return list(groups.values())


def _spend_credit(
    view: DispatchView,
    plans: VariantPlans,
    taken: Sequence[tuple[Waiting, int]],
    groups: Mapping[tuple[object, int], Demand],
) -> None:
    reserved = dict.fromkeys(view.balances, 0.0)
    if view.queue.reserved:
        for entry, _ in taken:
            reserved[entry.job.slo_class] += entry.reserved
    credit: dict[object, float] = {name: _usable(view, name, kept) for name, kept in reserved.items()}
    for (name, _), demand in groups.items():
        if name in credit:
            credit[name] -= _spend(demand, credit[name], plans)


def _usable(view: DispatchView, slo_class: str, reserved: float) -> float:
    """Return the credit that a batch may spend: what no job keeps, and what is ``reserved`` for its own jobs.

    Never more than there is: what was reserved may have been owed since, to a gain that did not come.
    """
    credit = view.balances[slo_class].credit
    if not reserved and not view.queue.reserved.get(slo_class):
        return credit
    return min(credit, view.credit(slo_class) + reserved)


def _spend(demand: Demand, credit: float, plans: VariantPlans) -> float:
    """Lower a demand's need by what credit there is; where it is negative, raise it as far as the modes reach."""
    used = credit if credit < demand.need else demand.need
    if used < 0:
        highest = plans.highest_accuracy(demand.allowed) * demand.items
        used = -max(0.0, min(-used, highest - demand.need))
    demand.need -= used
    return used


def compose(plans: VariantPlans, demands: Sequence[Demand], budget_s: float) -> Composition | None:
    """Plan a batch: the most accurate within the budget, else the cheapest; None if a need cannot be met."""
    if len(demands) == 1:
        return compose_one(plans, demands[0], budget_s)
    frontiers: list[Frontier] = []
    points: list[int] = []
    for demand in demands:
        frontier = plans.frontier(demand.allowed, demand.items)
        point = None if frontier is None else frontier.cheapest_at(demand.need / demand.items)
        if frontier is None or point is None:
            return None
        frontiers.append(frontier)
        points.append(point)
    latency = _buy_accuracy(plans.model, frontiers, points, budget_s)
    accuracy = sum(f.accuracy[p] * d.items for f, p, d in zip(frontiers, points, demands, strict=True))
    return Composition(latency, accuracy, demands, frontiers, points)


def compose_one(plans: VariantPlans, demand: Demand, budget_s: float) -> Composition | None:
    """Plan a batch of one demand: its frontier has the answer."""
    frontier = plans.frontier(demand.allowed, demand.items)
    if frontier is None:
        return None
    point = frontier.cheapest_at(demand.need / demand.items)
    if point is None:
        return None
    if frontier.latency_s[point] < budget_s:
        best = frontier.best_within(budget_s)
        if best is not None and best > point:
            point = best
    return Composition(
        frontier.latency_s[point], frontier.accuracy[point] * demand.items, (demand,), (frontier,), (point,)
    )


class _State:
    """Demands that stand at the same point of the same frontier: what a step of one costs, it costs for all."""

    __slots__ = ("demands", "frontier", "gain", "point", "step", "uses")

    def __init__(self, model: LatencyModel, frontier: Frontier, point: int) -> None:
        self.frontier = frontier
        self.point = point
        self.demands: list[int] = []
        self.step = frontier.next_vertex(point)
        self.uses: list[int] = []
        self.gain = 0.0
        if self.step is not None:
            before, after = stage_counts(model, frontier, point), stage_counts(model, frontier, self.step)
            self.uses = [b - a for a, b in zip(before, after, strict=True)]
            self.gain = (frontier.accuracy[self.step] - frontier.accuracy[point]) * frontier.batch


def _buy_accuracy(
    model: LatencyModel, frontiers: Sequence[Frontier], points: list[int], budget_s: float
) -> float:
    """Move points up their frontiers, best value first, while the joint latency stays within the budget."""
    states: dict[tuple[int, int], _State] = {}

    def place(d: int) -> None:
        key = (id(frontiers[d]), points[d])
        state = states.get(key)
        if state is None:
            state = states[key] = _State(model, frontiers[d], points[d])
        state.demands.append(d)

    tables = [group.table for group in model.groups]
    totals = [0] * len(tables)
    for d, (frontier, point) in enumerate(zip(frontiers, points, strict=True)):
        place(d)
        for g, count in enumerate(stage_counts(model, frontier, point)):
            totals[g] += count
    latency = _time_s(tables, totals)
    closed: set[tuple[int, int]] = set()
    while latency < budget_s:
        best: tuple[float, tuple[int, int], float] | None = None
        for key, state in states.items():
            if state.step is None or not state.demands or key in closed:
                continue
            cost = _time_s(tables, [n + more for n, more in zip(totals, state.uses, strict=True)])
            if cost > budget_s:
                closed.add(key)
                continue
            value = state.gain / max(cost - latency, 1e-12)
            if best is None or value > best[0]:
                best = (value, key, cost)
        if best is None:
            break
        _, key, latency = best
        state = states[key]
        totals = [n + more for n, more in zip(totals, state.uses, strict=True)]
        d = state.demands.pop()
        points[d] = state.step if state.step is not None else points[d]
        place(d)
    return latency


def stage_counts(model: LatencyModel, frontier: Frontier, point: int) -> list[int]:
    """Return the items that each stage group runs at a point of a frontier over some of the model's sets."""
    found = [0] * len(model.groups)
    for mask, items in frontier.pairs(point):
        s = model.sets.index(mask)
        for g, group in enumerate(model.groups):
            if group.uses[s]:
                found[g] += items
    return found


def _time_s(tables: Sequence[Sequence[float]], counts: Sequence[int]) -> float:
    total = 0.0
    for table, count in zip(tables, counts, strict=True):
        if count >= len(table):
            return float("inf")
        total += table[count]
    return total
