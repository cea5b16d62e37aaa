"""Conformal quantiles keep what they promise where the data are exchangeable."""

from __future__ import annotations

import numpy as np
import pytest

from poise.forecasting.conformal import conformal_quantiles


def test_the_rank_is_of_one_more_than_there_are() -> None:
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 8.0, 7.0, 6.0])
    # ⌈10·level⌉-th smallest
    assert conformal_quantiles(scores, (0.1, 0.5, 0.85, 0.9, 0.95)).tolist() == [1.0, 5.0, 9.0, 9.0, 9.0]
    assert conformal_quantiles(np.array([3.0]), (0.01, 0.99)).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("n", [19, 200])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_the_next_one_is_below_with_the_probability_claimed(n: int, level: float) -> None:
    rng = np.random.default_rng([n, int(100 * level)])
    trials = 20_000
    drawn = np.exp(rng.normal(size=(trials, n + 1)))
    bounds = np.array([conformal_quantiles(row[:-1], (level,))[0] for row in drawn])
    covered = float((drawn[:, -1] <= bounds).mean())
    noise = 4 * np.sqrt(level * (1 - level) / trials)
    assert level - noise <= covered <= level + 1 / (n + 1) + noise
