"""Every whole number of workers there is: what E4's answers are held against in tests.

All counts that fit the budget are gone through. What they carry and how accurately is a linear programme in the flows
(items/s), stated anew here: no pools, no hulls, no brackets, no ladder of load times.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import product
from math import inf
from typing import NamedTuple

from poise.planning.joint_problem import JointProblem, Kind, residence_of
from poise.planning.milp import Programme

TOLERANCE = 1e-8

Counts = tuple[tuple[int, ...], ...]
"""[cell][kind]."""


class Best(NamedTuple):
    """The least weighted shed, as a share of the weighted load, and the highest objective with it."""

    shed: float
    objective: float


def every_count(problem: JointProblem) -> Iterator[Counts]:
    """Yield all counts that fit every cell's budget, but for what the front end needs."""
    of_cell = [
        counts
        for counts in product(*(range(problem.most_workers(kind) + 1) for kind in problem.kinds))
        if _fits(problem, counts)
    ]
    yield from product(of_cell, repeat=problem.cells)


def _fits(problem: JointProblem, counts: tuple[int, ...]) -> bool:
    cores = memory = 0
    devices: dict[str, int] = {}
    groups: dict[str, int] = {}
    for kind, count in zip(problem.kinds, counts, strict=True):
        cores += kind.cores * count
        memory += kind.memory_bytes * count
        if kind.device != "cpu":
            devices[kind.device] = devices.get(kind.device, 0) + count
        if kind.group is not None:
            groups[kind.group] = groups.get(kind.group, 0) + count
    return (
        cores <= problem.cores
        and memory <= problem.memory_bytes
        and all(count <= problem.accelerators.get(device, 0) for device, count in devices.items())
        and all(count <= 1 for count in groups.values())
    )


def best_of_all(problem: JointProblem) -> Best:
    """Return the best there is."""
    idle = problem.value <= 0
    found: list[tuple[float, float, Counts]] = []
    for counts in every_count(problem):
        shed = 0.0 if idle else _solved(problem, counts, None)
        if shed is not None:
            fixed = _fixed(problem, counts)
            found.append((shed, fixed, counts))
    least = min(shed for shed, _, _ in found)
    best = -inf
    for shed, fixed, counts in sorted(found, key=lambda each: -each[1]):
        if shed > least + TOLERANCE or problem.alpha + fixed <= best:
            continue
        accuracy = _idle(problem, counts) if idle else _solved(problem, counts, shed)
        if accuracy is not None:
            best = max(best, problem.alpha * accuracy + fixed)
    return Best(least, best)


def _fixed(problem: JointProblem, counts: Counts) -> float:
    """What cores and loading cost."""
    cores = sum(
        kind.cores * count for cell in counts for kind, count in zip(problem.kinds, cell, strict=True)
    )
    loaded_s = 0.0
    for at, cell in enumerate(counts):
        for kind in problem.kinds:
            wanted = sum(
                count
                for other, count in zip(problem.kinds, cell, strict=True)
                if other.residence == kind.residence
            )
            there = sum(
                workers.count
                for workers in (*problem.running, *problem.standby)
                if workers.cell == at and residence_of(workers) == kind.residence
            )
            if wanted > there:
                loaded_s = max(loaded_s, kind.load_s)
    share = cores / (problem.cores * problem.cells) if problem.cores else 0.0
    return -problem.beta * share - problem.gamma * loaded_s / problem.load_unit_s


def rate_of(kind: Kind, option: int, slo_class: str, count: int) -> float:
    """Return the items/s of each of so many workers; between two breakpoints the lesser of theirs."""
    rates = kind.options[option].rates.get(slo_class)
    if not rates or not count:
        return 0.0
    at = bisect_right(kind.breakpoints, count) - 1
    if kind.breakpoints[at] == count or at + 1 == len(rates):
        return rates[at]
    return min(rates[at], rates[at + 1])


def _idle(problem: JointProblem, counts: Counts) -> float:
    """Return the mean accuracy where every class has infinitely little load, and need not be answered."""
    weight = sum(each.weight for each in problem.classes)
    return sum(
        each.weight
        / weight
        * max(
            (
                option.accuracy
                for cell in counts
                for kind, count in zip(problem.kinds, cell, strict=True)
                for o, option in enumerate(kind.options)
                if rate_of(kind, o, each.name, count) > 0 and option.accuracy >= each.floor - 1e-9
            ),
            default=0.0,
        )
        for each in problem.classes
    )


def _solved(problem: JointProblem, counts: Counts, most_shed: float | None) -> float | None:
    """Return the least weighted shed (share of the weighted load); with a most, the highest mean accuracy."""
    programme = Programme()
    classes = [each for each in problem.classes if each.load_rps * each.weight > 0]
    shed = {each.name: programme.column(upper=each.load_rps) for each in classes}
    costs: dict[int, float] = {}
    carried: dict[str, list[tuple[int, float]]] = {each.name: [(shed[each.name], 1.0)] for each in classes}
    accurate: dict[str, list[tuple[int, float]]] = {each.name: [] for each in classes}
    for cell in counts:
        front: list[tuple[int, float]] = []
        for kind, count in zip(problem.kinds, cell, strict=True):
            busy: list[tuple[int, float]] = []
            for each, (o, option) in product(classes, enumerate(kind.options)):
                rate = rate_of(kind, o, each.name, count)
                if rate <= 0 or (each.scope == "job" and option.accuracy < each.floor - 1e-9):
                    continue
                flow = programme.column()
                costs[flow] = each.weight * option.accuracy / problem.value
                busy.append((flow, 1 / rate))
                front.append((flow, each.front_end_s))
                carried[each.name].append((flow, 1.0))
                accurate[each.name].append((flow, option.accuracy))
            programme.row(busy, upper=float(count))
        used = sum(kind.cores * count for kind, count in zip(problem.kinds, cell, strict=True))
        programme.row(front, upper=float(problem.cores - used))
    for each in classes:
        programme.row(carried[each.name], lower=each.load_rps, upper=each.load_rps)
        if each.scope == "class":
            above = [*accurate[each.name], (shed[each.name], each.floor - 1e-9)]
            programme.row(above, lower=(each.floor - 1e-9) * each.load_rps)
    gone = [(shed[each.name], each.weight / problem.value) for each in classes]
    if most_shed is None:
        programme.price({column: -weight for column, weight in gone})
        solved = programme.solve()
        return -solved.objective if solved.found else None
    programme.row(gone, upper=most_shed + 1e-10)
    programme.price(costs)
    solved = programme.solve()
    return solved.objective if solved.found else None
