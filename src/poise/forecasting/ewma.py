"""``ewma``: an exponentially weighted mean of one-minute maxima."""

from __future__ import annotations

import numpy as np

from poise.forecasting.base import Forecast, RateHistory, point_forecast
from poise.forecasting.last_max import LastMax
from poise.forecasting.windows import MINUTE_S, minute_maxima, whole_seconds

SPAN = 10
MINUTES = 60
"""Older minutes have less than a 100,000th of the newest one's weight."""


class Ewma:
    """Forecasts the mean of the one-minute maxima, weighted by ``(1 - 2/(span + 1))^age``; 0 for no history.

    The horizon does not change it. Source: InfAdapter (arXiv 2304.10892), what its released code does while the history
    is too short for its LSTM; span 10.
    """

    name = "ewma"

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        """Return a point forecast; see ``Forecaster``."""
        whole_seconds(horizon_s)
        maxima = minute_maxima(history, MINUTES)
        if len(maxima) == 0:  # nothing within an hour
            return point_forecast(self.name, horizon_s, LastMax().forecast(history, MINUTE_S).rates[0])
        weights = (1 - 2 / (SPAN + 1)) ** np.arange(len(maxima) - 1, -1, -1)
        mean = float(weights @ maxima / weights.sum())
        return point_forecast(self.name, horizon_s, min(mean, float(maxima.max())))  # rounding may lift it
