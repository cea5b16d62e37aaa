"""Windows of a history: parts of it with what is not usable marked, their means and their maxima.

Live histories have gaps and may hold anything. A second whose rate is no number, or a negative or infinite one, counts
as not observed (NaN); one above ``MAX_RATE_RPS`` counts as that.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from poise.forecasting.base import RateHistory, Rates

MAX_RATE_RPS = 1e9
MINUTE_S = 60


def cleaned(rates: Rates) -> Rates:
    """Return rates in [0, ``MAX_RATE_RPS``], NaN where there is none to use. Shapes: as given."""
    given = np.asarray(rates, np.float64)
    with np.errstate(invalid="ignore"):
        usable = (given >= 0) & (given < math.inf)
    return np.where(usable, np.minimum(given, MAX_RATE_RPS), np.nan)


def tail(history: RateHistory, seconds: int) -> Rates:
    """Return the last so many seconds, fewer where the history is shorter. Shapes: [at most seconds]."""
    return cleaned(history.rates[max(0, len(history.rates) - seconds) :])


def whole_seconds(horizon_s: float) -> int:
    """Return how many whole seconds a horizon touches, at least one.

    Raises:
        ValueError: it is not positive and finite.
    """
    if not 0 < horizon_s < math.inf:
        raise ValueError(f"got horizon_s {horizon_s!r}, expected a positive number of seconds")
    return math.ceil(horizon_s - 1e-9) or 1


def largest(rates: Rates) -> float | None:
    """Return the largest rate; None where no second was observed."""
    seen = rates[~np.isnan(rates)]
    return float(seen.max()) if len(seen) else None


def window_maxima(rates: Rates, seconds: int) -> Rates:
    """Return the maximum of each window of so many seconds; NaN where the window holds a second that was not observed.

    Shapes: [n] to [n - seconds + 1]: element *i* is of seconds *i* to *i + seconds - 1*. Time: n log seconds.
    """
    best, width = rates, 1
    while width < seconds:
        step = min(width, seconds - width)
        best = np.maximum(best[:-step], best[step:])  # keeps NaN
        width += step
    return best


def minute_maxima(history: RateHistory, minutes: int) -> Rates:
    """Return the largest rate of each of the last minutes, counted back from the history's end, oldest first.

    A minute that was not observed has the maximum of the one before; those before the first one observed are left out,
    so is a minute that the history does not cover whole, unless there is no other. Shapes: [at most minutes].
    """
    rates = tail(history, minutes * MINUTE_S)
    whole = len(rates) // MINUTE_S
    if whole == 0:
        only = largest(rates)
        return np.array([] if only is None else [only])
    by_minute = rates[len(rates) - whole * MINUTE_S :].reshape(whole, MINUTE_S)
    maxima = np.where(np.isnan(by_minute), -1.0, by_minute).max(axis=1)
    seen = np.flatnonzero(maxima >= 0)
    if len(seen) == 0:
        return np.array([])
    last_seen: NDArray[np.intp] = np.maximum.accumulate(np.where(maxima >= 0, np.arange(whole), 0))
    carried: Rates = maxima[last_seen][seen[0] :]
    return carried
