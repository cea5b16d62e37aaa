"""Mixed-integer programmes: built row by row, solved by HiGHS. The one file that imports a solver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Literal

import highspy
import msgspec
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]

Status = Literal["optimal", "time_limit", "infeasible", "failed"]

AT_ONCE: tuple[tuple[str, bool | float], ...] = (
    ("mip_allow_restart", False),
    ("mip_detect_symmetry", False),
    ("mip_heuristic_effort", 0.0),
    ("mip_heuristic_run_feasibility_jump", False),
    ("mip_heuristic_run_root_reduced_cost", False),
    ("mip_heuristic_run_rens", False),
    ("mip_heuristic_run_rins", False),
)


class Solved(msgspec.Struct, frozen=True):
    """What a solver found. Units: ``solve_s`` in seconds.

    ``values`` has one entry for each column, and none where there is no solution; ``objective`` is then -inf.
    ``bound``: no objective is higher; ``gap``: how far, at most, the objective lies below it, as a share of it.
    """

    status: Status
    objective: float
    values: tuple[float, ...]
    gap: float
    solve_s: float
    bound: float = inf

    @property
    def found(self) -> bool:
        """Whether there is a solution, proven best or not."""
        return self.objective > -inf


class Programme:
    """Maximise Σ cost · column, subject to rows that lie between two bounds."""

    def __init__(self) -> None:
        self._cost: list[float] = []
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._whole: list[bool] = []
        self._row_lower: list[float] = []
        self._row_upper: list[float] = []
        self._starts: list[int] = [0]
        self._columns: list[int] = []
        self._factors: list[float] = []

    def column(
        self, cost: float = 0.0, *, lower: float = 0.0, upper: float = inf, whole: bool = False
    ) -> int:
        """Add a variable; return its number."""
        self._cost.append(cost)
        self._lower.append(lower)
        self._upper.append(upper)
        self._whole.append(whole)
        return len(self._cost) - 1

    def row(self, terms: Iterable[tuple[int, float]], *, lower: float = -inf, upper: float = inf) -> None:
        """Add a constraint on Σ factor · column, for (column, factor) in ``terms``, each column once."""
        for column, factor in terms:
            if factor:
                self._columns.append(column)
                self._factors.append(factor)
        self._starts.append(len(self._columns))
        self._row_lower.append(lower)
        self._row_upper.append(upper)

    def columns(self, costs: _Floats, uppers: _Floats, *, whole: bool = False) -> int:
        """Add variables that are not negative; return the number of the first one."""
        first = len(self._cost)
        self._cost.extend(costs.tolist())
        self._upper.extend(uppers.tolist())
        self._lower.extend([0.0] * len(costs))
        self._whole.extend([whole] * len(costs))
        return first

    def rows(
        self, rows: _Integers, columns: _Integers, factors: _Floats, *, lower: _Floats, upper: _Floats
    ) -> None:
        """Add constraints. Term *t* is of row ``rows[t]``, counted from the first one added here.

        Shapes: [term], [term], [term], [row], [row].
        """
        order = np.argsort(rows, kind="stable")
        ends = np.cumsum(np.bincount(rows, minlength=len(lower))) + len(self._columns)
        self._columns.extend(columns[order].tolist())
        self._factors.extend(factors[order].tolist())
        self._starts.extend(ends.tolist())
        self._row_lower.extend(lower.tolist())
        self._row_upper.extend(upper.tolist())

    def bound(self, column: int, *, lower: float = 0.0, upper: float) -> None:
        """Replace a variable's bounds."""
        self._lower[column], self._upper[column] = lower, upper

    @property
    def costs(self) -> tuple[float, ...]:
        """The objective's factor of each column."""
        return tuple(self._cost)

    def price(self, costs: Mapping[int, float]) -> None:
        """Replace the objective."""
        self._cost = [costs.get(column, 0.0) for column in range(len(self._cost))]

    def solve(
        self,
        *,
        time_limit_s: float = inf,
        gap: float = 0.0,
        start: Mapping[int, float] | None = None,
        at_once: bool = False,
    ) -> Solved:
        """Solve it, from a start if one is known. A solver's failure is a status, not an exception.

        ``at_once``: branch without first looking for solutions by heuristics, or for symmetries: of small programmes
        that takes longer than finding the best one. Not where an answer must be exact: of 4,000 programmes of one
        sort HiGHS 1.15 then called one optimal that was not, and without presolving, or with restarts, more.
        """
        if not self._cost:
            held = all(low <= 0 <= up for low, up in zip(self._row_lower, self._row_upper, strict=True))
            return (
                Solved("optimal", 0.0, (), 0.0, 0.0, 0.0)
                if held
                else Solved("infeasible", -inf, (), inf, 0.0)
            )
        highs = highspy.Highs()  # type: ignore[no-untyped-call]
        always: tuple[tuple[str, bool | int | float], ...] = (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 1),
            ("mip_rel_gap", gap),
            ("mip_abs_gap", 1e-9),
        )
        chosen = (*always, *AT_ONCE) if at_once else always
        for option, value in chosen:
            highs.setOptionValue(option, value)
        if time_limit_s < inf:
            highs.setOptionValue("time_limit", time_limit_s)
        highs.passModel(self._model())
        if start is not None:
            guess = highspy.HighsSolution()
            guess.col_value = [start.get(column, 0.0) for column in range(len(self._cost))]
            highs.setSolution(guess)
        highs.run()
        return self._answer(highs, float(highs.getRunTime()))

    def _model(self) -> highspy.HighsLp:
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self._cost), len(self._row_lower)
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_ = np.array(self._cost)
        lp.col_lower_, lp.col_upper_ = np.array(self._lower), np.array(self._upper)
        lp.row_lower_, lp.row_upper_ = np.array(self._row_lower), np.array(self._row_upper)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.array(self._starts, dtype=np.int32)
        lp.a_matrix_.index_ = np.array(self._columns, dtype=np.int32)
        lp.a_matrix_.value_ = np.array(self._factors)
        if any(self._whole):
            kinds = highspy.HighsVarType
            lp.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in self._whole]
        return lp

    def _answer(self, highs: highspy.Highs, solve_s: float) -> Solved:
        status: Status = "failed"
        known = highspy.HighsModelStatus
        ended = highs.getModelStatus()
        if ended == known.kOptimal:
            status = "optimal"
        elif ended == known.kTimeLimit:
            status = "time_limit"
        elif ended in (known.kInfeasible, known.kUnboundedOrInfeasible):
            status = "infeasible"
        info = highs.getInfo()
        feasible = int(info.primal_solution_status) == 2
        if status in ("infeasible", "failed") or not feasible:
            return Solved(status, -inf, (), inf, solve_s)
        values = tuple(highs.getSolution().col_value)
        objective = float(info.objective_function_value)
        if not any(self._whole):
            return Solved(status, objective, values, 0.0, solve_s, objective)
        return Solved(status, objective, values, float(info.mip_gap), solve_s, float(info.mip_dual_bound))
