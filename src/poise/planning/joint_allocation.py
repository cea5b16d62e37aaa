"""E4: the joint allocation: worker kinds and their counts, and which share of each class's load goes which way.

First the least Σ weight·shed; with that fixed, the most of

    α·Σ_q w_q Σ a·λ / Σ_q w_q λ_q − β·Σ cores/B − γ·LC/LC_max

where λ are the flows (items/s of a class through an option of a pool), under: a class's flows and what is shed are
its load; a pool's flows, each over its rate, take no more than its workers; floors; cores (with those of the front
end), memory and accelerators of each cell. LC is the longest load time among kinds that get more workers than have
their resident set loaded. Solved as one mixed-integer programme; all cells are alike, and their pools are their own.

Without any load, every class counts as one of infinitely little, of which nothing must be answered: a worker that
could is worth its accuracy, as in E3. A class that has no load while others have some has no say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import msgspec
import numpy as np

from poise.domain.allocation import Allocation, Terms, Workers
from poise.planning.joint_counts import (
    counts_of,
    fitting,
    loaded_s,
    memory_binds,
    residents,
    useful_counts,
)
from poise.planning.joint_model import Counts, Loads, Model
from poise.planning.joint_pools import Pools
from poise.planning.joint_problem import JointProblem
from poise.planning.milp import Solved, Status

SHED_TOLERANCE = 1e-9
LEAST_GAIN = 1e-9
"""A level is not tried for less."""
NO_GAP = 1e-6
"""A smaller one is rounding."""


class Flow(msgspec.Struct, frozen=True):
    """Items of a class (by position) through an option of a kind's workers in a cell. Units: items/s."""

    kind: int
    cell: int
    slo_class: int
    option: int
    rps: float


class JointSolution(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to E4. Units: items/s, seconds.

    Shapes: ``counts[cell][kind]``; ``shed_rps[class]``. ``accuracy``, ``resource`` and ``loading`` are the three terms
    before they are weighed. ``gap``: see ``Solved``.
    """

    counts: tuple[tuple[int, ...], ...]
    flows: tuple[Flow, ...]
    shed_rps: tuple[float, ...]
    objective: float
    accuracy: float
    resource: float
    loading: float
    status: Status
    gap: float
    solve_s: float

    def allocation(self, problem: JointProblem) -> Allocation:
        """Return it as the value that is printed and adopted."""
        shares: dict[str, dict[str, float]] = {each.name: {} for each in problem.classes}
        for flow in self.flows:
            of_class = shares[problem.classes[flow.slo_class].name]
            variant = problem.kinds[flow.kind].options[flow.option].variant
            of_class[variant] = of_class.get(variant, 0.0) + flow.rps
        return Allocation(
            workers=self.workers(problem),
            objective=self.objective,
            terms=Terms(accuracy=self.accuracy, resource=self.resource, loading=self.loading),
            shares=shares,
            shed={each.name: rps for each, rps in zip(problem.classes, self.shed_rps, strict=True)},
            solve_s=self.solve_s,
            status=self.status,
            gap=self.gap,
        )

    def workers(self, problem: JointProblem) -> tuple[Workers, ...]:
        """Return the workers, cell by cell."""
        return tuple(
            kind.workers(count, cell)
            for cell, counts in enumerate(self.counts)
            for kind, count in zip(problem.kinds, counts, strict=True)
            if count
        )


def allocate_jointly(
    problem: JointProblem,
    *,
    time_limit_s: float = inf,
    gap: float = 0.0,
    start: tuple[Workers, ...] = (),
) -> Allocation | None:
    """Return the best allocation, or the best one found in time; None where the solver fails or finds none in time.

    ``start``: workers to begin the search with, such as those that run now. Zero load and overload are answers.
    """
    solution = solve_jointly(problem, time_limit_s=time_limit_s, gap=gap, start=start)
    return None if solution is None else solution.allocation(problem)


def solve_jointly(
    problem: JointProblem,
    *,
    time_limit_s: float = inf,
    gap: float = 0.0,
    start: tuple[Workers, ...] = (),
    pools: Pools | None = None,
) -> JointSolution | None:
    """Return the solution; ``pools`` are those of the problem's kinds and classes, if they were worked out before."""
    made = Pools(problem.kinds, problem.classes) if pools is None else pools
    return _Search(problem, made, time_limit_s, gap, start).run()


class _Search:
    """Tries each load time that an allocation may have at most, level by level; used once.

    Within a level LC is not in the objective, so that kinds which others make needless there are left out. The
    highest level comes first: it says what must be shed, and no other one is better by more than what it saves of LC.
    What is loaded already is a level of its own, 0.
    """

    def __init__(
        self, problem: JointProblem, pools: Pools, time_limit_s: float, gap: float, start: tuple[Workers, ...]
    ) -> None:
        self._problem = problem
        self._pools = pools
        self._left_s = time_limit_s
        self._gap = gap
        self._loads = Loads(problem)
        self._free = 1.0 if self._loads.idle else 0.0
        """The share that may be shed for nothing."""
        self._start = counts_of(problem, start) if start else None
        self._most = useful_counts(problem, pools, self._loads)
        self._load_s = np.array([kind.load_s for kind in problem.kinds])
        self._resident = residents(problem)
        self._binds = memory_binds(problem)
        homes = {home: at for at, home in enumerate({kind.residence for kind in problem.kinds})}
        self._home = np.array([homes[kind.residence] for kind in problem.kinds], dtype=np.int64)
        self._price = problem.gamma / problem.load_unit_s
        self._best: JointSolution | None = None
        self._flows: list[tuple[int, int, float]] = []
        """Those of the best: cell, choice, share of its class's load."""
        self._upper = -inf
        self._spent_s = 0.0
        self._timed_out = False

    def run(self) -> JointSolution | None:
        """Return the best over all levels."""
        times = sorted({float(time_s) for time_s in self._load_s if time_s > 0}) if self._price else []
        top = times[-1] if times else inf
        self._keep()
        most_shed = self._highest(top)
        if self._best is None:
            return None
        bound = self._upper = min(self._upper, self._most_at(top, most_shed))
        self._upper -= self._price * top if times else 0.0
        nothing_loaded = not self._resident.any() and bool((self._load_s > 0).all())
        if times and (not nothing_loaded or most_shed > 1 - SHED_TOLERANCE):
            self._between([0.0], most_shed, bound)
        self._between(times[:-1], most_shed, bound)
        worth = self._best.objective
        distance = max(0.0, self._upper - worth) / max(abs(worth), LEAST_GAIN)
        return msgspec.structs.replace(
            self._best,
            status="time_limit" if self._timed_out else "optimal",
            gap=distance if distance > NO_GAP else 0.0,
            solve_s=self._spent_s,
        )

    def _keep(self) -> None:
        """See what the start is worth as it stands, if it sheds nothing."""
        if self._start is not None:
            self._adopt_fixed(self._start, self._free)

    def _highest(self, level: float) -> float:
        """Solve the level without bounds on loading; return what must be shed, as a share."""
        if self._binds:
            bound = self._roomy(level, self._free)
            if self._reached(bound):
                self._upper = bound
                return self._free
        model = self._model(level)
        if self._best is not None:
            worth = self._best.objective
            begun = model.begun(self._best.counts, self._flows)
            above = -inf if begun else worth + max(LEAST_GAIN, self._gap * abs(worth))
            solved = self._spend(model.best(self._free, self._left_s, self._gap, above=above, start=begun))
            self._upper = above if solved.status == "infeasible" else solved.bound
            if solved.found and solved.objective > worth + self._gap * abs(worth):
                self._adopt(model, solved)
            return self._free
        solved = self._spend(model.best(self._free, self._left_s, self._gap))
        most_shed = self._free
        if not solved.found and solved.status in ("infeasible", "time_limit"):
            least = self._spend(model.least_shed(self._left_s, self._gap))
            if not least.found:
                return most_shed
            self._adopt(model, least)
            most_shed = max(0.0, -least.objective) * (1 + SHED_TOLERANCE) + SHED_TOLERANCE
            solved = self._spend(model.best(most_shed, self._left_s, self._gap))
        self._upper = solved.bound if solved.status in ("optimal", "time_limit") else inf
        if solved.found:
            self._best = None
            self._adopt(model, solved)
        return most_shed

    def _between(self, levels: Sequence[float], most_shed: float, bound: float) -> None:
        """Look for something better among rising levels, of which none is worth more than a bound, without LC.

        The highest one has all that the others have; if nothing in it is good enough for the lowest, none has.
        """
        left = list(levels)
        relaxed: float | None = None
        while left and self._best is not None:
            level, worth = left[-1], self._best.objective
            bound = min(bound, self._most_at(level, most_shed))
            least = worth + max(LEAST_GAIN, self._gap * abs(worth))
            worthy = [each for each in left if bound - self._price * each > least]
            if len(worthy) < len(left):
                self._upper = max(self._upper, min(least, bound - self._price * left[0]))
            left = worthy
            if not left:
                return
            if self._binds and relaxed != level:
                relaxed = level
                bound = min(bound, self._roomy(level, most_shed))
                if self._reached(bound):
                    self._upper = max(self._upper, bound - self._price * level)
                    left = left[:-1]
                continue
            model = self._model(level)
            begun = None
            if self._best.loading * self._problem.load_unit_s <= level and most_shed <= self._free:
                begun = model.begun(self._best.counts, self._flows)
            above = -inf if begun else least + self._price * left[0]
            solved = self._spend(model.best(most_shed, self._left_s, self._gap, above=above, start=begun))
            if not solved.found:
                potential = bound - self._price * left[0]
                self._upper = max(self._upper, potential if solved.status == "time_limit" else least)
                return
            self._adopt(model, solved)
            bound = min(bound, solved.bound)
            left = [each for each in left if each < level]
            self._upper = max(self._upper, bound - self._price * level)

    def _roomy(self, level: float, most_shed: float) -> float:
        """Return what a level is worth at most, without LC, from how it were if memory were ample.

        That is much quicker, and often what it finds fits, or does once workers hold only what they use: adopted.
        """
        roomy = msgspec.structs.replace(self._problem, memory_bytes=inf)
        model = self._model(level, roomy)
        solved = self._spend(model.best(most_shed, self._left_s, self._gap))
        if not solved.found:
            return -inf if solved.status == "infeasible" else inf
        fitted = fitting(self._problem, self._pools, model.counts(solved), model.shares(solved)[1])
        if fitted is not None:
            self._adopt_fixed(fitted, most_shed)
        return solved.bound

    def _adopt_fixed(self, counts: Counts, most_shed: float) -> None:
        """Take some workers, as well used as they can be, if that is the best so far: a linear programme."""
        limited = np.zeros_like(self._resident)
        model = Model(self._problem, self._pools, self._loads, self._most, limited, fixed=counts)
        solved = self._spend(model.best(most_shed, self._left_s, self._gap))
        if solved.found:
            self._adopt(model, solved)

    def _reached(self, bound: float) -> bool:
        """Whether the best so far is as good as a bound that leaves LC out."""
        if self._best is None:
            return False
        worth = self._best.objective + self._problem.gamma * self._best.loading
        return worth >= bound - max(LEAST_GAIN, self._gap * abs(worth))

    def _model(self, level: float, problem: JointProblem | None = None) -> Model:
        free = self._load_s <= level
        limited = np.where(free[:, None], -1, self._resident)
        replaces = self._pools.needless(self._binds and problem is None)
        within_home = replaces & (self._home[:, None] == self._home)
        needless = (replaces & free[:, None]).any(axis=0) | within_home.any(axis=0)
        most = self._most if problem is None else useful_counts(problem, self._pools, self._loads)
        return Model(problem or self._problem, self._pools, self._loads, np.where(needless, 0, most), limited)

    def _most_at(self, level: float, most_shed: float) -> float:
        """No allocation of a level is worth more than this, without LC: each class at its best, on fewest cores."""
        problem, pools, loads = self._problem, self._pools, self._loads
        there = (self._load_s <= level) | self._resident.any(axis=1)
        own = there[pools.kind[pools.pool]]
        accuracy = np.zeros(len(loads.value))
        np.maximum.at(accuracy, pools.slo_class[own], pools.accuracy[own])
        worth = problem.alpha * float(loads.value @ accuracy)
        whole = problem.cores * problem.cells
        if most_shed <= 0 and whole and not loads.idle:
            cores = np.array([kind.cores for kind in problem.kinds])[pools.kind[pools.pool[own]]]
            fastest = np.full(len(loads.value), inf)
            np.minimum.at(fastest, pools.slo_class[own], pools.item_s[own] * cores)
            asked = loads.value > 0
            worth -= problem.beta * float(loads.load[asked] @ fastest[asked]) / whole if problem.beta else 0.0
        return worth

    def _spend(self, solved: Solved) -> Solved:
        self._spent_s += solved.solve_s
        self._left_s = max(0.0, self._left_s - solved.solve_s)
        self._timed_out |= solved.status == "time_limit"
        return solved

    def _adopt(self, model: Model, solved: Solved) -> None:
        """Take a solution if it is the best so far; its terms are reckoned anew."""
        problem, pools = self._problem, self._pools
        counts = model.counts(solved)
        shed, shares = model.shares(solved)
        flows, accuracy = [], 0.0
        for cell, choice, share in shares:
            q = int(pools.slo_class[choice])
            accuracy += float(self._loads.value[q] * pools.accuracy[choice]) * share
            kind, option = int(pools.kind[pools.pool[choice]]), int(pools.option[choice])
            flows.append(Flow(kind, cell, q, option, share * problem.classes[q].load_rps))
        cores = sum(
            count * kind.cores for own in counts for count, kind in zip(own, problem.kinds, strict=True)
        )
        resource = cores / (problem.cores * problem.cells) if problem.cores else 0.0
        loading = loaded_s(problem, counts) / problem.load_unit_s
        objective = problem.alpha * accuracy - problem.beta * resource - problem.gamma * loading
        if self._best is not None and objective <= self._best.objective:
            return
        self._flows = shares
        self._best = JointSolution(
            counts=counts,
            flows=tuple(flows),
            shed_rps=tuple(
                gone * each.load_rps for gone, each in zip(shed.tolist(), problem.classes, strict=True)
            ),
            objective=objective,
            accuracy=accuracy,
            resource=resource,
            loading=loading,
            status=solved.status,
            gap=solved.gap,
            solve_s=solved.solve_s,
        )
