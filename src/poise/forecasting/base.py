"""What every forecaster is: a history of rates in, quantiles of the largest rate ahead out."""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Rates = NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""The levels of forecasters that know their own error."""


class RateHistory(msgspec.Struct, frozen=True):
    """The arrivals of each whole second, oldest first.

    Shapes: ``rates`` [seconds]. Units: arrivals per second; NaN where a second was not observed. ``end_s`` is when the
    last of them ended, in seconds since the epoch (UTC), for what depends on the hour or the day.
    """

    rates: Rates
    end_s: float


class Forecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of the largest rate of any second within ``horizon_s`` from the history's end.

    Shapes: ``levels`` rise within (0, 1), ``rates`` never fall; one rate for each level. Units: arrivals per second,
    seconds. ``forecaster`` is the name of what made it: a fallback's where the one asked for could not.
    """

    horizon_s: float
    levels: tuple[float, ...]
    rates: tuple[float, ...]
    forecaster: str

    def at(self, level: float) -> float:
        """Return the rate at a level: linear between the quantiles, the nearest one beyond them."""
        return float(np.interp(level, self.levels, self.rates))


def point_forecast(name: str, horizon_s: float, rate: float) -> Forecast:
    """Return a forecast that is one number: it stands at level ½, since it claims no other."""
    return Forecast(horizon_s=horizon_s, levels=(0.5,), rates=(rate,), forecaster=name)


class Forecaster(Protocol):
    """Forecasts the largest rate within a horizon. It keeps no history of its own and reads no clock.

    Two calls with equal arguments give equal forecasts, so that a log replays.
    """

    name: str

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        """Return a forecast; a short or an empty history has an answer too.

        Raises:
            ValueError: ``horizon_s`` is not positive and finite.
        """
        ...
