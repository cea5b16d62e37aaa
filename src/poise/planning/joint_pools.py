"""E4's choices, cut down without changing the optimum: the pools of each worker kind, and their hulls.

A *pool* is a worker kind at a range of counts within which its rates are constant. Of its options only the vertices
of a hull can be in an optimum, for each class: a mix of options has a mean accuracy and a mean time of a worker for
an item (1/μ), and no mix beats the lower convex hull of the points (accuracy, 1/μ) from the fastest one up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from poise.planning.joint_problem import Kind, LoadClass

ACCURACY_TOLERANCE = 1e-9


class Choice(NamedTuple):
    """An option of a pool for one class. Units: items/s of one worker."""

    accuracy: float
    rate_rps: float
    option: int


class Pool(msgspec.Struct, frozen=True):
    """Workers of a kind, from ``least`` to ``most`` of them (None: as many as fit).

    Shapes: ``choices[q]`` are those of class *q*, by rising accuracy and falling rate.
    """

    kind: int
    least: int
    most: int | None
    choices: tuple[tuple[Choice, ...], ...]


class Pools(msgspec.Struct, frozen=True):
    """The pools of all kinds. ``rising[u]``: more workers of kind *u* are never slower each."""

    pools: tuple[Pool, ...]
    rising: tuple[bool, ...]


def pools_of(kinds: Sequence[Kind], classes: Sequence[LoadClass], *, hulls: bool = True) -> Pools:
    """Return the pools of some kinds for some classes, whatever their loads; ``hulls``: no more than is needed."""
    found: list[Pool] = []
    rising: list[bool] = []
    for at, kind in enumerate(kinds):
        table = [
            [option.rates.get(each.name, (0.0,) * len(kind.breakpoints)) for each in classes]
            for option in kind.options
        ]
        rising.append(all(a <= b for row in table for rates in row for a, b in pairwise(rates)))
        own: list[Pool] = []
        for least, most, low, high in _ranges(kind.breakpoints):
            choices = tuple(
                _admissible(
                    (
                        Choice(option.accuracy, min(row[q][low], row[q][high]), o)
                        for o, (option, row) in enumerate(zip(kind.options, table, strict=True))
                    ),
                    each,
                    hulls,
                )
                for q, each in enumerate(classes)
            )
            if own and own[-1].choices == choices:
                own[-1] = Pool(at, own[-1].least, most, choices)
            else:
                own.append(Pool(at, least, most, choices))
        found.extend(pool for pool in own if any(pool.choices))
    return Pools(tuple(found), tuple(rising))


def _ranges(breakpoints: Sequence[int]) -> Iterable[tuple[int, int | None, int, int]]:
    """Yield ranges of counts, and the two breakpoints (by position) between whose rates the lesser one holds."""
    for at, least in enumerate(breakpoints):
        yield least, least, at, at
        if at + 1 == len(breakpoints):
            yield least + 1, None, at, at
        elif breakpoints[at + 1] > least + 1:
            yield least + 1, breakpoints[at + 1] - 1, at, at + 1


def _admissible(choices: Iterable[Choice], each: LoadClass, hulls: bool) -> tuple[Choice, ...]:
    """Return the choices that carry something within the floor, by rising accuracy; with ``hulls``, only the hull."""
    least = each.floor - ACCURACY_TOLERANCE if each.scope == "job" else 0.0
    found = sorted(
        (c for c in choices if c.rate_rps > 0 and c.accuracy >= least),
        key=lambda c: (-c.rate_rps, -c.accuracy, c.option),
    )
    if not hulls:
        return tuple(found)
    hull: list[Choice] = []
    for choice in found:  # slower and slower
        if hull and choice.accuracy <= hull[-1].accuracy:
            continue
        while len(hull) > 1 and _below(hull[-2], hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return tuple(hull)


def _below(first: Choice, middle: Choice, last: Choice) -> bool:
    """Whether a mix of two choices is no worse than the one between them."""
    run = (middle.accuracy - first.accuracy) * (1 / last.rate_rps - 1 / first.rate_rps)
    return run <= (last.accuracy - first.accuracy) * (1 / middle.rate_rps - 1 / first.rate_rps)
