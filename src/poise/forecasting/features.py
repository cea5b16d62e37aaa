"""What a history looks like just before a forecast: the features of ``seasonal``.

All but the base and the clock are free of scale: rates are divided by the *base*, the mean of the last minute. A
feature is NaN where what it is made of was not observed. Nothing at or after the forecast's time is read. A *spread* is
the variance over the squared mean, by which bursts differ from Poisson arrivals at the same base.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from poise.forecasting.base import Rates
from poise.forecasting.windows import cleaned

RECENT_S = 900
"""So far back go the seconds themselves, and so long must a history be."""
BASE_S = 60
LEAST_BASE_RPS = 1 / 60
MEANS_S = (1, 2, 3, 5, 10, 20, 30, 120, 300, 900)
MAXIMA_S = (5, 10, 30, 60, 120, 300, 900)
SPREADS_S = (10, 30, 60, 300)
SLOPES_S = (10, 30)
MINUTES = 10
LAGS_S = (1_800, 3_600, 7_200, 86_400, 172_800, 604_800)
"""How long ago the load may have done what it does now: half an hour to a week."""
LARGEST = 1e6

FEATURES = (
    "base",
    *(f"mean of {s} s" for s in MEANS_S),
    *(f"maximum of {s} s" for s in MAXIMA_S),
    *(f"spread of {s} s" for s in SPREADS_S),
    *(f"slope of {s} s" for s in SLOPES_S),
    *(f"maximum {k} minutes ago" for k in range(1, MINUTES)),
    *(f"rise {s} s ago" for s in LAGS_S),
    *(f"level {s} s ago" for s in LAGS_S),
    "second of the hour",
    "minute of the day",
    "second of the minute",
)
"""Their names, in order. A model says which it was trained on."""
PERIOD_S = np.array(
    [0.0] * (len(FEATURES) - 2 * len(LAGS_S) - 3) + [*LAGS_S, *LAGS_S] + [3_600.0, 86_400.0, 60.0]
)
"""What repeats itself, of each feature; 0 where nothing has to. Who has not seen it twice cannot learn from it."""

Columns = NDArray[np.float64]


def features(
    rates: Rates, ends: NDArray[np.int64], seconds: int, ends_at_s: float | NDArray[np.float64]
) -> tuple[Columns, Rates]:
    """Return the features before each of the times ``ends``, positions in ``rates``, and the bases.

    Shapes: ``rates`` [n], ``ends`` [k] in 0..n, to [k, features] and [k]; a base is NaN where no second of the last
    ``RECENT_S`` was observed. Units: ``seconds`` is the horizon; ``ends_at_s`` are the times, seconds since the epoch.
    """
    recent = _taken(rates, ends, np.arange(-RECENT_S, 0))
    base = _mean(recent[:, -BASE_S:])
    base = np.where(np.isnan(base), _mean(recent), base)
    base = np.maximum(base, LEAST_BASE_RPS)
    relative = recent / base[:, None]
    at_s = np.broadcast_to(np.asarray(ends_at_s, np.float64), ends.shape)
    columns = [base, *_of_recent(relative), *_of_lags(rates, ends, seconds, base)]
    columns += [at_s % 3600, at_s % 86_400 // 60, at_s % 60]
    return np.clip(np.stack(columns, axis=1), -LARGEST, LARGEST), base


def _taken(rates: Rates, ends: NDArray[np.int64], offsets: NDArray[np.int64]) -> Columns:
    """Return the rates at so many seconds from each end, cleaned; NaN before the history begins."""
    at = ends[:, None] + offsets
    if len(rates) == 0:
        return np.full(at.shape, np.nan)
    return cleaned(np.where(at >= 0, rates[np.clip(at, 0, len(rates) - 1)], np.nan))


def _of_recent(relative: Columns) -> list[Rates]:
    seen = ~np.isnan(relative)
    values = np.where(seen, relative, 0.0)
    # Sums from the newest second backwards, so that [:, s - 1] is of the last s seconds.
    counts = np.cumsum(seen[:, ::-1], axis=1, dtype=np.float64)
    sums = np.cumsum(values[:, ::-1], axis=1)
    squares = np.cumsum(values[:, ::-1] ** 2, axis=1)
    lowest = np.where(seen, relative, -np.inf)
    columns = [_over(sums[:, s - 1], counts[:, s - 1]) for s in MEANS_S]
    columns += [_finite(lowest[:, -s:].max(axis=1)) for s in MAXIMA_S]
    for s in SPREADS_S:
        mean = _over(sums[:, s - 1], counts[:, s - 1])
        variance = np.maximum(_over(squares[:, s - 1], counts[:, s - 1]) - mean**2, 0.0)
        columns.append(_over(variance, mean**2))
    for s in SLOPES_S:
        before = _over(sums[:, 2 * s - 1] - sums[:, s - 1], counts[:, 2 * s - 1] - counts[:, s - 1])
        columns.append(_over(sums[:, s - 1], counts[:, s - 1]) - before)
    minutes = lowest[:, -60 * MINUTES :].reshape(len(relative), MINUTES, 60).max(axis=2)
    columns += [_finite(minutes[:, MINUTES - 1 - k]) for k in range(1, MINUTES)]
    return columns


def _of_lags(rates: Rates, ends: NDArray[np.int64], seconds: int, base: Rates) -> list[Rates]:
    """Return the largest rate over the same horizon a lag ago: over the minute before it, and over the base."""
    rises, levels = [], []
    for lag_s in LAGS_S:
        then = _taken(rates, ends, np.arange(-lag_s - BASE_S, min(seconds, lag_s) - lag_s))
        came = _finite(np.where(np.isnan(then[:, BASE_S:]), -np.inf, then[:, BASE_S:]).max(axis=1))
        rises.append(came / np.maximum(_mean(then[:, :BASE_S]), LEAST_BASE_RPS))
        levels.append(came / base)
    return [*rises, *levels]


def _mean(values: Columns) -> Rates:
    seen = ~np.isnan(values)
    return _over(np.where(seen, values, 0.0).sum(axis=1), seen.sum(axis=1).astype(np.float64))


def _over(above: Rates, below: Rates) -> Rates:
    """Divide; NaN where there is nothing to divide by."""
    quotients: Rates = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return quotients


def _finite(values: Rates) -> Rates:
    return np.where(np.isneginf(values), np.nan, values)
