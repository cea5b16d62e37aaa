"""What holds for every forecaster and every history."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.forecasting.base import Forecaster, RateHistory
from poise.forecasting.burst import Burst
from poise.forecasting.ewma import Ewma
from poise.forecasting.last_max import LastMax
from poise.forecasting.lstm import Lstm
from poise.forecasting.named import KINDS
from poise.forecasting.seasonal import Seasonal, SeasonalModel

RATE = st.one_of(
    st.integers(0, 300).map(float),
    st.sampled_from([math.nan, 0.0, -1.0, math.inf, -math.inf, 1e9, 1e300, 5e-324]),
    st.floats(),
)
RUN = st.tuples(RATE, st.sampled_from([1, 2, 7, 59, 60, 61, 300, 950]), st.sampled_from([0.0, 0.3, 3.0]))


@st.composite
def histories(draw: st.DrawFn) -> RateHistory:
    """Runs of a rate, with noise, gaps, jumps and nonsense between them."""
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    parts = [np.empty(0)]
    with np.errstate(all="ignore"):
        for rate, seconds, noise in draw(st.lists(RUN, max_size=6)):
            parts.append(rate * (1 + noise * rng.random(seconds)))
    return RateHistory(np.concatenate(parts), draw(st.sampled_from([0.0, 1.7e9, 1.7e9 + 0.5])))


@pytest.fixture
def every(lstm: Lstm, model: SeasonalModel) -> list[Forecaster]:
    found: list[Forecaster] = [LastMax(), Ewma(), Burst(), lstm, Seasonal(model)]
    assert [forecaster.name for forecaster in found] == list(KINDS)
    return found


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories(), st.sampled_from([0.5, 1.0, 5.0, 30.0, 60.0, 600.0]))
def test_any_history_has_a_forecast(every: list[Forecaster], history: RateHistory, horizon_s: float) -> None:
    before = history.rates.copy()
    for forecaster in every:
        found = forecaster.forecast(history, horizon_s)
        assert found.horizon_s == horizon_s
        assert found.forecaster in KINDS
        assert len(found.levels) == len(found.rates) >= 1
        assert all(0 < level < 1 for level in found.levels)
        assert all(a < b for a, b in itertools.pairwise(found.levels))
        assert all(a <= b for a, b in itertools.pairwise(found.rates)), found
        assert all(0 <= rate <= 1e9 for rate in found.rates), found
        assert forecaster.forecast(history, horizon_s) == found
    assert np.array_equal(history.rates, before, equal_nan=True)


@pytest.mark.parametrize("horizon_s", [0.0, -5.0, math.nan, math.inf])
def test_no_forecast_of_no_time(every: list[Forecaster], horizon_s: float) -> None:
    for forecaster in every:
        with pytest.raises(ValueError, match="horizon_s"):
            forecaster.forecast(RateHistory(np.ones(2000), 0.0), horizon_s)


@pytest.mark.parametrize("seconds", [0, 1, 100, 3600])
def test_no_load_is_forecast_as_next_to_none(every: list[Forecaster], seconds: int) -> None:
    for forecaster in every:
        if forecaster.name == "lstm" and seconds >= 600:
            continue  # a network says what it says; it has not seen a load of 0
        assert forecaster.forecast(RateHistory(np.zeros(seconds), 0.0), 30).rates[-1] < 1


@pytest.mark.parametrize("gap_s", [30, 61, 899, 901, 4000, 20_000])
def test_a_gap_is_not_taken_for_the_end_of_the_load(every: list[Forecaster], gap_s: int) -> None:
    rates = np.concatenate([np.random.default_rng(1).poisson(80, 3000), np.full(gap_s, np.nan)])
    for forecaster in every:
        assert 70 < forecaster.forecast(RateHistory(rates, 0.0), 30).at(0.9) < 160, forecaster.name


def test_after_a_thousandfold_jump_the_forecast_is_of_the_new_order(every: list[Forecaster]) -> None:
    rates = np.concatenate([np.full(3000, 50.0), np.full(120, 50_000.0)])
    for forecaster in every:
        found = forecaster.forecast(RateHistory(rates, 3120.0), 30)
        upper = found.rates[-1]
        if forecaster.name == "lstm":
            assert upper > 300  # its gates are saturated: it knows only that it is much
        else:
            assert 15_000 < upper < 1e9, (forecaster.name, upper)
