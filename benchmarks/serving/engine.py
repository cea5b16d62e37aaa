"""The model in ONNX Runtime, one thread, and nothing around it."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .wires import INPUT

Batch = NDArray[np.float32]


class Engine:
    """A loaded model."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.shape = tuple(self.session.get_inputs()[0].shape[1:])

    def run(self, batch: Batch) -> Batch:
        """Return the outputs of a batch. Shapes: [n, …] to [n, outputs]."""
        outputs: Batch = self.session.run(None, {INPUT: batch})[0]
        return outputs

    def warm_up(self, largest: int) -> None:
        """Run each batch size once."""
        for size in range(1, largest + 1):
            self.run(np.zeros((size, *self.shape), np.float32))

    def service_s(self, size: int, runs: int) -> float:
        """Return the median time of a batch size, in seconds."""
        batch = np.random.default_rng(size).normal(size=(size, *self.shape)).astype(np.float32)
        return median(self._timed(batch) for _ in range(runs + 2))

    def _timed(self, batch: Batch) -> float:
        start = time.perf_counter()
        self.run(batch)
        return time.perf_counter() - start
