"""``seasonal``: gradient-boosted quantiles of the load over the last minute's, made honest by conformal factors."""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec
import numpy as np

from poise.errors import ConfigError
from poise.forecasting.base import Forecast, RateHistory
from poise.forecasting.burst import Burst
from poise.forecasting.features import FEATURES, RECENT_S, features
from poise.forecasting.trees import Trees, Walker, check_trees
from poise.forecasting.windows import MAX_RATE_RPS, whole_seconds

MAX_FILE_BYTES = 128 * 2**20
LEAST_RATIO = 0.01
"""A quantile is at least this share of the base: trees may fall below 0, and a factor could not mend that."""


class HorizonModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model of one horizon. Units: ``seconds``.

    Shapes: ``trees`` and ``factors`` have one element for each level. ``trained`` and ``calibrated`` are the rows, past
    moments, that the trees were fitted to and that the factors were taken from, all of them later.
    """

    seconds: int
    trees: tuple[Trees, ...]
    factors: tuple[float, ...]
    trained: int
    calibrated: int


class SeasonalModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A trained ``seasonal``, as its file has it. ``until_s``: the end of what it saw, in seconds since the epoch."""

    format: Literal[1] = 1
    kind: Literal["seasonal"] = "seasonal"
    features: tuple[str, ...]
    levels: tuple[float, ...]
    horizons: tuple[HorizonModel, ...]
    until_s: float
    seed: int

    def __post_init__(self) -> None:
        if self.features != FEATURES:
            raise ValueError(
                "the features are not this version's, expected a model trained by it: train again"
            )
        if not self.levels or any(not 0 < level < 1 for level in self.levels) or _falls(self.levels):
            raise ValueError(f"got levels {self.levels}, expected rising numbers between 0 and 1")
        seconds = [each.seconds for each in self.horizons]
        if not seconds or seconds[0] < 1 or _falls(seconds):
            raise ValueError(f"got horizons of {seconds} s, expected rising whole numbers from 1")
        for each in self.horizons:
            if not len(each.trees) == len(each.factors) == len(self.levels):
                raise ValueError(
                    f"the model of {each.seconds} s has {len(each.trees)} sums of trees and {len(each.factors)} "
                    f"factors, expected {len(self.levels)} of each"
                )
            if not all(0 < factor < np.inf for factor in each.factors):
                raise ValueError(f"got factors {each.factors}, expected positive numbers")
            for trees in each.trees:
                check_trees(trees, len(FEATURES))


def _falls(values: tuple[float, ...] | list[int]) -> bool:
    return any(after <= before for before, after in itertools.pairwise(values))


def encode_seasonal(model: SeasonalModel) -> bytes:
    """Return the file of a model: JSON."""
    return msgspec.json.encode(model)


def decode_seasonal(data: bytes, source: str) -> SeasonalModel:
    """Read the file of a model; ``source`` is its name in errors.

    Raises:
        ConfigError: it is not one, is spoilt, or was trained by another version.
    """
    expected = "a file written by poise train-forecaster --kind seasonal"
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes", file=source, expected=expected)
    try:
        return msgspec.json.decode(data, type=SeasonalModel)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"no forecaster can be read: {error}", file=source, expected=expected) from None


class Seasonal:
    """Forecasts by the model of the shortest trained horizon that covers the one asked for.

    ``burst`` answers instead, and the forecast says so, while there is no model, for a longer horizon, before
    ``RECENT_S`` seconds of history, and when none of those was observed. Immutable: retraining makes another one.
    """

    name = "seasonal"

    def __init__(self, model: SeasonalModel | None = None) -> None:
        self.model = model
        self._walkers = {} if model is None else {m.seconds: Walker(m.trees) for m in model.horizons}
        self._factors = {} if model is None else {m.seconds: np.array(m.factors) for m in model.horizons}
        self._fallback = Burst()

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        """Return the quantiles at the model's levels; see ``Forecaster``."""
        seconds = whole_seconds(horizon_s)
        covering = min((trained for trained in self._walkers if trained >= seconds), default=None)
        n = len(history.rates)
        if self.model is None or covering is None or n < RECENT_S:
            return self._fallback.forecast(history, horizon_s)
        rows, bases = features(history.rates, np.array([n]), covering, history.end_s)
        base = float(bases[0])
        if np.isnan(base):
            return self._fallback.forecast(history, horizon_s)
        ratios = np.sort(np.maximum(self._walkers[covering].sums(rows[0]), LEAST_RATIO))
        above = np.maximum.accumulate(ratios * self._factors[covering]) * base
        return Forecast(
            horizon_s=horizon_s,
            levels=self.model.levels,
            rates=tuple(np.minimum(above, MAX_RATE_RPS).tolist()),
            forecaster=self.name,
        )
