"""What the forecasting benchmark reckons with, by hand."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from poise.forecasting.base import Forecast, RateHistory
from poise.forecasting.last_max import LastMax

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "forecasting" / "evaluation.py"
SPEC = importlib.util.spec_from_file_location("poise_benchmarks_forecasting_evaluation", PATH)
assert SPEC is not None and SPEC.loader is not None
evaluation = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = evaluation
SPEC.loader.exec_module(evaluation)


class Seen:
    """Forecasts the last second twice over, and keeps how much it was shown."""

    name = "seen"

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        self.lengths.append(len(history.rates))
        last = float(history.rates[-1])
        return Forecast(horizon_s, (0.5, 0.9), (last, 2 * last), self.name)


def test_the_figures_of_a_plan():
    found = evaluation.row("x", np.array([10.0, 10.0, 10.0, 10.0]), np.array([8.0, 10.0, 14.0, 9.0]))
    assert (found.error, found.under, found.over) == (7 / 4, 1 / 4, 3 / 4)
    assert found.pinball == pytest.approx((0.9 * 4 + 0.1 * 3) / 4)


def test_moments_are_recorded_whole_before_and_after():
    rates = np.arange(1000.0)
    rates[[700, 985]] = np.nan
    when = evaluation.moments(rates, 600, 10, 5)
    assert when.at.tolist() == [
        *range(600, 700, 10)
    ]  # then the gap is within the target or the ten minutes before
    assert when.came.tolist() == [at + 4.0 for at in when.at]


def test_a_forecaster_sees_what_was_before_and_no_more():
    rates = np.full(2000, 5.0)
    seen = Seen()
    when = evaluation.moments(rates, 1000, 100, 30)
    found = evaluation.forecasts(seen, rates, when)
    assert seen.lengths[-len(when.at) :] == when.at.tolist()
    assert found.at(0.7).tolist() == [7.5] * len(when.at)
    assert found.fell_back == 0.0
    assert evaluation.forecasts(LastMax(), rates, when).rates.shape == (len(when.at), 1)


def test_a_trade_off_falls_and_is_read_between_its_points():
    came = np.random.default_rng(1).normal(100, 10, 2000)
    answers = evaluation.Forecasts((0.5, 0.9), np.tile([100.0, 113.0], (2000, 1)), np.zeros(2000), 0.0)
    for curve in (evaluation.trade_off(answers, came), evaluation.times_factors(answers.rates[:, 0], came)):
        ordered = sorted(curve, key=lambda point: point.over)
        assert all(a.under >= b.under for a, b in itertools.pairwise(ordered))
        assert evaluation.under_at(curve, ordered[50].over) == ordered[50].under
        between = (ordered[50].over + ordered[51].over) / 2
        assert ordered[51].under <= evaluation.under_at(curve, between) <= ordered[50].under
    assert evaluation.coverage("x", answers, evaluation.Moments(1, np.arange(2000), came), 0.9).covered == (
        pytest.approx(0.903, abs=0.02)
    )
