"""The highest load that a system holds: bisection over the rate, for simulated and live runs alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from poise.domain.quantities import require_fraction, require_positive


class Trial(msgspec.Struct, frozen=True):
    """One run. Units: ``load`` in jobs/s; ``attainment`` is a share of jobs."""

    load: float
    attainment: float


class LoadSearch(msgspec.Struct, frozen=True):
    """What a search came to; ``trials`` are its runs, in order.

    - ``found``: ``load`` holds the target, and a load at most the tolerance above it does not;
    - ``all_hold``: even the highest load holds, and is the answer;
    - ``none_holds``: not even the lowest does; ``load`` is 0.
    """

    load: float
    ended: Literal["found", "all_hold", "none_holds"]
    trials: tuple[Trial, ...]


def highest_load(
    simulate_at: Callable[[float], float],
    low: float,
    high: float,
    target: float = 0.99,
    tolerance: float = 0.02,
) -> LoadSearch:
    """Find the highest load between two at which attainment is at least ``target``, to a share ``tolerance``.

    ``simulate_at`` runs one load and returns its attainment. It is to draw with the same seed at every load
    (common random numbers): the answers then differ by the load alone, and chance does not turn the bisection
    the wrong way. Attainment is taken to fall with the load; where it does not, the answer is one of the
    loads at which it crosses the target. About log2((high − low)/(tolerance·load)) + 2 runs.

    Units: loads in jobs/s.

    Raises:
        ValueError: loads that are not positive and rising, or a target or tolerance out of range.
    """
    require_positive(low, "low")
    require_positive(high, "high")
    require_fraction(target, "target")
    require_positive(tolerance, "tolerance")
    if high < low:
        raise ValueError(f"got high {high!r}, expected at least low {low!r}")
    trials: list[Trial] = []

    def holds(load: float) -> bool:
        trials.append(Trial(load, simulate_at(load)))
        return trials[-1].attainment >= target

    if not holds(low):
        return LoadSearch(0.0, "none_holds", tuple(trials))
    if holds(high):
        return LoadSearch(high, "all_hold", tuple(trials))
    while high - low > tolerance * low:
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return LoadSearch(low, "found", tuple(trials))
