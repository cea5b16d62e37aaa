"""Every allocation of cores there is: what E3's answers are held against in tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from poise.planning.core_allocation import CoreProblem

TOLERANCE = 1e-9


class EveryAllocation:
    """All allocations of some candidates, as arrays; the load and what runs now vary.

    Shapes: ``cores[a, m]`` of allocation *a* and candidate *m*. Units: requests/s.
    """

    def __init__(self, problem: CoreProblem) -> None:
        self._problem = problem
        rows: list[tuple[int, ...]] = [()]
        for candidate in problem.candidates:
            choices = (0, *problem.choices(candidate))
            rows = [(*row, n) for row in rows for n in choices if sum(row) + n <= problem.cores]
        self.cores: NDArray[np.int64] = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
        self.capacity_rps = np.stack(
            [
                np.array(candidate.capacity_rps)[self.cores[:, m]]
                for m, candidate in enumerate(problem.candidates)
            ],
            axis=1,
        )

    def best_objective(self, load_rps: float, current: dict[str, int]) -> float:
        """Return the highest objective; above what can be carried, among the allocations of the largest capacity."""
        problem, running = self._problem, self.cores > 0
        accuracy = np.array([c.accuracy for c in problem.candidates])
        left, gained = np.full(len(self.cores), load_rps), np.zeros(len(self.cores))
        for m in np.argsort(-accuracy, kind="stable"):
            taken = np.minimum(left, self.capacity_rps[:, m])
            left, gained = left - taken, gained + accuracy[m] * taken
        capacity = self.capacity_rps.sum(axis=1)
        most = float(capacity.max())
        admissible = left <= TOLERANCE if load_rps <= most else capacity >= most - TOLERANCE
        if load_rps > 0 and most > 0:
            mean = gained / min(load_rps, most)
        else:
            mean = (
                np.where(running, accuracy, 0.0).max(axis=1) if load_rps == 0 else np.zeros(len(self.cores))
            )
        before = np.array([current.get(c.name, 0) for c in problem.candidates])
        load_s = np.array([c.load_time_s for c in problem.candidates])
        loading = np.where(running & (self.cores != before), load_s, 0.0).max(axis=1) / problem.longest_load_s
        objective = (
            problem.alpha * mean
            - problem.beta * self.cores.sum(axis=1) / problem.cores
            - problem.gamma * loading
        )
        return float(objective[admissible].max())
