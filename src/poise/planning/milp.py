"""Mixed-integer programmes: built row by row, solved by HiGHS. The one file that imports a solver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Literal

import highspy
import msgspec
import numpy as np

Status = Literal["optimal", "time_limit", "infeasible", "failed"]


class Solved(msgspec.Struct, frozen=True):
    """What a solver found. Units: ``solve_s`` in seconds.

    ``values`` has one entry for each column, and is empty where there is no solution. ``gap``: how far, at most, the
    objective lies below the best possible one, as a share of it.
    """

    status: Status
    objective: float
    values: tuple[float, ...]
    gap: float
    solve_s: float

    @property
    def found(self) -> bool:
        """Whether there is a solution, proven best or not."""
        return bool(self.values)


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

    def bound(self, column: int, *, upper: float) -> None:
        """Replace a variable's upper bound."""
        self._upper[column] = upper

    def price(self, costs: Mapping[int, float]) -> None:
        """Replace the objective."""
        self._cost = [costs.get(column, 0.0) for column in range(len(self._cost))]

    def solve(
        self, *, time_limit_s: float = inf, gap: float = 0.0, start: Mapping[int, float] | None = None
    ) -> Solved:
        """Solve it, from a start if one is known. A solver's failure is a status, not an exception."""
        highs = highspy.Highs()  # type: ignore[no-untyped-call]
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 1),
            ("mip_rel_gap", gap),
            ("mip_abs_gap", 1e-9),
        ):
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
        gap = float(info.mip_gap) if any(self._whole) else 0.0
        return Solved(status, float(info.objective_function_value), values, gap, solve_s)
