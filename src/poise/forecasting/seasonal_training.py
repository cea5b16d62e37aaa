"""Trains ``seasonal`` from a history alone. A pure function of its arguments, to be run away from any event loop.

The older six sevenths of the history fit the trees, the newest seventh calibrates them: moments that the trees have
not seen, and the most recent ones there are. Features of a moment are of the seconds before it; between the two parts
lies a horizon, so that no target of the one reaches into the other. Features of what repeats itself are left out where
the history does not hold two rounds of it: trees would take the minute of a first day for a trend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.errors import ConfigError
from poise.forecasting.base import LEVELS, RateHistory, Rates
from poise.forecasting.conformal import conformal_quantiles
from poise.forecasting.features import FEATURES, PERIOD_S, RECENT_S, Columns, features
from poise.forecasting.seasonal import LEAST_RATIO, HorizonModel, SeasonalModel
from poise.forecasting.trees import Trees
from poise.forecasting.windows import cleaned, window_maxima

CALIBRATION_FRAC = 1 / 7
MOST_ROWS, MOST_CALIBRATION_ROWS = 60_000, 20_000
LEAST_HISTORY_S = 4 * 3600
"""Calibration on less than half an hour is worth little: its moments are not independent."""
LEAST_ROWS = 2_000
LEAST_CALIBRATION_ROWS = 200
LONGEST_HORIZON_S = 600
ROUNDS = 200
ROWS_AT_ONCE = 1_024
PARAMETERS = {
    "objective": "quantile",
    "learning_rate": 0.07,
    "num_leaves": 31,
    "max_depth": 8,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


def train_seasonal(
    history: RateHistory, horizons_s: Sequence[int], *, seed: int = 1, rounds: int = ROUNDS
) -> SeasonalModel | None:
    """Return a model of the horizons, whole seconds; None where the history is too short for any of it.

    ``rounds`` is how many trees each level has. Two weeks of history take some 20 s a horizon on one thread.

    Raises:
        ConfigError: LightGBM cannot be imported.
        ValueError: a horizon is not from 1 to ``LONGEST_HORIZON_S``.
    """
    horizons = sorted(set(horizons_s))
    if not horizons or horizons[0] < 1 or horizons[-1] > LONGEST_HORIZON_S:
        raise ValueError(
            f"got horizons_s {list(horizons_s)}, expected whole seconds, 1 to {LONGEST_HORIZON_S}"
        )
    lightgbm = _lightgbm()
    rates = cleaned(history.rates)
    models = []
    for seconds in horizons:
        found = _train(lightgbm, rates, history.end_s, seconds, seed, rounds)
        if found is None:
            return None
        models.append(found)
    return SeasonalModel(
        features=FEATURES, levels=LEVELS, horizons=tuple(models), until_s=history.end_s, seed=seed
    )


def _lightgbm() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: the system's libgomp is missing
        raise ConfigError(
            f"LightGBM cannot be loaded: {error}",
            field="forecaster",
            expected="the package lightgbm, and the system's libgomp (Debian: libgomp1)",
        ) from None
    return lightgbm


def _train(
    lightgbm: Any, rates: Rates, end_s: float, seconds: int, seed: int, rounds: int
) -> HorizonModel | None:
    n = len(rates)
    if n < LEAST_HISTORY_S:
        return None
    came = window_maxima(rates, seconds)
    rng = np.random.default_rng([seed, seconds])
    cut = n - int((n - RECENT_S) * CALIBRATION_FRAC)
    fitted = _moments(came, RECENT_S, cut - seconds, MOST_ROWS, rng)
    calibrating = _moments(came, cut, n - seconds + 1, MOST_CALIBRATION_ROWS, rng)
    columns, bases = _rows(rates, fitted, seconds, end_s)
    columns[:, n < 2 * PERIOD_S] = np.nan
    usable = ~np.isnan(bases)
    columns, bases, targets = columns[usable], bases[usable], came[fitted][usable]
    others, other_bases = _rows(rates, calibrating, seconds, end_s)
    usable = ~np.isnan(other_bases)
    others, other_bases, others_came = others[usable], other_bases[usable], came[calibrating][usable]
    if len(targets) < LEAST_ROWS or len(others_came) < LEAST_CALIBRATION_ROWS:
        return None
    of_levels, ratios = [], []
    for level in LEVELS:
        # A row weighs its base, so that errors count in requests per second and not in shares of a quiet minute's rate.
        data = lightgbm.Dataset(columns, targets / bases, weight=bases, free_raw_data=True)
        booster = lightgbm.train(PARAMETERS | {"alpha": level, "seed": seed}, data, rounds)
        of_levels.append(trees_of(booster))
        ratios.append(np.asarray(booster.predict(others, num_threads=1), np.float64))
    expected = np.sort(np.maximum(np.stack(ratios, axis=1), LEAST_RATIO), axis=1) * other_bases[:, None]
    scores = others_came[:, None] / expected
    factors = [float(conformal_quantiles(scores[:, at], [level])[0]) for at, level in enumerate(LEVELS)]
    return HorizonModel(
        seconds=seconds,
        trees=tuple(of_levels),
        factors=tuple(max(factor, 1e-6) for factor in factors),
        trained=len(targets),
        calibrated=len(others_came),
    )


def _moments(came: Rates, first: int, last: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a moment in each of at most so many equal steps from ``first`` to before ``last``; keep known targets.

    Equal distances would always meet the same second of the minute.
    """
    step = max(1, -(-(last - first) // most))
    starts = np.arange(first, last, step)
    drawn = np.minimum(starts + rng.integers(0, step, len(starts)), last - 1)
    known: NDArray[np.int64] = drawn[~np.isnan(came[drawn])]
    return known


def _rows(rates: Rates, ends: NDArray[np.int64], seconds: int, end_s: float) -> tuple[Columns, Rates]:
    parts = [
        features(rates, part, seconds, np.asarray(end_s - (len(rates) - part), np.float64))
        for part in np.split(ends, range(ROWS_AT_ONCE, len(ends), ROWS_AT_ONCE))
    ]
    return np.concatenate([columns for columns, _ in parts]), np.concatenate([bases for _, bases in parts])


def trees_of(booster: Any) -> Trees:
    """Return the trees of a LightGBM booster of one number, as arrays."""
    roots: list[int] = []
    feature: list[int] = []
    value: list[float] = []
    right: list[int] = []
    nan_left: list[int] = []

    def add(node: dict[str, Any]) -> None:
        at = len(feature)
        leaf = "split_feature" not in node
        feature.append(-1 if leaf else node["split_feature"])
        value.append(float(f"{node['leaf_value']:.9g}") if leaf else node["threshold"])
        right.append(0)
        nan_left.append(0)
        if not leaf:
            # Without a NaN in training LightGBM takes one for 0.
            taken_for_0 = node["missing_type"] == "None"
            nan_left[at] = int(node["threshold"] >= 0 if taken_for_0 else node["default_left"])
            add(node["left_child"])
            right[at] = len(feature) - at
            add(node["right_child"])

    for tree in booster.dump_model()["tree_info"]:
        roots.append(len(feature))
        add(tree["tree_structure"])
    return Trees(tuple(roots), tuple(feature), tuple(value), tuple(right), tuple(nan_left))
