"""``lstm``: the file that the benchmark uses, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poise.errors import ConfigError
from poise.forecasting.base import RateHistory
from poise.forecasting.ewma import Ewma
from poise.forecasting.lstm import Lstm, open_lstm
from poise.forecasting.lstm_training import train_lstm

OTHER_GRAPHS = sorted((Path(__file__).resolve().parents[1] / "data").rglob("*.onnx"))


def minutes(*maxima: float) -> RateHistory:
    rates = np.repeat(maxima, 60) * np.tile([1.0, 0.5], 30 * len(maxima))
    return RateHistory(rates, float(len(rates)))


@pytest.mark.parametrize("rate", [60.0, 100.0, 200.0])
def test_a_steady_load_is_forecast_about_as_it_is(lstm: Lstm, rate: float) -> None:
    found = lstm.forecast(minutes(*[rate] * 10), 30)
    assert found.forecaster == "lstm"
    assert found.levels == (0.5,)
    assert found.rates[0] == pytest.approx(rate, rel=0.15)


def test_only_the_last_ten_minutes_count_and_the_newest_most(lstm: Lstm) -> None:
    base = lstm.forecast(minutes(*[80.0] * 10), 30).rates[0]
    assert lstm.forecast(minutes(500.0, *[80.0] * 10), 30).rates[0] == base
    assert lstm.forecast(minutes(*[80.0] * 9, 160.0), 30).rates[0] > base + 20
    assert lstm.forecast(minutes(*[80.0] * 10), 1).rates[0] == base  # whatever the horizon


@pytest.mark.parametrize("count", [0, 1, 9])
def test_before_ten_minutes_ewma_answers_and_says_so(lstm: Lstm, count: int) -> None:
    history = minutes(*range(50, 50 + count)) if count else RateHistory(np.array([]), 0.0)
    found = lstm.forecast(history, 30)
    assert found.forecaster == "ewma"
    assert found == Ewma().forecast(history, 30)


@pytest.mark.parametrize("spoil", [lambda d: b"", lambda d: b"junk", lambda d: d[: len(d) // 2]])
def test_a_spoilt_file_is_refused_by_name(lstm_file: bytes, spoil) -> None:
    with pytest.raises(ConfigError, match=r"^load\.onnx: .*poise train-forecaster --kind lstm"):
        open_lstm(spoil(lstm_file), "load.onnx")


def test_a_graph_of_another_shape_is_refused() -> None:
    assert OTHER_GRAPHS
    for path in OTHER_GRAPHS:
        with pytest.raises(ConfigError, match=r"load\.onnx: a graph with inputs and outputs"):
            open_lstm(path.read_bytes(), "load.onnx")


def test_training_asks_for_enough_load_and_for_torch() -> None:
    with pytest.raises(ConfigError, match="99 minutes of load were observed, expected at least 100"):
        train_lstm(minutes(*[5.0] * 99))
    with pytest.raises(ConfigError, match="not all of them 0"):
        train_lstm(minutes(*[0.0] * 200))
    try:
        import torch  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"is not installed, expected pip install 'poise\[train\]'"):
            train_lstm(minutes(*[5.0] * 200))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_trained_can_be_opened_and_is_the_same_again() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    history = minutes(*(100 + 50 * np.sin(np.arange(400) / 9)).tolist())
    first = train_lstm(history, epochs=200)
    assert first == train_lstm(history, epochs=200)
    ahead = 100 + 50 * np.sin(400 / 9)
    assert open_lstm(first, "new.onnx").forecast(history, 60).rates[0] == pytest.approx(ahead, rel=0.15)
