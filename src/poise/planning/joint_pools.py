"""E4's choices, cut down without changing the optimum: pools, hulls, and which kinds others make needless.

A *pool* is a worker kind at a range of counts within which its rates are constant. A mix of its options has a mean
accuracy and takes a mean time of a worker for an item (1/μ); no mix beats the lower convex hull of the points
(accuracy, 1/μ) from the fastest one up, so only its vertices are kept, for each class.

A kind *replaces* another one where as many workers (or several for one, on no more cores) do all that the other can,
nowhere slower at the same accuracy, in no more memory, or where memory cannot run out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from poise.planning.joint_problem import Kind, LoadClass

ACCURACY_TOLERANCE = 1e-9
SAME_TIME = 1e-12
NO_MOST = 1 << 40
"""A count that no budget holds."""

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]
_Bools = NDArray[np.bool_]


class Choice(NamedTuple):
    """An option of a pool for one class. Units: seconds of a worker for an item."""

    accuracy: float
    item_s: float
    option: int


class Pools:
    """The pools of some kinds for some classes, whatever their loads.

    Shapes: pool *p* is of ``kind[p]``, from ``least[p]`` to ``most[p]`` workers; ``rising[u]``: more workers of kind
    *u* are never slower each. Choice *f* is of pool ``pool[f]`` and class ``slo_class[f]``, with ``accuracy[f]``,
    ``item_s[f]`` and ``option[f]``; ``slowest_s[p, q]`` is the largest ``item_s`` (0 where there is no choice),
    ``best_accuracy[p, q]`` the highest accuracy (-1 where there is none).
    ``replaces[u, v]``: kind *u* makes kind *v* needless, in their own order where each does the other.
    """

    def __init__(self, kinds: Sequence[Kind], classes: Sequence[LoadClass], *, hulls: bool = True) -> None:
        self.kinds = tuple(kinds)
        rising: list[bool] = []
        pools: list[tuple[int, int, int]] = []
        choices: list[tuple[int, int, float, float, int]] = []
        for at, kind in enumerate(kinds):
            table = [
                [option.rates.get(each.name, (0.0,) * len(kind.breakpoints)) for each in classes]
                for option in kind.options
            ]
            rising.append(all(a <= b for row in table for rates in row for a, b in pairwise(rates)))
            for least, most, own in _pools_of(kind, classes, table, hulls):
                choices.extend((len(pools), q, *choice) for q, of in enumerate(own) for choice in of)
                pools.append((at, least, most))
        self.rising: _Bools = np.array(rising, dtype=bool)
        columns = np.array(pools, dtype=np.int64).reshape(-1, 3).T
        self.kind: _Integers = columns[0]
        self.least: _Integers = columns[1]
        self.most: _Integers = columns[2]
        self.pool: _Integers = np.array([each[0] for each in choices], dtype=np.int64)
        self.slo_class: _Integers = np.array([each[1] for each in choices], dtype=np.int64)
        self.accuracy: _Floats = np.array([each[2] for each in choices])
        self.item_s: _Floats = np.array([each[3] for each in choices])
        self.option: _Integers = np.array([each[4] for each in choices], dtype=np.int64)
        self.slowest_s: _Floats = np.zeros((len(pools), len(classes)))
        np.maximum.at(self.slowest_s, (self.pool, self.slo_class), self.item_s)
        self.best_accuracy: _Floats = np.full((len(pools), len(classes)), -1.0)
        np.maximum.at(self.best_accuracy, (self.pool, self.slo_class), self.accuracy)
        self._curves = _Curves(self, len(classes)) if hulls else None

    def __len__(self) -> int:
        return len(self.kind)

    def needless(self, memory_binds: bool) -> _Bools:
        """Return which kinds replace which, [replacing, replaced]; of two that do each other, the first one does."""
        if self._curves is None:
            return np.zeros((len(self.kinds), len(self.kinds)), dtype=bool)
        return self._curves.replaces(memory_binds)


def _pools_of(
    kind: Kind,
    classes: Sequence[LoadClass],
    table: Sequence[Sequence[Sequence[float]]],
    hulls: bool,
) -> Iterator[tuple[int, int, list[tuple[Choice, ...]]]]:
    """Yield (least, most, choices of each class); neighbouring ranges with the same choices are one."""
    last: tuple[int, int, list[tuple[Choice, ...]]] | None = None
    for least, most, low, high in _ranges(kind.breakpoints):
        own = [
            _admissible(
                (
                    Choice(option.accuracy, 1 / rate, o)
                    for o, (option, row) in enumerate(zip(kind.options, table, strict=True))
                    if (rate := min(row[q][low], row[q][high])) > 0
                ),
                each,
                hulls,
            )
            for q, each in enumerate(classes)
        ]
        if last is not None and last[2] == own:
            last = last[0], most, own
            continue
        if last is not None and any(last[2]):
            yield last
        last = least, most, own
    if last is not None and any(last[2]):
        yield last


def _ranges(breakpoints: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield ranges of counts, and the two breakpoints (by position) between whose rates the lesser one holds."""
    for at, least in enumerate(breakpoints):
        yield least, least, at, at
        if at + 1 == len(breakpoints):
            yield least + 1, NO_MOST, at, at
        elif breakpoints[at + 1] > least + 1:
            yield least + 1, breakpoints[at + 1] - 1, at, at + 1


def _admissible(choices: Iterable[Choice], each: LoadClass, hulls: bool) -> tuple[Choice, ...]:
    """Return the choices within the floor of scope job, slower and slower; with ``hulls``, only the hull."""
    least = each.floor - ACCURACY_TOLERANCE if each.scope == "job" else 0.0
    found = sorted(
        (choice for choice in choices if choice.accuracy >= least),
        key=lambda choice: (choice.item_s, -choice.accuracy, choice.option),
    )
    if not hulls:
        return tuple(found)
    hull: list[Choice] = []
    for choice in found:
        if hull and choice.accuracy <= hull[-1].accuracy:
            continue
        while len(hull) > 1 and _needless(hull[-2], hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return tuple(hull)


def _needless(first: Choice, middle: Choice, last: Choice) -> bool:
    """Whether a mix of two choices is no worse than the one between them."""
    run = (middle.accuracy - first.accuracy) * (last.item_s - first.item_s)
    return run <= (last.accuracy - first.accuracy) * (middle.item_s - first.item_s)


class _Curves:
    """The hulls of all pools on one grid of accuracies.

    Shapes: ``item_s[p, q, a]``: the least time of an item of class *q* at a mean accuracy of at least ``grid[a]``,
    infinite where there is none.
    """

    def __init__(self, pools: Pools, classes: int) -> None:
        self._pools = pools
        grid = np.unique(pools.accuracy)
        self.item_s: _Floats = np.full((len(pools), classes, len(grid)), np.inf)
        starts = np.flatnonzero(np.diff(pools.pool * classes + pools.slo_class, prepend=-1))
        for low, high in pairwise([*starts.tolist(), len(pools.pool)]):
            accuracy, item_s = pools.accuracy[low:high], pools.item_s[low:high]
            own = np.interp(grid, accuracy, item_s)
            own[grid > accuracy[-1]] = np.inf
            self.item_s[pools.pool[low], pools.slo_class[low]] = own
        self._known: dict[bool, _Bools] = {}

    def replaces(self, memory_binds: bool) -> _Bools:
        found = self._known.get(memory_binds)
        if found is None:
            found = self._known[memory_binds] = self._replaces(memory_binds)
        return found

    def _replaces(self, memory_binds: bool) -> _Bools:
        pools = self._pools
        kinds = pools.kinds
        found = np.zeros((len(kinds), len(kinds)), dtype=bool)
        own = [np.flatnonzero(pools.kind == u) for u in range(len(kinds))]
        able = np.array([len(each) > 0 for each in own], dtype=bool)
        # Of its fastest pool: what is slower there cannot do all.
        last = np.full((len(kinds), *self.item_s.shape[1:]), np.inf)
        for u in np.flatnonzero(able).tolist():
            last[u] = self.item_s[own[u][-1]]
        cores = np.array([kind.cores for kind in kinds])
        memory = np.array([float(kind.memory_bytes) for kind in kinds])
        device = np.array([kind.device for kind in kinds])
        single = np.array([kind.group is None for kind in kinds], dtype=bool)
        for v in np.flatnonzero(able & single).tolist():
            each = np.where(cores > 0, cores[v] // np.maximum(cores, 1), 1)
            may = able & single & pools.rising & (device == device[v]) & (cores <= cores[v])
            if memory_binds:
                may &= each * memory <= memory[v]
            may[v] = False
            who = np.flatnonzero(may)
            fast = last[who] <= each[who][:, None, None] * last[v] * (1 + SAME_TIME)
            for u in who[fast.all(axis=(1, 2))].tolist():
                found[u, v] = self._does_all(own[u], own[v], int(each[u]))
        mutual = found & found.T
        first: _Bools = found & ~(mutual & np.tri(len(kinds), dtype=bool))
        return first

    def _does_all(self, own: _Integers, other: _Integers, each: int) -> bool:
        """Whether ``each`` workers of one kind are nowhere slower than one of another, at any count of those."""
        least = self._pools.least
        if least[own[0]] > each * least[other[0]]:
            return False
        at = own[np.searchsorted(least[own], each * least[other], "right") - 1]
        return bool((self.item_s[at] <= each * self.item_s[other] * (1 + SAME_TIME)).all())
