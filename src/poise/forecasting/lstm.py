"""``lstm``: InfAdapter's forecaster: ten one-minute maxima in, the next minute's maximum out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from poise.errors import ConfigError
from poise.forecasting.base import Forecast, RateHistory, point_forecast
from poise.forecasting.ewma import Ewma
from poise.forecasting.windows import MAX_RATE_RPS, minute_maxima, whole_seconds

MINUTES = 10
MAX_FILE_BYTES = 2**24


class Lstm:
    """Forecasts the next minute's maximum whatever the horizon, as the paper does every 30 s.

    ``ewma`` answers, and the forecast says so, before there are ten whole minutes of history.

    Source: InfAdapter (arXiv 2304.10892): an LSTM of 25 units and a dense one; here in ONNX Runtime on one thread.
    """

    name = "lstm"

    def __init__(self, session: Any) -> None:
        self._run = session.run
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name
        self._fallback = Ewma()

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        """Return a point forecast; see ``Forecaster``."""
        whole_seconds(horizon_s)
        maxima = minute_maxima(history, MINUTES)
        if len(maxima) < MINUTES:
            return self._fallback.forecast(history, horizon_s)
        (found,) = self._run([self._output], {self._input: maxima.astype(np.float32).reshape(1, MINUTES, 1)})
        rate = float(found.reshape(-1)[0])
        if not math.isfinite(rate):
            return self._fallback.forecast(history, horizon_s)
        return point_forecast(self.name, horizon_s, min(max(rate, 0.0), MAX_RATE_RPS))


def open_lstm(data: bytes, source: str) -> Lstm:
    """Open the ONNX file of a trained model; ``source`` is its name in errors.

    Raises:
        ConfigError: it is no ONNX graph, or one of another shape, or does not run.
    """
    expected = "a file written by poise train-forecaster --kind lstm"
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes", file=source, expected=expected)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and told once
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        inputs, outputs = session.get_inputs(), session.get_outputs()
    except Exception as error:  # its exceptions have no common base of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"not a model that ONNX Runtime can load: {reason}", file=source, expected=expected
        ) from None
    shapes = [(port.type, list(port.shape[1:])) for port in (*inputs, *outputs)]
    if shapes != [("tensor(float)", [MINUTES, 1]), ("tensor(float)", [1])]:
        raise ConfigError(
            f"a graph with inputs and outputs of {shapes}",
            file=source,
            expected=f"{expected}: [n, 10, 1] to [n, 1]",
        )
    try:
        session.run(None, {inputs[0].name: np.zeros((1, MINUTES, 1), np.float32)})
    except Exception as error:
        raise ConfigError(
            f"fails on ten zeros: {str(error).splitlines()[0]}", file=source, expected=expected
        ) from None
    return Lstm(session)
