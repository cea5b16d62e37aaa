"""Confidence bounds against known values and against repeated draws."""

from __future__ import annotations

import numpy as np
import pytest

from poise.domain.profile import ModeProfile
from poise.planning.accuracy_bounds import (
    clopper_pearson_lower,
    empirical_bernstein_lower,
    promised_accuracy,
)


def test_clopper_pearson_known_values() -> None:
    # All of n right: the bound is level**(1/n); none right: 0.
    assert clopper_pearson_lower(1.0, 20, 0.05) == pytest.approx(0.05 ** (1 / 20), abs=1e-9)
    assert clopper_pearson_lower(0.0, 20, 0.05) == 0.0
    # 1 of n right: 1 − (1 − level)**(1/n).
    assert clopper_pearson_lower(1 / 30, 30, 0.05) == pytest.approx(1 - 0.95 ** (1 / 30), abs=1e-9)


def test_a_promise_fails_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(3)
    level, truth, samples = 0.05, 0.8, 120
    draws = rng.binomial(samples, truth, size=2000)
    failures = sum(clopper_pearson_lower(k / samples, samples, level) > truth for k in draws) / len(draws)
    assert failures <= level + 3 * (level * (1 - level) / len(draws)) ** 0.5
    assert failures > 0  # not vacuous


def test_bernstein_covers_scores_that_are_not_binary() -> None:
    rng = np.random.default_rng(4)
    failures = 0
    for _ in range(500):
        scores = rng.beta(8, 2, size=200)
        failures += empirical_bernstein_lower(float(scores.mean()), float(scores.std()), 200, 0.05) > 0.8
    assert failures / 500 <= 0.05
    assert empirical_bernstein_lower(0.8, 0.1, 10_000, 0.05) > 0.79


def test_promised_accuracy_without_confidence_is_the_mean_and_with_it_all_modes_share_the_level() -> None:
    mode = ModeProfile(modalities=("a",), accuracy=0.9, samples=500)
    assert promised_accuracy(mode, None, 7) == 0.9
    alone = promised_accuracy(mode, 0.95, 1)
    among = promised_accuracy(mode, 0.95, 7)
    assert among < alone < 0.9
    assert among == pytest.approx(clopper_pearson_lower(0.9, 500, 0.05 / 7))
    assert promised_accuracy(ModeProfile(modalities=("a",), accuracy=0.9), 0.95, 7) == 0.0
