"""``burst``: two moving means of the last seconds, and as much above them as they have lately been too low."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from poise.forecasting.base import LEVELS, Forecast, RateHistory, Rates
from poise.forecasting.conformal import conformal_quantiles
from poise.forecasting.last_max import LastMax
from poise.forecasting.windows import MAX_RATE_RPS, tail, whole_seconds, window_maxima

SPANS_S = (5, 30)
TAPS = 60
"""What is older has less than a 50th of a mean's weight."""
WINDOW_OF_HORIZON = 240
SHORTEST_WINDOW_S, LONGEST_WINDOW_S = 1800, 7200
SCORES_PER_HORIZON = 5
PRIOR = 20
"""So many scores stand for the belief that arrivals are Poisson, until there are more from experience."""

_KERNELS: tuple[Rates, ...] = tuple(
    np.asarray((1 - 2 / (span + 1)) ** np.arange(TAPS), np.float64) for span in SPANS_S
)


class Burst:
    """Needs no training and learns from the history alone: its own past errors are forecast again at each call.

    The centre *m* is the larger of two exponentially weighted means, of spans 5 and 30 s, so that it rises fast and
    falls slowly. A past forecast's score is ``√y - √m`` for the largest rate *y* that came: √ makes the spread of
    counts about the same at any load (Bartlett 1936). The forecast is ``(√m + c)²`` with *c* the conformal quantile
    of the scores of the last half hour to two hours, by the horizon. Before there are scores the load is taken as
    Poisson, where the largest of *h* seconds has ``c = ½·Φ⁻¹(level^(1/h))``; this is worth ``PRIOR`` scores
    throughout.

    Rolling windows in place of exchangeable data: the quantiles follow the load, with a lag of about the window.
    """

    name = "burst"

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        """Return the quantiles at ``LEVELS``, all 0 for no history; see ``Forecaster``."""
        seconds = whole_seconds(horizon_s)
        window_s = min(max(SHORTEST_WINDOW_S, WINDOW_OF_HORIZON * seconds), LONGEST_WINDOW_S)
        rates = tail(history, window_s + seconds)
        centres = _centres(rates)  # [t] is of the seconds before t
        known = centres[~np.isnan(centres)]  # in a gap the last one stands
        now = float(known[-1]) if len(known) else LastMax().forecast(history, horizon_s).rates[0]
        scores = np.concatenate([_poisson_scores(seconds, now), _scores(rates, centres, seconds)])
        above = np.maximum(0.0, math.sqrt(now) + conformal_quantiles(scores, LEVELS)) ** 2
        return Forecast(
            horizon_s=horizon_s,
            levels=LEVELS,
            rates=tuple(np.minimum(above, MAX_RATE_RPS).tolist()),
            forecaster=self.name,
        )


def _centres(rates: Rates) -> Rates:
    """Return the centre before each second, and after the last one; NaN where nothing was observed of late.

    Shapes: [n] to [n + 1].
    """
    n = len(rates)
    if n == 0:
        return np.array([np.nan])
    missing = np.isnan(rates)
    values = np.where(missing, 0.0, rates)
    centres = np.full(n + 1, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.convolve(values, kernel)[:n] / _weights(missing, kernel) for kernel in _KERNELS]
    centres[1:] = np.maximum(*means)
    return centres


def _weights(missing: NDArray[np.bool_], kernel: Rates) -> Rates:
    """Return how much weight the observed seconds have in each mean."""
    n = len(missing)
    if missing.any():
        return np.convolve(~missing, kernel)[:n]
    sums = np.cumsum(kernel)
    return np.concatenate([sums[:n], np.full(max(0, n - TAPS), sums[-1])])


def _scores(rates: Rates, centres: Rates, seconds: int) -> Rates:
    """Return the scores of the forecasts that could have been checked by now, the newest one at least."""
    if len(rates) < seconds + 1:
        return np.array([])
    step = max(1, seconds // SCORES_PER_HORIZON)
    came = window_maxima(rates, seconds)[::-step]
    expected = centres[: len(rates) - seconds + 1][::-step]
    scores: Rates = np.sqrt(came) - np.sqrt(expected)
    return scores[~np.isnan(scores)]


def _poisson_scores(seconds: int, rate: float) -> Rates:
    """Return evenly spread quantiles of the score; below one job a second, where √ is no such help, less of them."""
    normal = NormalDist()
    levels = (np.arange(PRIOR) + 0.5) / PRIOR
    spread = 0.5 * min(1.0, math.sqrt(rate))
    return np.array([spread * normal.inv_cdf(level ** (1 / seconds)) for level in levels])
