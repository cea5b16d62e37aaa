"""E4 as a mixed-integer programme: of some kinds, some of which may be had only where they are loaded already.

Columns: what each class sheds, how many workers each pool has in each cell, whether a pool is in use at all (only
where its count may not be just any from 0 up), and flows, as shares of their class's load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from poise.planning.joint_pools import ACCURACY_TOLERANCE, Pools
from poise.planning.joint_problem import JointProblem
from poise.planning.milp import Programme, Solved

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]
_Bools = NDArray[np.bool_]

Counts = tuple[tuple[int, ...], ...]
"""Workers, [cell][kind]."""

LEAST_SHARE = 1e-9
"""What is shed or flows below this share of a class's load is rounding."""


class Loads:
    """The loads of a problem as shares. Without any load each class counts as one of infinitely little.

    Shapes: ``load[q]`` in items/s, ``value[q]`` the share of class *q* in Σ weight·load.
    """

    def __init__(self, problem: JointProblem) -> None:
        self.idle = problem.value <= 0
        load = [1.0 if self.idle else each.load_rps for each in problem.classes]
        self.load: _Floats = np.array(load)
        value = self.load * np.array([each.weight for each in problem.classes])
        self.value: _Floats = value / value.sum() if value.sum() > 0 else value
        self.front_end: _Floats = np.array(
            [0.0 if self.idle else each.front_end_s for each in problem.classes]
        )


class Model:
    """The programme. ``most[u]``: how many workers of kind *u* are of any use in one cell.

    ``limited[u, cell]``: at most so many workers that share kind *u*'s residence in a cell; negative: as many as fit.
    With ``fixed``, counts are those, and only the flows are left to choose.
    """

    def __init__(
        self,
        problem: JointProblem,
        pools: Pools,
        loads: Loads,
        most: _Integers,
        limited: _Integers,
        fixed: Counts | None = None,
    ) -> None:
        self._problem = problem
        self._pools = pools
        self._loads = loads
        self.programme = Programme()
        self._shed = self.programme.columns(np.zeros(len(loads.value)), np.where(loads.value > 0, 1.0, 0.0))
        active = loads.value > 0
        self._at: list[_Integers] = []
        """[cell]: the pools that are offered there."""
        self._count: list[_Integers] = []
        self._used: list[_Integers] = []
        self._each: list[_Integers] = []
        """[cell]: how many workers one unit of a pool's count stands for."""
        self._choice: list[_Integers] = []
        self._flow: list[_Integers] = []
        for cell in range(problem.cells):
            if fixed is None:
                upper = np.where(limited[:, cell] < 0, most, np.minimum(most, limited[:, cell]))
                self._cell(cell, upper, active)
            else:
                self._cell(cell, np.array(fixed[cell], dtype=np.int64), active, fixed=True)
        self._classes(active)
        if fixed is None:
            self._homes(limited)
            self._alike()

    def least_shed(self, time_limit_s: float, gap: float) -> Solved:
        """Minimise Σ weight·shed, as a share of Σ weight·load: the objective is its negative."""
        for q, value in enumerate(self._loads.value.tolist()):
            self.programme.bound(self._shed + q, upper=1.0 if value > 0 else 0.0)
        costs = self.programme.costs
        self.programme.price({self._shed + q: -value for q, value in enumerate(self._loads.value.tolist())})
        solved = self.programme.solve(time_limit_s=time_limit_s, gap=gap, at_once=gap > 0)
        self.programme.price(dict(enumerate(costs)))
        return solved

    def best(
        self,
        most_shed: float,
        time_limit_s: float,
        gap: float,
        *,
        above: float = -inf,
        start: Mapping[int, float] | None = None,
    ) -> Solved:
        """Maximise accuracy less cores, shedding no more than a share, and only if it is above a value; once."""
        programme = self.programme
        for q, value in enumerate(self._loads.value.tolist()):
            most = min(1.0, most_shed / value) if value > 0 else 0.0
            programme.bound(self._shed + q, upper=most if most_shed > 0 else 0.0)
        if most_shed > 0:
            shed = [(self._shed + q, value) for q, value in enumerate(self._loads.value.tolist())]
            programme.row(shed, upper=most_shed)
        if above > -inf:
            programme.row(enumerate(programme.costs), lower=above)
        return programme.solve(time_limit_s=time_limit_s, gap=gap, start=start, at_once=gap > 0)

    def begun(self, counts: Counts, flows: Iterable[tuple[int, int, float]]) -> dict[int, float] | None:
        """Return counts and flows (cell, choice, share) as values of columns; None where some are not offered."""
        values: dict[int, float] = {}
        pools = self._pools
        for cell, at in enumerate(self._at):
            for place, pool in enumerate(at.tolist()):
                count = counts[cell][pools.kind[pool]]
                if count and pools.least[pool] <= count <= pools.most[pool]:
                    values[int(self._used[cell][place])] = 1.0
                    values[int(self._count[cell][place])] = count / int(self._each[cell][place])
            offered = {int(pools.kind[pool]) for pool in at.tolist()}
            if any(count and u not in offered for u, count in enumerate(counts[cell])):
                return None
        place_of = [
            dict(zip(choices.tolist(), own.tolist(), strict=True))
            for choices, own in zip(self._choice, self._flow, strict=True)
        ]
        for cell, choice, share in flows:
            if choice not in place_of[cell]:
                return None
            values[place_of[cell][choice]] = share
        return values

    def counts(self, solved: Solved) -> Counts:
        """Return the whole numbers of workers that a solution has, [cell][kind]."""
        values = np.array(solved.values)
        found = []
        for cell, at in enumerate(self._at):
            own = np.zeros(len(self._problem.kinds), dtype=np.int64)
            units = np.rint(values[self._count[cell]]).astype(np.int64)
            np.add.at(own, self._pools.kind[at], units * self._each[cell])
            found.append(tuple(own.tolist()))
        return tuple(found)

    def shares(self, solved: Solved) -> tuple[_Floats, list[tuple[int, int, float]]]:
        """Return what each class sheds, and (cell, choice, share of its class's load) of each flow."""
        values = np.array(solved.values)
        counts = self.counts(solved)
        shed = np.clip(values[self._shed : self._shed + len(self._loads.value)], 0.0, 1.0)
        shed[shed < LEAST_SHARE] = 0.0
        flows: list[tuple[int, int, float]] = []
        total = np.zeros(len(shed))
        for cell, (choice, flow) in enumerate(zip(self._choice, self._flow, strict=True)):
            share = values[flow]
            there = np.array(counts[cell])[self._pools.kind[self._pools.pool[choice]]] > 0
            used = np.flatnonzero((share > LEAST_SHARE) & there)
            np.add.at(total, self._pools.slo_class[choice[used]], share[used])
            flows.extend((cell, int(choice[i]), float(share[i])) for i in used.tolist())
        scale = np.divide(1.0 - shed, total, out=np.zeros(len(shed)), where=total > 0)
        q = self._pools.slo_class
        return shed, [(cell, choice, share * float(scale[q[choice]])) for cell, choice, share in flows]

    def _cell(self, cell: int, most: _Integers, active: _Bools, *, fixed: bool = False) -> None:
        problem, pools, programme = self._problem, self._pools, self.programme
        at = np.flatnonzero(pools.least <= most[pools.kind])
        if fixed:
            at = at[most[pools.kind[at]] <= pools.most[at]]
        offered = np.isin(pools.pool, at) & active[pools.slo_class]
        choice = np.flatnonzero(offered)
        at = at[np.isin(at, pools.pool[choice])]
        kind, least = pools.kind[at], pools.least[at]
        rising = pools.rising[kind]
        upper = np.where(rising, most[kind], np.minimum(pools.most[at], most[kind]))
        single = upper == least
        each = upper if fixed else np.where(single, least, 1)
        cores = np.array([problem.kinds[u].cores for u in kind], dtype=np.float64) * each
        whole = problem.cores * problem.cells
        price = -problem.beta * cores / whole if whole else 0.0 * cores
        top = np.ones(len(at)) if fixed else np.where(single, 1.0, upper)
        count = programme.columns(price, top, whole=not fixed) + np.arange(len(at))
        if fixed:
            for column in count.tolist():
                programme.bound(column, lower=1.0, upper=1.0)
        used = count if fixed else self._ranges(count, least, upper, single | (rising & (least == 1)))
        q = pools.slo_class[choice]
        gain = problem.alpha * self._loads.value[q] * pools.accuracy[choice]
        flow = programme.columns(gain, np.ones(len(choice))) + np.arange(len(choice))
        place = np.searchsorted(at, pools.pool[choice])
        if self._loads.idle:
            rows = place * len(active) + q
            taken, owner = np.ones(len(choice)), np.arange(len(at) * len(active)) // len(active)
        else:
            rows = place
            taken, owner = self._loads.load[q] * pools.item_s[choice], np.arange(len(at))
        self._rows(
            [(rows, flow, taken), (np.arange(len(owner)), count[owner], -each[owner].astype(np.float64))],
            len(owner),
            upper=0.0,
        )
        if not self._loads.idle:
            self._only_used(place, q, flow, used)
        front = (self._loads.front_end * self._loads.load)[q]
        self._budget(at, count, each, cores, (flow[front > 0], front[front > 0]))
        for u in np.flatnonzero(~pools.rising).tolist():
            own = used[kind == u]
            if len(own) > 1 and not fixed:
                self._rows([(np.zeros(len(own), dtype=np.int64), own, np.ones(len(own)))], 1, upper=1.0)
        self._at.append(at)
        self._count.append(count)
        self._used.append(used)
        self._each.append(each)
        self._choice.append(choice)
        self._flow.append(flow)

    def _ranges(self, count: _Integers, least: _Integers, upper: _Integers, free: _Bools) -> _Integers:
        """Hold counts to 0 or their range; return the column that says whether a pool is in use."""
        bound = np.flatnonzero(~free)
        first = self.programme.columns(np.zeros(len(bound)), np.ones(len(bound)), whole=True)
        used = count.copy()
        used[bound] = first + np.arange(len(bound))
        rows = np.arange(len(bound))
        for factor, lower, top in ((upper, -inf, 0.0), (least, 0.0, inf)):
            most: _Floats = -factor[bound].astype(np.float64)
            terms = (rows, count[bound], np.ones(len(bound))), (rows, used[bound], most)
            self._rows(terms, len(bound), lower=lower, upper=top)
        return used

    def _only_used(self, place: _Integers, q: _Integers, flow: _Integers, used: _Integers) -> None:
        """No more of a class flows through a pool than all of it, where it is in use.

        Follows from the rest, but for fractions: with it the relaxation is much closer.
        """
        pairs, row = np.unique(place * len(self._loads.value) + q, return_inverse=True)
        owner = used[pairs // len(self._loads.value)]
        terms = (row, flow, np.ones(len(flow))), (np.arange(len(pairs)), owner, np.full(len(pairs), -1.0))
        self._rows(terms, len(pairs), upper=0.0)

    def _budget(
        self,
        at: _Integers,
        count: _Integers,
        each: _Integers,
        cores: _Floats,
        front: tuple[_Integers, _Floats],
    ) -> None:
        """A cell's cores, memory, accelerators, and one worker of each group."""
        problem, programme = self._problem, self.programme
        kinds = [problem.kinds[u] for u in self._pools.kind[at].tolist()]
        columns, unit = count.tolist(), each.tolist()
        terms = [*zip(columns, cores.tolist(), strict=True)]
        terms.extend(zip(front[0].tolist(), front[1].tolist(), strict=True))
        programme.row(terms, upper=float(problem.cores))
        if problem.memory_bytes < inf:
            needed = [
                n * kind.memory_bytes / problem.memory_bytes for n, kind in zip(unit, kinds, strict=True)
            ]
            if any(needed):
                programme.row(zip(columns, needed, strict=True), upper=1.0)
        shared: dict[tuple[str, float], list[tuple[int, float]]] = {}
        for column, n, kind in zip(columns, unit, kinds, strict=True):
            if kind.device != "cpu":
                top = float(problem.accelerators.get(kind.device, 0))
                shared.setdefault((kind.device, top), []).append((column, float(n)))
            if kind.group is not None:
                shared.setdefault(("group " + kind.group, 1.0), []).append((column, float(n)))
        for (_, top), own in shared.items():
            programme.row(own, upper=top)

    def _classes(self, active: _Bools) -> None:
        """What is not answered is shed; floors of scope class."""
        pools = self._pools
        choice, flow = np.concatenate(self._choice), np.concatenate(self._flow)
        q = pools.slo_class[choice]
        position = np.cumsum(active) - 1
        asked = np.flatnonzero(active)
        self._rows(
            [
                (position[q], flow, np.ones(len(flow))),
                (np.arange(len(asked)), self._shed + asked, np.ones(len(asked))),
            ],
            len(asked),
            lower=1.0,
            upper=1.0,
        )
        for at in asked.tolist():
            each = self._problem.classes[at]
            if each.scope == "class":
                own = q == at
                margin = pools.accuracy[choice[own]] - each.floor + ACCURACY_TOLERANCE
                if (margin < 0).any():
                    self._rows([(np.zeros(len(margin), dtype=np.int64), flow[own], margin)], 1, lower=0.0)

    def _homes(self, limited: _Integers) -> None:
        """Kinds that may be had only where they are loaded share what is there with others of their residence."""
        kinds = self._problem.kinds
        for cell in range(self._problem.cells):
            kind = self._pools.kind[self._at[cell]]
            homes: dict[object, list[int]] = {}
            for place in np.flatnonzero(limited[kind, cell] >= 0).tolist():
                homes.setdefault(kinds[kind[place]].residence, []).append(place)
            for places in homes.values():
                terms = [(int(self._count[cell][i]), float(self._each[cell][i])) for i in places]
                self.programme.row(terms, upper=float(limited[kind[places[0]], cell]))

    def _alike(self) -> None:
        """Cells alike, with nothing loaded, are interchangeable: earlier ones have no fewer workers."""
        problem = self._problem
        if problem.cells == 1 or problem.running or problem.standby:
            return
        for one, after in pairwise(range(problem.cells)):
            self.programme.row(
                [
                    *zip(self._count[one].tolist(), self._each[one].tolist(), strict=True),
                    *zip(self._count[after].tolist(), (-self._each[after]).tolist(), strict=True),
                ],
                lower=0.0,
            )

    def _rows(
        self,
        parts: Sequence[tuple[_Integers, _Integers, _Floats]],
        count: int,
        *,
        lower: float = -inf,
        upper: float = inf,
    ) -> None:
        if count:
            rows, columns, factors = (np.concatenate([part[i] for part in parts]) for i in range(3))
            self.programme.rows(
                rows, columns, factors, lower=np.full(count, lower), upper=np.full(count, upper)
            )
