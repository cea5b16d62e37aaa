"""``last-max`` and ``ewma``, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from poise.forecasting.base import RateHistory
from poise.forecasting.ewma import Ewma
from poise.forecasting.last_max import LastMax

NAN = float("nan")


def of(*rates: float) -> RateHistory:
    return RateHistory(np.array(rates), float(len(rates)))


@pytest.mark.parametrize(
    ("history", "horizon_s", "rate"),
    [
        (of(9, 1, 4, 2), 3, 4.0),
        (of(9, 1, 4, 2), 4, 9.0),
        (of(9, 1, 4, 2), 0.5, 2.0),
        (of(9, 1, 4, NAN), 1, 9.0),  # nothing in the last second: of the last ten
        (of(9, NAN, NAN), 60, 9.0),
        (of(9, 8, *[NAN] * 2000), 1, 9.0),  # nor in the last thousand
        (of(NAN, NAN), 30, 0.0),
        (of(), 30, 0.0),
        (of(0, 0), 2, 0.0),
    ],
)
def test_last_max(history: RateHistory, horizon_s: float, rate: float) -> None:
    found = LastMax().forecast(history, horizon_s)
    assert (found.levels, found.rates, found.forecaster) == ((0.5,), (rate,), "last-max")
    assert found.at(0.99) == rate
    assert found.horizon_s == horizon_s


def test_ewma_weighs_minutes_by_nine_elevenths_of_the_next() -> None:
    history = RateHistory(np.repeat([11.0, 22.0, 44.0], 60), 180.0)
    # (11·81 + 22·99 + 44·121) / (81 + 99 + 121)
    assert Ewma().forecast(history, 30).rates[0] == pytest.approx(8393 / 301)


@pytest.mark.parametrize(
    ("history", "rate"), [(of(), 0.0), (of(NAN), 0.0), (of(5, 7, 6), 7.0), (of(*[3.0] * 7200), 3.0)]
)
def test_ewma_of_what_is_short_or_constant(history: RateHistory, rate: float) -> None:
    found = Ewma().forecast(history, 60)
    assert found.rates[0] == pytest.approx(rate)
    assert found.forecaster == "ewma"
