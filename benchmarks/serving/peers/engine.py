"""What every peer runs: the model in ONNX Runtime, one thread, on a batch of rows of bytes."""

import os

import numpy as np
import onnxruntime

MODEL = os.environ.get("SERVING_MODEL", "")
MAX_BATCH = int(os.environ.get("SERVING_MAX_BATCH", "1"))
WAIT_S = float(os.environ.get("SERVING_WAIT_MS", "0")) / 1e3
TIMEOUT_S = float(os.environ.get("SERVING_TIMEOUT_MS", "30000")) / 1e3
QUEUE = int(os.environ.get("SERVING_QUEUE", "1000"))
PORT = int(os.environ.get("SERVING_PORT", "8000"))


class Engine:
    """A loaded model. Batches of 1 to ``MAX_BATCH`` are run once each beforehand."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        place = self.session.get_inputs()[0]
        self.name, self.shape = place.name, place.shape[1:]
        for size in range(1, MAX_BATCH + 1):
            self.run(np.zeros((size, *self.shape), np.float32))

    def run(self, batch):
        """Return the outputs of a batch [n, …]."""
        return self.session.run(None, {self.name: batch})[0]

    def run_bytes(self, rows):
        """Return the outputs of items that came as bytes, as bytes each."""
        batch = np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), *self.shape)
        return [row.tobytes() for row in self.run(batch)]
