"""A load with a spike in every quarter of an hour, and what was trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poise.forecasting.base import RateHistory, Rates
from poise.forecasting.lstm import Lstm, open_lstm
from poise.forecasting.seasonal import SeasonalModel
from poise.forecasting.seasonal_training import train_seasonal

LSTM_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "forecasting" / "lstm.onnx"
SPIKE_EVERY_S, SPIKE_S = 900, 90
ROUNDS = 80


def spiky(seconds: int, seed: int) -> Rates:
    """Poisson arrivals: 40 a second, 120 in the last ``SPIKE_S`` of every ``SPIKE_EVERY_S``."""
    phase = np.arange(seconds) % SPIKE_EVERY_S
    mean = np.where(phase >= SPIKE_EVERY_S - SPIKE_S, 120.0, 40.0)
    return np.random.default_rng(seed).poisson(mean).astype(np.float64)


@pytest.fixture(scope="session")
def past() -> RateHistory:
    return RateHistory(spiky(4 * 3600, 1), 4 * 3600.0)


@pytest.fixture(scope="session")
def model(past: RateHistory) -> SeasonalModel:
    found = train_seasonal(past, (5, 30), rounds=ROUNDS)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def lstm_file() -> bytes:
    return LSTM_FILE.read_bytes()


@pytest.fixture(scope="session")
def lstm(lstm_file: bytes) -> Lstm:
    return open_lstm(lstm_file, LSTM_FILE.name)
