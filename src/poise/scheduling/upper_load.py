"""How much work may arrive within one SLO: an upper quantile of what did, for planning with virtual jobs."""

from __future__ import annotations

import math
from collections import deque

WINDOWS = 64
QUANTILE = 0.95


class UpperLoad:
    """Counts items and their cheapest work in windows of one SLO. Units: ``window_s`` in seconds; profile seconds."""

    __slots__ = ("_at_s", "_done", "_items", "_now", "_work_s", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._done: deque[float] = deque(maxlen=WINDOWS)
        self._at_s: float | None = None
        self._now = 0.0
        self._items = 0
        self._work_s = 0.0

    def observe(self, now_s: float, items: int, work_s: float) -> None:
        """Count a job and the time that it takes at its cheapest plan."""
        self._roll(now_s)
        self._now += work_s
        self._items += items
        self._work_s += work_s

    def work_s(self, now_s: float, items_per_s: float) -> float:
        """Return the work to expect within a window: the upper quantile seen, or what a rate brings if that is more."""
        if not self._items:
            return 0.0
        self._roll(now_s)
        by_rate_s = items_per_s * self.window_s * self._work_s / self._items
        if not self._done:
            return by_rate_s
        ordered = sorted(self._done)
        return max(by_rate_s, ordered[math.ceil(QUANTILE * len(ordered)) - 1])

    def _roll(self, now_s: float) -> None:
        if self._at_s is None:
            self._at_s = now_s
        windows = math.floor((now_s - self._at_s) / self.window_s)
        if windows <= 0:
            return
        self._at_s += windows * self.window_s
        self._done.append(self._now)
        self._done.extend([0.0] * min(windows - 1, WINDOWS))
        self._now = 0.0
