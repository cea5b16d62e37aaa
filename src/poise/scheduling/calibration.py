"""What a worker really takes against what the profile says.

The factor of a worker is the median of its last measured/predicted ratios (predicted by the profile's
medians), once there are enough of them, within [1/8, 8]. A median of 16 ignores up to seven outliers; each
worker has its own, so that a slow one does not spoil another's.
"""

from __future__ import annotations

from collections import deque

WINDOW = 16
ENOUGH = 8
LIMIT = 8.0


class Calibration:
    """Robust running factor of one worker; 1.0 until enough batches were measured."""

    __slots__ = ("_ratios", "factor")

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=WINDOW)
        self.factor = 1.0

    def observe(self, measured_s: float, predicted_s: float) -> None:
        """Take one batch. Units: seconds."""
        if not (predicted_s > 0 and 0 <= measured_s < float("inf")):
            return
        self._ratios.append(measured_s / predicted_s)
        if len(self._ratios) >= ENOUGH:
            ordered = sorted(self._ratios)
            middle = ordered[len(ordered) // 2]
            self.factor = min(LIMIT, max(1 / LIMIT, middle))
