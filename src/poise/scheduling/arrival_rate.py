"""A running estimate of the arrival rate, until forecasters say more."""

from __future__ import annotations

import math


class ArrivalRate:
    """Items per second, exponentially weighted. Units: ``window_s`` in seconds."""

    __slots__ = ("_at_s", "_mass", "_started_s", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._mass = 0.0
        self._at_s: float | None = None
        self._started_s = 0.0

    def observe(self, now_s: float, items: int) -> None:
        """Count arrived items."""
        if self._at_s is None:
            self._started_s = now_s
        else:
            self._mass *= math.exp(-(now_s - self._at_s) / self.window_s)
        self._at_s = now_s
        self._mass += items

    def items_per_s(self, now_s: float) -> float:
        """Return the rate now; unbiased from the first arrival on, never from less than a tenth of the window."""
        if self._at_s is None:
            return 0.0
        seen_s = max(now_s - self._started_s, 0.1 * self.window_s)
        weight = self.window_s * -math.expm1(-seen_s / self.window_s)
        return self._mass * math.exp(-(now_s - self._at_s) / self.window_s) / weight
