"""Trains ``lstm`` with torch and writes it as an ONNX graph. Nothing else in poise needs either to forecast."""

from __future__ import annotations

from typing import Any

import numpy as np

from poise.errors import ConfigError
from poise.forecasting.base import RateHistory, Rates
from poise.forecasting.lstm import MINUTES
from poise.forecasting.windows import MINUTE_S, cleaned

UNITS = 25
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 1e-3
LEAST_MINUTES = 10 * MINUTES
OPSET, IR_VERSION = 17, 8


def train_lstm(history: RateHistory, *, seed: int = 1, epochs: int = EPOCHS) -> bytes:
    """Return the ONNX file of an LSTM trained on the whole of a history, on one thread.

    As the authors do, seconds that were not observed are dropped. Mean squared error; Adam, with a learning rate that
    falls to 0 along a half cosine. Rates are divided by their mean maximum, within the graph.

    Raises:
        ConfigError: torch or onnx is not installed, or the history is shorter than ``LEAST_MINUTES`` minutes.
    """
    rates = cleaned(history.rates)
    rates = rates[~np.isnan(rates)]
    maxima = rates[: len(rates) // MINUTE_S * MINUTE_S].reshape(-1, MINUTE_S).max(axis=1)
    if len(maxima) < LEAST_MINUTES or maxima.max() <= 0:
        raise ConfigError(
            f"{len(maxima)} minutes of load were observed",
            field="trace",
            expected=f"at least {LEAST_MINUTES}, not all of them 0",
        )
    try:
        import onnx  # type: ignore[import-not-found]
        import torch  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed", field="--kind lstm", expected="pip install 'poise[train]'"
        ) from None
    scale = float(maxima.mean())
    return _graph(onnx, _fitted(torch, maxima / scale, seed, epochs), scale)


def _fitted(torch: Any, scaled: Rates, seed: int, epochs: int) -> dict[str, Any]:
    """Return the weights of the network, by torch's names."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    windows = np.lib.stride_tricks.sliding_window_view(scaled.astype(np.float32), MINUTES + 1)
    given = torch.tensor(windows[:, :MINUTES, None].copy())
    came = torch.tensor(windows[:, MINUTES:].copy())
    lstm = torch.nn.LSTM(1, UNITS, batch_first=True)
    dense = torch.nn.Linear(UNITS, 1)
    parameters = [*lstm.parameters(), *dense.parameters()]
    steps = epochs * -(-len(given) // BATCH)
    optimiser = torch.optim.Adam(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(given)).split(BATCH):
            optimiser.zero_grad()
            seen, _ = lstm(given[batch])
            loss = (dense(seen[:, -1]) - came[batch]).square().mean()
            loss.backward()
            optimiser.step()
            schedule.step()
    weights = {**lstm.state_dict(), **{f"dense.{name}": value for name, value in dense.state_dict().items()}}
    return {name: value.numpy() for name, value in weights.items()}


def _graph(onnx: Any, weights: dict[str, Any], scale: float) -> bytes:
    """Write the network as ONNX by its operators: no exporter, so no paths of the machine in the file."""

    def gates(name: str) -> Any:  # torch has input, forget, cell, output; ONNX input, output, forget, cell
        i, f, c, o = np.split(weights[name], 4)
        return np.concatenate([i, o, f, c])

    def constant(name: str, value: Any) -> Any:
        return onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["maxima", "scale"], ["scaled"]),
            helper.make_node("Transpose", ["scaled"], ["by_minute"], perm=[1, 0, 2]),
            helper.make_node("LSTM", ["by_minute", "w", "r", "b"], ["", "last"], hidden_size=UNITS),
            helper.make_node("Squeeze", ["last", "first_axis"], ["state"]),
            helper.make_node("Gemm", ["state", "dense_w", "dense_b"], ["next"], transB=1),
            helper.make_node("Mul", ["next", "scale"], ["next_maximum"]),
        ],
        "lstm",
        [helper.make_tensor_value_info("maxima", kind, ["n", MINUTES, 1])],
        [helper.make_tensor_value_info("next_maximum", kind, ["n", 1])],
        [
            constant("scale", scale),
            constant("w", gates("weight_ih_l0")[None]),
            constant("r", gates("weight_hh_l0")[None]),
            constant("b", np.concatenate([gates("bias_ih_l0"), gates("bias_hh_l0")])[None]),
            constant("dense_w", weights["dense.weight"]),
            constant("dense_b", weights["dense.bias"]),
            onnx.numpy_helper.from_array(np.array([0], np.int64), "first_axis"),
        ],
    )
    model = helper.make_model(graph, producer_name="poise", opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
