"""E4: the joint allocation: worker kinds and their counts, and which share of each class's load goes which way.

First the least Σ weight·shed; with that fixed, the most of

    α·Σ_q w_q Σ a·λ / Σ_q w_q λ_q − β·Σ cores/B − γ·LC/LC_max

where λ are the flows (items/s of a class through an option of a pool), under: a class's flows and what is shed are
its load; a pool's flows, each over its rate, take no more than its workers; floors; cores (with those of the front
end), memory and accelerators of each cell. LC is the longest load time among kinds that get more workers than have
their resident set loaded. Solved as one mixed-integer programme; all cells are alike, and their pools are their own.

Without any load, every class counts as one of infinitely little: a worker that can answer it is wanted, and the more
accurate the better. A class that has no load while others have some has no say.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import inf

import msgspec

from poise.domain.allocation import Allocation, Terms, Workers
from poise.planning.joint_pools import ACCURACY_TOLERANCE, Pools, pools_of
from poise.planning.joint_problem import JointProblem, Residence
from poise.planning.milp import Programme, Solved, Status

SHED_TOLERANCE = 1e-9


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
    model = _Model(problem, pools_of(problem.kinds, problem.classes) if pools is None else pools)
    model.shed_at_most(0.0)
    spent_s = 0.0
    solved = model.best(time_limit_s, gap, start)
    spent_s += solved.solve_s
    if not solved.found and solved.status in ("infeasible", "time_limit"):
        least = model.least_shed(max(0.0, time_limit_s - spent_s), gap)
        spent_s += least.solve_s
        if not least.found:
            return None
        model.shed_at_most(max(0.0, -least.objective))
        solved = model.best(max(0.0, time_limit_s - spent_s), gap, start)
        spent_s += solved.solve_s
        if not solved.found:
            solved = least
        if "time_limit" in (solved.status, least.status) or solved is least:
            solved = msgspec.structs.replace(solved, status="time_limit", gap=max(solved.gap, least.gap))
    if not solved.found:
        return None
    return model.solution(solved, spent_s)


class _Model:
    """The programme of a problem. Flows are shares of their class's load."""

    def __init__(self, problem: JointProblem, pools: Pools) -> None:
        self.problem = problem
        self.pools = pools
        self.programme = Programme()
        self.idle = problem.value <= 0
        self.loads = [1.0 if self.idle else each.load_rps for each in problem.classes]
        value = [each.weight * load for each, load in zip(problem.classes, self.loads, strict=True)]
        self.value = [v / sum(value) if sum(value) else 0.0 for v in value]
        self.most = [problem.most_workers(kind) for kind in problem.kinds]
        self.costs: dict[int, float] = {}
        self.counts: list[dict[int, list[tuple[int, int]]]] = []
        """[cell][kind]: (column, workers for each of it)."""
        self.flows: list[tuple[int, int, int, int, int]] = []
        """(column, pool, cell, class, option)."""
        self.shed = [self.programme.column(upper=1.0) if v > 0 else -1 for v in self.value]
        for cell in range(problem.cells):
            self._cell(cell)
        self._classes()
        self._loading()
        self._alike()
        self._shed_row: tuple[list[tuple[int, float]], float] = ([], 0.0)

    def _cell(self, cell: int) -> None:
        problem, programme = self.problem, self.programme
        whole = problem.cores * problem.cells
        self.counts.append({})
        cores: list[tuple[int, float]] = []
        memory: list[tuple[int, float]] = []
        devices: dict[str, list[tuple[int, float]]] = {}
        groups: dict[str, list[tuple[int, float]]] = {}
        for at, pool in enumerate(self.pools.pools):
            kind, most = problem.kinds[pool.kind], self.most[pool.kind]
            if pool.least > most:
                continue
            columns = self._count(pool.kind, pool.least, pool.most, most)
            self.counts[cell].setdefault(pool.kind, []).extend(columns)
            self._flow(at, cell, columns, cores)
            for column, each in columns:
                self.costs[column] = -problem.beta * kind.cores * each / whole if whole else 0.0
                cores.append((column, float(kind.cores * each)))
                if problem.memory_bytes < inf and kind.memory_bytes:
                    memory.append((column, kind.memory_bytes * each / problem.memory_bytes))
                if kind.device != "cpu":
                    devices.setdefault(kind.device, []).append((column, float(each)))
                if kind.group is not None:
                    groups.setdefault(kind.group, []).append((column, float(each)))
        programme.row(cores, upper=float(problem.cores))
        if memory:
            programme.row(memory, upper=1.0)
        for device, terms in devices.items():
            programme.row(terms, upper=float(problem.accelerators.get(device, 0)))
        for terms in groups.values():
            programme.row(terms, upper=1.0)
        for kind_at, columns in self.counts[cell].items():
            if len(columns) > 1 and not self.pools.rising[kind_at]:
                used = [(self._used[column], 1.0) for column, _ in columns]
                programme.row(used, upper=1.0)

    _used: dict[int, int]

    def _count(self, kind: int, least: int, most: int | None, fit: int) -> list[tuple[int, int]]:
        """Add the count of a pool's workers: a whole number that is 0 or within its range."""
        programme = self.programme
        if "_used" not in self.__dict__:
            self._used = {}
        rising = self.pools.rising[kind]
        upper = fit if most is None or rising else min(most, fit)
        if upper == least:
            column = programme.column(upper=1.0, whole=True)
            self._used[column] = column
            return [(column, least)]
        column = programme.column(upper=float(upper), whole=True)
        if least > 1 or not rising:
            used = programme.column(upper=1.0, whole=True)
            programme.row([(column, 1.0), (used, -float(upper))], upper=0.0)
            programme.row([(column, 1.0), (used, -float(least))], lower=0.0)
            self._used[column] = used
        return [(column, 1)]

    def _flow(
        self, at: int, cell: int, columns: list[tuple[int, int]], cores: list[tuple[int, float]]
    ) -> None:
        problem, programme, pool = self.problem, self.programme, self.pools.pools[at]
        workers = [(column, -float(each)) for column, each in columns]
        taken: list[tuple[int, float]] = []
        for q, choices in enumerate(pool.choices):
            if self.value[q] <= 0:
                continue
            each, load = problem.classes[q], self.loads[q]
            own: list[tuple[int, float]] = []
            for choice in choices:
                column = programme.column(upper=1.0)
                self.costs[column] = problem.alpha * self.value[q] * choice.accuracy
                self.flows.append((column, at, cell, q, choice.option))
                own.append((column, 1.0))
                taken.append((column, load / choice.rate_rps))
                if each.front_end_s and not self.idle:
                    cores.append((column, each.front_end_s * load))
            if self.idle:
                programme.row([*own, *workers], upper=0.0)
        if not self.idle:
            programme.row([*taken, *workers], upper=0.0)

    def _classes(self) -> None:
        programme, problem = self.programme, self.problem
        served: list[list[tuple[int, float]]] = [[] for _ in problem.classes]
        above: list[list[tuple[int, float]]] = [[] for _ in problem.classes]
        for column, at, _, q, option in self.flows:
            kind = problem.kinds[self.pools.pools[at].kind]
            served[q].append((column, 1.0))
            margin = kind.options[option].accuracy - problem.classes[q].floor + ACCURACY_TOLERANCE
            above[q].append((column, margin))
        for q, each in enumerate(problem.classes):
            if self.value[q] <= 0:
                continue
            programme.row([*served[q], (self.shed[q], 1.0)], lower=1.0, upper=1.0)
            if each.scope == "class" and any(margin < 0 for _, margin in above[q]):
                programme.row(above[q], lower=0.0)

    def _loading(self) -> None:
        """LC as a ladder: a step for each load time; who loads for longer has climbed all steps below."""
        problem, programme = self.problem, self.programme
        if not problem.gamma:
            return
        resident = problem.resident()
        homes: dict[tuple[Residence, int], list[int]] = {}
        for cell, kinds in enumerate(self.counts):
            for at in kinds:
                homes.setdefault((problem.kinds[at].residence, cell), []).append(at)
        times = sorted({kind.load_s for kind in problem.kinds if kind.load_s > 0})
        steps = {time_s: programme.column(upper=1.0, whole=True) for time_s in times}
        below = 0.0
        for time_s, step in steps.items():
            self.costs[step] = -problem.gamma * (time_s - below) / problem.load_unit_s
            below = time_s
        for low, high in pairwise(times):
            programme.row([(steps[low], 1.0), (steps[high], -1.0)], lower=0.0)
        for (home, cell), kinds_there in homes.items():
            time_s = max(problem.kinds[at].load_s for at in kinds_there)
            there = resident.get((home, cell), 0)
            most = sum(self.most[at] for at in kinds_there)
            if time_s <= 0 or there >= most:
                continue
            terms = [(column, float(n)) for at in kinds_there for column, n in self.counts[cell][at]]
            programme.row([*terms, (steps[time_s], -float(most - there))], upper=float(there))

    def _alike(self) -> None:
        """Cells alike, with nothing loaded, are interchangeable: earlier ones have no fewer workers."""
        if self.problem.cells == 1 or self.problem.running or self.problem.standby:
            return
        totals = [
            [(column, float(n)) for columns in kinds.values() for column, n in columns]
            for kinds in self.counts
        ]
        for one, next_one in pairwise(totals):
            self.programme.row([*one, *((column, -n) for column, n in next_one)], lower=0.0)

    def shed_at_most(self, share: float) -> None:
        """Bound Σ weight·shed, as a share of Σ weight·load."""
        slack = SHED_TOLERANCE * share
        for q, column in enumerate(self.shed):
            if column >= 0:
                most = 0.0 if share <= 0 else min(1.0, (share + slack) / self.value[q])
                self.programme.bound(column, upper=most)
        if share > 0:
            terms = [(column, v) for column, v in zip(self.shed, self.value, strict=True) if column >= 0]
            self.programme.row(terms, upper=share + slack)

    def least_shed(self, time_limit_s: float, gap: float) -> Solved:
        """Minimise Σ weight·shed: the objective is its negative."""
        for column in self.shed:
            if column >= 0:
                self.programme.bound(column, upper=1.0)
        self.programme.price(
            {column: -v for column, v in zip(self.shed, self.value, strict=True) if column >= 0}
        )
        return self.programme.solve(time_limit_s=time_limit_s, gap=gap)

    def best(self, time_limit_s: float, gap: float, start: tuple[Workers, ...]) -> Solved:
        """Maximise what is wanted, within what may be shed."""
        self.programme.price(self.costs)
        return self.programme.solve(time_limit_s=time_limit_s, gap=gap)

    def solution(self, solved: Solved, solve_s: float) -> JointSolution:
        """Round what was found and reckon its terms anew."""
        problem, values = self.problem, solved.values
        counts = tuple(
            tuple(
                sum(round(values[column]) * n for column, n in kinds.get(at, ()))
                for at in range(len(problem.kinds))
            )
            for kinds in self.counts
        )
        shares = [0.0] * len(problem.classes)
        kept: list[tuple[float, int, int, int, int]] = []
        for column, at, cell, q, option in self.flows:
            kind = self.pools.pools[at].kind
            if values[column] > SHED_TOLERANCE and counts[cell][kind]:
                kept.append((values[column], kind, cell, q, option))
                shares[q] += values[column]
        shed = [0.0 if column < 0 else min(1.0, max(0.0, values[column])) for column in self.shed]
        shed = [each if each > 1e-9 else 0.0 for each in shed]
        scale = [(1 - gone) / share if share else 0.0 for gone, share in zip(shed, shares, strict=True)]
        flows, accuracy = [], 0.0
        for share, kind, cell, q, option in kept:
            scaled = share * scale[q]
            accuracy += self.value[q] * scaled * problem.kinds[kind].options[option].accuracy
            flows.append(Flow(kind, cell, q, option, scaled * problem.classes[q].load_rps))
        whole = problem.cores * problem.cells
        used = sum(
            count * kind.cores
            for of_cell in counts
            for count, kind in zip(of_cell, problem.kinds, strict=True)
        )
        resource = used / whole if whole else 0.0
        loading = self._loaded_s(counts) / problem.load_unit_s
        return JointSolution(
            counts=counts,
            flows=tuple(flows),
            shed_rps=tuple(gone * each.load_rps for gone, each in zip(shed, problem.classes, strict=True)),
            objective=problem.alpha * accuracy - problem.beta * resource - problem.gamma * loading,
            accuracy=accuracy,
            resource=resource,
            loading=loading,
            status=solved.status,
            gap=solved.gap,
            solve_s=solve_s,
        )

    def _loaded_s(self, counts: tuple[tuple[int, ...], ...]) -> float:
        return loaded_s(self.problem, counts)


def loaded_s(problem: JointProblem, counts: tuple[tuple[int, ...], ...]) -> float:
    """Return the longest load time among kinds that get more workers than have their resident set loaded."""
    resident = problem.resident()
    wanted: dict[tuple[Residence, int], int] = {}
    time_s: Mapping[Residence, float] = {kind.residence: kind.load_s for kind in problem.kinds}
    for cell, of_cell in enumerate(counts):
        for kind, count in zip(problem.kinds, of_cell, strict=True):
            wanted[kind.residence, cell] = wanted.get((kind.residence, cell), 0) + count
    return max(
        (time_s[home] for (home, cell), n in wanted.items() if n > resident.get((home, cell), 0)),
        default=0.0,
    )
