"""``burst``: calibrated by its own past errors, and quick to rise."""

from __future__ import annotations

import numpy as np
import pytest

from poise.forecasting.base import LEVELS, RateHistory
from poise.forecasting.burst import Burst


def shares_within(rates: np.ndarray, horizon_s: int, first: int, step: int) -> np.ndarray:
    within = []
    for at in range(first, len(rates) - horizon_s, step):
        found = Burst().forecast(RateHistory(rates[:at], float(at)), horizon_s)
        within.append(rates[at : at + horizon_s].max() <= np.array(found.rates))
    return np.mean(within, axis=0)


@pytest.mark.parametrize("horizon_s", [1, 5, 30])
def test_a_steady_load_is_within_each_level_as_often_as_claimed(horizon_s: int) -> None:
    # Wider than Poisson: the spread has to be learnt.
    rates = np.random.default_rng(horizon_s).gamma(4.0, 25.0, 40_000).round()
    assert shares_within(rates, horizon_s, 2_000, 31) == pytest.approx(LEVELS, abs=0.035)


def test_without_past_errors_the_load_is_taken_as_poisson() -> None:
    found = Burst().forecast(RateHistory(np.full(3, 100.0), 3.0), 1)
    # c = ½·Φ⁻¹(level): 0, .42, .64, .82 and the largest of 20 equal steps, 0.98
    assert found.rates == pytest.approx((100.6, 108.9, 114.9, 120.6, 120.6), abs=0.8)
    assert Burst().forecast(RateHistory(np.full(3, 100.0), 3.0), 30).at(0.5) == pytest.approx(121, abs=2)


def test_it_rises_within_seconds_and_falls_slowly() -> None:
    calm, loud = np.full(1000, 10.0), np.full(3, 100.0)
    risen = Burst().forecast(RateHistory(np.concatenate([calm, loud]), 0.0), 1).at(0.5)
    assert risen > 60
    fallen = (
        Burst().forecast(RateHistory(np.concatenate([calm, loud, loud, np.full(10, 10.0)]), 0.0), 1).at(0.5)
    )
    assert 20 < fallen < risen


def test_it_scales_with_the_load() -> None:
    rates = np.random.default_rng(1).poisson(50, 3000).astype(np.float64)
    small = np.array(Burst().forecast(RateHistory(rates, 0.0), 5).rates)
    assert small.min() > 50
    assert np.array(Burst().forecast(RateHistory(4 * rates, 0.0), 5).rates) == pytest.approx(
        4 * small, rel=0.02
    )


def test_a_load_of_few_jobs_an_hour_keeps_its_levels_too() -> None:
    rates = np.random.default_rng(7).poisson(0.01, 40_000).astype(np.float64)  # mostly nothing for minutes
    within = shares_within(rates, 30, 8_000, 37)
    assert (within >= np.array(LEVELS) - 0.02).all(), within


def test_gaps_are_not_taken_for_quiet() -> None:
    rates = np.random.default_rng(1).poisson(50, 3000).astype(np.float64)
    holey = rates.copy()
    holey[::7] = np.nan
    whole = np.array(Burst().forecast(RateHistory(rates, 0.0), 1).rates)
    assert np.array(Burst().forecast(RateHistory(holey, 0.0), 1).rates) == pytest.approx(whole, rel=0.1)
