"""What several workers can do together: their room before deadlines, and when the first of them would be done."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from poise.scheduling.view import WorkerState

FEW = 8
"""So many workers are looked at one by one; of more, arrays are kept."""
PACE_STEP = log(1.1)

_Floats = NDArray[np.float64]


class Fleet:
    """Some workers, and when each is free. ``changed`` keeps its arrays up to date. Units: seconds; profile seconds."""

    __slots__ = ("_arrays", "_capacity", "_pace", "_places", "few", "workers")

    def __init__(self, workers: Sequence[WorkerState]) -> None:
        self.workers = workers
        self.few = len(workers) <= FEW
        """Whether they are so few that they are looked at one by one: then all rooms add up in the same order."""
        self._arrays: _Floats | None = None
        """Of many workers, once they are asked for. Shapes: (3, workers): when free, factor, overhead."""
        self._places: dict[int, int] = {}
        self._capacity: float | None = None
        self._pace: float | None = None

    def changed(self, worker: WorkerState) -> None:
        """Note that one of the workers is free at another time, or takes other times."""
        self._capacity = self._pace = None
        if self._arrays is not None and (place := self._places.get(worker.worker_id)) is not None:
            calibration = worker.calibration
            self._arrays[:, place] = worker.free_at_s, calibration.factor, calibration.overhead_s

    def _table(self) -> _Floats | None:
        """Return the arrays; None where the workers are few."""
        if self._arrays is None and not self.few:
            self._places = {worker.worker_id: place for place, worker in enumerate(self.workers)}
            columns = [(w.free_at_s, w.calibration.factor, w.calibration.overhead_s) for w in self.workers]
            self._arrays = np.array(columns).T.copy()
        return self._arrays

    @property
    def capacity(self) -> float:
        """How much profile time passes on all of them in a second."""
        if self._capacity is None:
            table = self._table()
            if table is None:
                capacity = 0.0
                for worker in self.workers:
                    capacity += 1.0 / worker.calibration.factor
                self._capacity = capacity
            else:
                self._capacity = float((1.0 / table[1]).sum())
        return self._capacity

    @property
    def pace(self) -> float:
        """How much profile time passes on one of them in a second, on average; in steps of a tenth."""
        if self._pace is None:
            mean = self.capacity / len(self.workers) if self.workers else 1.0
            self._pace = exp(PACE_STEP * round(log(mean) / PACE_STEP))
        return self._pace

    def room_s(self, deadlines_s: _Floats, now_s: float) -> _Floats:
        """Return how much work the workers can do before each deadline. Units: profile seconds.

        Shapes: one for each deadline.
        """
        table = self._table()
        if table is None:
            room_s = np.zeros(len(deadlines_s))
            for worker in self.workers:
                free_s = max(worker.free_at_s, now_s)
                each = np.maximum(deadlines_s - free_s, 0.0)
                room_s += each if worker.calibration.factor == 1.0 else each / worker.calibration.factor
            return room_s
        # Of the workers free before a deadline d, Σ (d − free)/factor = d·Σ 1/factor − Σ free/factor.
        free_s = np.maximum(table[0] - now_s, 0.0)
        order = np.argsort(free_s)
        free_s, speeds = free_s[order], 1.0 / table[1][order]
        sums = np.zeros((2, len(order) + 1))
        np.cumsum(speeds, out=sums[0, 1:])
        np.cumsum(free_s * speeds, out=sums[1, 1:])
        within_s = deadlines_s - now_s
        before = np.searchsorted(free_s, within_s)
        found: _Floats = np.maximum(within_s * sums[0, before] - sums[1, before], 0.0)
        return found

    def first_ends_s(self, now_s: float, work_s: float, other_s: float) -> tuple[float, float]:
        """Return when the first worker would be done with each of two works, given it next.

        Units: works in profile seconds; the answers in seconds, absolute.
        """
        if not self.few and (table := self._table()) is not None:
            free_s = np.maximum(table[0], now_s) + table[2]
            return float((free_s + work_s * table[1]).min()), float((free_s + other_s * table[1]).min())
        done_s = other_done_s = inf
        for worker in self.workers:
            calibration = worker.calibration
            start_s = worker.free_at_s if worker.free_at_s > now_s else now_s
            end_s = start_s + work_s * calibration.factor + calibration.overhead_s
            other_end_s = start_s + other_s * calibration.factor + calibration.overhead_s
            done_s = end_s if end_s < done_s else done_s
            other_done_s = other_end_s if other_end_s < other_done_s else other_done_s
        return done_s, other_done_s

    def room_before_s(self, deadline_s: float, now_s: float) -> float:
        """Return how much work the workers can do before one deadline. Units: profile seconds."""
        if not self.few and (table := self._table()) is not None:
            left_s = np.maximum(deadline_s - np.maximum(table[0], now_s), 0.0)
            return float((left_s / table[1]).sum())
        room_s = 0.0
        for worker in self.workers:
            free_s = worker.free_at_s if worker.free_at_s > now_s else now_s
            if free_s < deadline_s:
                room_s += (deadline_s - free_s) / worker.calibration.factor
        return room_s
