"""The one timer of a cell."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable


class Alarm:
    """Calls ``rings`` with the monotonic clock's time, in seconds, at the time that was set last; never before."""

    def __init__(self, rings: Callable[[float], None]) -> None:
        self._rings = rings
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float) -> None:
        """Ring at a time, instead of the one set before."""
        self.close()
        # Whole milliseconds, rounded up: the loop's timers have no finer grain and may not be early.
        delay_s = max(0, math.ceil((at_s - time.monotonic()) * 1e3)) / 1e3
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._rang, at_s)

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _rang(self, at_s: float) -> None:
        self._timer = None
        now_s = time.monotonic()
        if now_s < at_s:
            self.set(at_s)
        else:
            self._rings(now_s)
