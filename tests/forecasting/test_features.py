"""Features look back only, and mean what they are called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.forecasting.features import FEATURES, LAGS_S, features

N = 100_000
RATES = np.random.default_rng(5).poisson(30, N).astype(np.float64)


def one(rates: np.ndarray, end: int, seconds: int = 30, at_s: float = 0.0) -> dict[str, float]:
    columns, _ = features(rates, np.array([end]), seconds, at_s)
    return dict(zip(FEATURES, columns[0].tolist(), strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, N), st.integers(1, 600), st.sampled_from([0.0, 1e9, float("nan")]))
def test_nothing_at_or_after_the_moment_is_read(end: int, seconds: int, ahead: float) -> None:
    changed = RATES.copy()
    changed[end:] = ahead
    of_all = features(RATES, np.array([end]), seconds, 0.0)
    assert np.array_equal(of_all[0], features(changed, np.array([end]), seconds, 0.0)[0], equal_nan=True)
    assert np.array_equal(of_all[0], features(RATES[:end], np.array([end]), seconds, 0.0)[0], equal_nan=True)


def test_they_are_free_of_scale_but_for_the_base_and_the_clock() -> None:
    small, large = one(RATES, N), one(1000 * RATES, N)
    assert large.pop("base") == pytest.approx(1000 * small.pop("base"))
    assert large == pytest.approx(small, nan_ok=True)


def test_by_hand() -> None:
    rates = np.full(90_000, 10.0)
    rates[-1], rates[-7], rates[-200] = 20.0, 40.0, 60.0
    rates[-3600 + 29] = 80.0  # within the same 30 s an hour ago
    found = one(rates, len(rates), at_s=86_400.0 * 3 + 3600 * 5 + 125)
    base = (58 * 10 + 20 + 40) / 60
    assert found["base"] == pytest.approx(base)
    assert found["mean of 1 s"] == pytest.approx(20 / base)
    assert found["mean of 10 s"] == pytest.approx((8 * 10 + 20 + 40) / 10 / base)
    assert found["maximum of 5 s"] == pytest.approx(20 / base)
    assert found["maximum of 10 s"] == pytest.approx(40 / base)
    assert found["maximum 3 minutes ago"] == pytest.approx(60 / base)
    assert found["maximum 2 minutes ago"] == pytest.approx(10 / base)
    assert found["slope of 10 s"] == pytest.approx(4 / base)
    assert found["rise 3600 s ago"] == pytest.approx(8.0)
    assert found["level 3600 s ago"] == pytest.approx(80 / base)
    assert found["rise 1800 s ago"] == pytest.approx(1.0)
    assert found["spread of 10 s"] == pytest.approx(np.var([10] * 8 + [20, 40]) / 14**2)
    assert np.isnan(found[f"level {LAGS_S[-1]} s ago"])  # not so much history
    clock = (found["second of the hour"], found["minute of the day"], found["second of the minute"])
    assert clock == (125.0, 302.0, 5.0)


def test_many_moments_at_once_are_as_one_after_the_other() -> None:
    ends = np.array([950, 7_000, 50_001, N])
    columns, bases = features(RATES, ends, 5, ends.astype(np.float64))
    for at, end in enumerate(ends):
        alone, base = features(RATES, ends[at : at + 1], 5, float(end))
        assert np.array_equal(columns[at], alone[0], equal_nan=True)
        assert bases[at] == base[0]
