"""The highest load that holds, where every trial is dear: outwards from a guess, then bisection."""

from __future__ import annotations

import math
from collections.abc import Callable


def highest_held(
    holds: Callable[[float], bool],
    start: float,
    *,
    step: float = 0.08,
    tolerance: float = 0.03,
    most: int = 7,
) -> float:
    """Return the highest load tried that holds, 0 where none does, in at most ``most`` trials.

    The first load is ``start``; from there it goes up or down, the step doubling each time, until one load holds
    and a higher one does not; then between the two, until they are within a share ``tolerance`` of each other.
    """
    low, high, load = 0.0, math.inf, start
    for _ in range(most):
        if holds(load):
            low = load
        else:
            high = load
        if low and high < math.inf:
            if high - low <= tolerance * low:
                break
            load = (low + high) / 2
        else:
            load = low * (1 + step) if low else high * (1 - step)
            step = min(2 * step, 0.5)
    return low
