"""``last-max``: the load stays as high as it was."""

from __future__ import annotations

from poise.forecasting.base import Forecast, RateHistory, point_forecast
from poise.forecasting.windows import largest, tail, whole_seconds


class LastMax:
    """Forecasts the largest rate of the last ``horizon_s``; 0 where there never was one.

    After a gap the span is ten times as long, and so on, until it holds a second that was observed.
    """

    name = "last-max"

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        """Return a point forecast; see ``Forecaster``."""
        span_s = whole_seconds(horizon_s)
        found = largest(tail(history, span_s))
        while found is None and span_s < len(history.rates):
            span_s *= 10
            found = largest(tail(history, span_s))
        return point_forecast(self.name, horizon_s, found or 0.0)
