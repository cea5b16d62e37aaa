"""``last-max``: the load stays as high as it was."""

from __future__ import annotations

from poise.forecasting.base import Forecast, RateHistory, point_forecast
from poise.forecasting.windows import largest, tail, whole_seconds


class LastMax:
    """Forecasts the largest rate of the last ``horizon_s``; of ten times as long where none was observed; else 0."""

    name = "last-max"

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        """Return a point forecast; see ``Forecaster``."""
        seconds = whole_seconds(horizon_s)
        for span_s in (seconds, 10 * seconds):
            found = largest(tail(history, span_s))
            if found is not None:
                return point_forecast(self.name, horizon_s, found)
        return point_forecast(self.name, horizon_s, 0.0)
