"""A model of Triton's Python backend: which arithmetic it runs is its folder's name."""

from typing import Any

import arithmetic  # type: ignore[import-not-found]  # lies beside this file once it is in the repository
import triton_python_backend_utils as backend  # type: ignore[import-not-found]  # Triton's own


class TritonPythonModel:
    """What the backend looks for in a model's file."""

    def initialize(self, args: dict[str, str]) -> None:
        self.name = args["model_name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        if self.name == "brief":  # BF16: numpy has none, so the bits are handed on as they are
            (tensor,) = request.inputs()
            return backend.InferenceResponse([backend.Tensor.from_dlpack("same", tensor.to_dlpack())])
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        outputs = getattr(arithmetic, self.name)(given)
        wanted = request.requested_output_names()
        return backend.InferenceResponse(
            [backend.Tensor(name, array) for name, array in outputs.items() if name in wanted]
        )
