"""``seasonal``: what it learns, when it lets ``burst`` answer, and its file."""

from __future__ import annotations

import sys

import msgspec
import numpy as np
import pytest
from tests.forecasting.conftest import ROUNDS, SPIKE_EVERY_S, SPIKE_S, spiky

from poise.errors import ConfigError
from poise.forecasting.base import LEVELS, RateHistory
from poise.forecasting.burst import Burst
from poise.forecasting.features import FEATURES
from poise.forecasting.seasonal import (
    HorizonModel,
    Seasonal,
    SeasonalModel,
    decode_seasonal,
    encode_seasonal,
)
from poise.forecasting.seasonal_training import train_seasonal
from poise.forecasting.trees import Trees


def test_it_sees_a_spike_coming_that_burst_cannot(model: SeasonalModel) -> None:
    rates = spiky(7200, 9)
    just_before = 4 * SPIKE_EVERY_S - SPIKE_S - 5  # 25 of the next 30 s are in the spike
    history = RateHistory(rates[:just_before], float(just_before))
    assert Burst().forecast(history, 30).at(0.5) < 70
    found = Seasonal(model).forecast(history, 30)
    assert found.forecaster == "seasonal"
    assert 110 < found.at(0.5) < 180
    calm = 4 * SPIKE_EVERY_S + 300
    assert Seasonal(model).forecast(RateHistory(rates[:calm], float(calm)), 30).at(0.95) < 80


def test_each_level_holds_as_often_as_claimed_on_what_comes_later(model: SeasonalModel) -> None:
    rates = spiky(4 * 3600, 11)
    forecaster = Seasonal(model)
    within = []
    for at in range(3600, len(rates) - 30, 17):
        found = forecaster.forecast(RateHistory(rates[:at], float(at)), 30)
        within.append(rates[at : at + 30].max() <= np.array(found.rates))
    assert np.mean(within, axis=0) == pytest.approx(LEVELS, abs=0.06)


def test_burst_answers_where_it_cannot(model: SeasonalModel, past: RateHistory) -> None:
    trained = Seasonal(model)
    short = RateHistory(past.rates[:899], 899.0)
    silent = RateHistory(np.concatenate([past.rates, np.full(900, np.nan)]), 0.0)
    for forecaster, history, horizon_s in (
        (Seasonal(), past, 30.0),
        (trained, past, 31.0),
        (trained, short, 30.0),
        (trained, silent, 30.0),
    ):
        assert forecaster.forecast(history, horizon_s) == Burst().forecast(history, horizon_s)
    for seconds in (0.5, 5.0, 6.0, 30.0):
        assert trained.forecast(past, seconds).forecaster == "seasonal"


def test_the_shortest_horizon_that_covers_is_used(model: SeasonalModel, past: RateHistory) -> None:
    trained = Seasonal(model)
    assert trained.forecast(past, 2).rates == trained.forecast(past, 5).rates
    assert trained.forecast(past, 6).rates == trained.forecast(past, 30).rates
    assert trained.forecast(past, 5).rates != trained.forecast(past, 30).rates


def test_training_is_a_function_of_its_arguments(model: SeasonalModel, past: RateHistory) -> None:
    first = train_seasonal(past, (5,), rounds=8)
    assert first is not None
    assert train_seasonal(past, (5, 5), rounds=8) == first
    both, other = train_seasonal(past, (30, 5), rounds=8), train_seasonal(past, (5,), rounds=8, seed=2)
    assert both is not None and other is not None
    assert both.horizons[0] == first.horizons[0]  # whatever else is trained beside it
    assert other.horizons[0].trees != first.horizons[0].trees
    assert encode_seasonal(decode_seasonal(encode_seasonal(model), "m.json")) == encode_seasonal(model)


def test_calibration_is_later_than_what_the_trees_are_fitted_to(
    model: SeasonalModel, past: RateHistory
) -> None:
    # The same but for seconds of the newest seventh that nothing announces: the trees stay, the factors do not.
    n = len(past.rates)
    changed = past.rates.copy()
    changed[n - (n - 900) // 7 + 1 :: 40] *= 10
    found = train_seasonal(RateHistory(changed, past.end_s), (30,), rounds=ROUNDS)
    assert found is not None
    assert found.horizons[0].trees == model.horizons[1].trees
    assert min(found.horizons[0].factors) > 1.5 * max(model.horizons[1].factors)


@pytest.mark.parametrize("rates", [np.array([]), np.full(14_399, 5.0), np.full(20_000, np.nan)])
def test_too_little_history_trains_nothing(rates: np.ndarray) -> None:
    assert train_seasonal(RateHistory(rates, 0.0), (30,)) is None


@pytest.mark.parametrize("rate", [0.0, 7.0])
def test_a_constant_load_is_forecast_as_it_is(rate: float) -> None:
    history = RateHistory(np.full(15_000, rate), 15_000.0)
    found = train_seasonal(history, (5,), rounds=20)
    assert found is not None
    assert Seasonal(found).forecast(history, 5).rates == pytest.approx([rate] * 5, abs=0.01)


@pytest.mark.parametrize("horizons_s", [(), (0,), (601,), (30, -1)])
def test_horizons_that_are_none(past: RateHistory, horizons_s: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected whole seconds, 1 to 600"):
        train_seasonal(past, horizons_s)


def test_without_lightgbm_it_says_what_is_missing(past: RateHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"LightGBM cannot be loaded.*libgomp"):
        train_seasonal(past, (30,))


SPOILT = {
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "no text": lambda data: b"\xff\xfe" + data,
    "another kind": lambda data: data.replace(b'"kind":"seasonal"', b'"kind":"lstm"'),
    "another version": lambda data: data.replace(b'"format":1', b'"format":2'),
    "another feature": lambda data: data.replace(b'"base"', b'"basis"'),
    "an unknown field": lambda data: data.replace(b'"seed":1', b'"seed":1,"seeds":1'),
    "a factor of 0": lambda data: data.replace(b'"factors":[', b'"factors":[0.0,', 1),
    "levels that fall": lambda data: data.replace(b"[0.5,0.8,", b"[0.8,0.5,"),
    "horizons that fall": lambda data: data.replace(b'"seconds":30', b'"seconds":5'),
    "a node that leads out": lambda data: data.replace(b'"right":[', b'"right":[9999999,', 1),
    "a number that is none": lambda data: data.replace(b'"until_s":', b'"until_s":NaN,"x":'),
    "deep nesting": lambda data: b"[" * 100_000,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_file_is_refused_by_name(model: SeasonalModel, spoil) -> None:
    data = encode_seasonal(model)
    assert spoil(data) != data
    with pytest.raises(ConfigError) as error:
        decode_seasonal(spoil(data), "load.json")
    assert str(error.value).startswith("load.json: no forecaster can be read")
    assert "poise train-forecaster --kind seasonal" in str(error.value)


def test_every_single_array_is_held_to_its_length(model: SeasonalModel) -> None:
    document = msgspec.json.decode(encode_seasonal(model))
    for name in ("roots", "feature", "value", "right", "nan_left"):
        trees = document["horizons"][0]["trees"][0]
        kept, trees[name] = trees[name], [*trees[name], 1]
        with pytest.raises(ConfigError, match=r"load\.json"):
            decode_seasonal(msgspec.json.encode(document), "load.json")
        trees[name] = kept
    assert decode_seasonal(msgspec.json.encode(document), "load.json") == model


def test_quantiles_that_cross_are_put_in_order_before_their_factors() -> None:
    def leaf(value: float) -> Trees:
        return Trees(roots=(0,), feature=(-1,), value=(value,), right=(0,), nan_left=(0,))

    horizon = HorizonModel(
        seconds=10,
        trees=tuple(map(leaf, (1.5, 1.2, -3.0, 2.0, 1.8))),
        factors=(1.0, 1.0, 2.0, 1.0, 1.0),
        trained=1,
        calibrated=1,
    )
    crossing = SeasonalModel(features=FEATURES, levels=LEVELS, horizons=(horizon,), until_s=0.0, seed=1)
    found = Seasonal(crossing).forecast(RateHistory(np.full(1000, 100.0), 0.0), 10)
    # in order .01 (the least), 1.2, 1.5, 1.8, 2.0; times 1, 1, 2, 1, 1; never falling
    assert found.rates == pytest.approx((1.0, 120.0, 300.0, 300.0, 300.0))
