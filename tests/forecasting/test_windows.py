"""Windows of a history, by hand and against the obvious way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.forecasting.base import RateHistory
from poise.forecasting.windows import (
    MAX_RATE_RPS,
    cleaned,
    minute_maxima,
    tail,
    whole_seconds,
    window_maxima,
)

NAN = float("nan")


def test_what_is_no_rate_counts_as_not_observed() -> None:
    given = np.array([0.0, 5.0, -1.0, NAN, float("inf"), -float("inf"), 1e300])
    assert np.array_equal(cleaned(given), [0.0, 5.0, NAN, NAN, NAN, NAN, MAX_RATE_RPS], equal_nan=True)


def test_the_tail_is_the_newest_seconds() -> None:
    history = RateHistory(np.arange(5.0), 5.0)
    assert tail(history, 2).tolist() == [3.0, 4.0]
    assert tail(history, 9).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(("horizon_s", "seconds"), [(0.2, 1), (1, 1), (1.5, 2), (30.0, 30), (0.1 * 30, 3)])
def test_a_horizon_touches_whole_seconds(horizon_s: float, seconds: int) -> None:
    assert whole_seconds(horizon_s) == seconds


@pytest.mark.parametrize("horizon_s", [0.0, -1.0, NAN, float("inf")])
def test_a_horizon_is_positive_and_finite(horizon_s: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number of seconds"):
        whole_seconds(horizon_s)


@given(st.lists(st.one_of(st.integers(0, 9), st.just(None)), min_size=1, max_size=40), st.integers(1, 40))
def test_window_maxima_are_those_of_each_window(values: list[int | None], seconds: int) -> None:
    rates = np.array([NAN if value is None else float(value) for value in values])
    if seconds > len(rates):
        assert len(window_maxima(rates, seconds)) == 0
        return
    wanted = [rates[i : i + seconds].max() for i in range(len(rates) - seconds + 1)]  # max keeps NaN
    assert np.array_equal(window_maxima(rates, seconds), wanted, equal_nan=True)


def test_minutes_are_counted_back_from_the_end() -> None:
    rates = np.concatenate([np.full(30, 99.0), np.full(60, 1.0), np.full(60, 2.0)])
    rates[40] = 7.0
    assert minute_maxima(RateHistory(rates, 0.0), 10).tolist() == [7.0, 2.0]  # the half minute is left out
    assert minute_maxima(RateHistory(rates, 0.0), 1).tolist() == [2.0]


def test_a_history_of_less_than_a_minute_is_one() -> None:
    assert minute_maxima(RateHistory(np.array([3.0, 8.0, NAN]), 0.0), 10).tolist() == [8.0]
    assert minute_maxima(RateHistory(np.array([]), 0.0), 10).tolist() == []
    assert minute_maxima(RateHistory(np.full(200, NAN), 0.0), 10).tolist() == []


def test_a_minute_without_a_record_is_as_the_one_before() -> None:
    rates = np.repeat([NAN, 4.0, NAN, NAN, 6.0, NAN], 60)
    assert minute_maxima(RateHistory(rates, 0.0), 10).tolist() == [4.0, 4.0, 4.0, 6.0, 6.0]
