"""What a worker really takes against what the profile says: ``real = factor · profile + overhead``.

*factor* compares the time that the worker measured in its stages with the profile's medians: the median of the
last ratios, each weighted by its predicted time, so that a hundred tiny batches, whose time is mostly noise, do
not speak for a large one. *overhead* is what came on top between dispatch and answer, beyond the profile's way
to a worker and back: the median of the last differences. Medians ignore outliers up to half the window. Each
worker has its own pair, so that a slow one does not spoil another's.
"""

from __future__ import annotations

from collections import deque

WINDOW = 32
ENOUGH = 8
LIMIT = 8.0
STALE_S = 5.0
"""What was measured longer ago than this is given up rather than refuse jobs because of it."""


class Calibration:
    """Running factor and overhead of one worker; 1 and 0 until enough batches were measured. Units: seconds."""

    __slots__ = ("_extra_s", "_measured_s", "_stages", "factor", "overhead_s")

    def __init__(self) -> None:
        self._stages: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._extra_s: deque[float] = deque(maxlen=WINDOW)
        self._measured_s = float("-inf")
        self.factor = 1.0
        self.overhead_s = 0.0

    def forget_if_stale(self, now_s: float) -> bool:
        """Go back to the profile if nothing was measured for a while; say whether that changes anything.

        A worker that looks too slow for every job is given none, and so would look slow for ever.
        """
        if now_s - self._measured_s < STALE_S or (self.factor, self.overhead_s) == (1.0, 0.0):
            return False
        self._stages.clear()
        self._extra_s.clear()
        self.factor, self.overhead_s = 1.0, 0.0
        return True

    def observe(
        self, *, now_s: float, run_s: float, stages_s: float, predicted_s: float, way_s: float
    ) -> None:
        """Take one batch: dispatch to answer, its stages as measured and as predicted, the predicted way."""
        if not (predicted_s > 0 and 0 <= stages_s <= run_s < float("inf")):
            return
        self._measured_s = now_s
        self._stages.append((stages_s / predicted_s, predicted_s))
        self._extra_s.append(run_s - stages_s - way_s)
        if len(self._stages) < ENOUGH:
            return
        self.factor = min(LIMIT, max(1 / LIMIT, _weighted_median(self._stages)))
        self.overhead_s = max(0.0, sorted(self._extra_s)[len(self._extra_s) // 2])

    def profile_s(self, real_s: float) -> float:
        """Return how much profile time fits into a real time."""
        return (real_s - self.overhead_s) / self.factor

    def real_s(self, profile_s: float) -> float:
        """Return how long a profile time really takes."""
        return profile_s * self.factor + self.overhead_s


def _weighted_median(pairs: deque[tuple[float, float]]) -> float:
    ordered = sorted(pairs)
    half = sum(weight for _, weight in ordered) / 2
    seen = 0.0
    for value, weight in ordered:
        seen += weight
        if seen >= half:
            return value
    return ordered[-1][0]
