"""Triton's Python backend: ONNX Runtime on the batch that its dynamic batcher has put together."""

import numpy as np
import triton_python_backend_utils as triton
from engine import Engine


class TritonPythonModel:
    def initialize(self, args):
        self.engine = Engine()

    def execute(self, requests):
        tensors = [triton.get_input_tensor_by_name(each, "tokens").as_numpy() for each in requests]
        answers = self.engine.run(np.concatenate(tensors))
        at, responses = 0, []
        for tensor in tensors:
            part = answers[at : at + len(tensor)]
            at += len(tensor)
            responses.append(triton.InferenceResponse([triton.Tensor("logits", np.ascontiguousarray(part))]))
        return responses
