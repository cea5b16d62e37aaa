"""The onnx runtime: one ONNX Runtime session for each model file of a variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from poise.domain.service import Device, Service
from poise.domain.slots import as_bytes
from poise.errors import ConfigError
from poise.runtimes.base import Outputs, StagedRunner, Tensors
from poise.runtimes.graph import failed, reason_of
from poise.runtimes.runners import open_stages
from poise.runtimes.signature import Place, Port, port_of

PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxGraph:
    """One loaded model file; see ``Graph``."""

    def __init__(self, variant: str, stage: str, place: Place, session: Any) -> None:
        self.variant = variant
        self.stage = stage
        self.place = place
        self.inputs: tuple[Port, ...] | None = tuple(port_of(arg) for arg in session.get_inputs())
        self.outputs: tuple[Port, ...] | None = tuple(port_of(arg) for arg in session.get_outputs())
        self._names = tuple(port.name for port in self.outputs)
        self._texts = tuple(port.name for port in self.inputs if port.datatype == "BYTES")
        self._run = session.run

    def __call__(self, names: Sequence[str] | None, feed: Tensors) -> Outputs:
        """Run the graph; see ``Graph.__call__``."""
        names = self._names if names is None else names
        if self._texts:  # strings are text there: what is not UTF-8 is replaced
            feed = {**feed, **{name: _texts(feed[name]) for name in self._texts}}
        try:
            return dict(zip(names, self._run(names, feed), strict=True))
        except Exception as error:  # its exceptions have no common base of their own
            raise failed(self, reason_of(error)) from error


def _texts(array: NDArray[Any]) -> NDArray[np.object_]:
    """Return the text of elements of BYTES. Shapes: that of ``array``."""
    texts = np.empty(array.size, object)
    texts[:] = [as_bytes(value).decode(errors="replace") for value in array.ravel()]
    return texts.reshape(array.shape)


def open_onnx(
    service: Service, variant: str, resolve: Callable[[str, str], Path], *, threads: int, device: Device
) -> StagedRunner:
    """Load the model files of a variant and hold them against the service.

    Raises:
        ConfigError: a missing or corrupt file, another signature than the service's, no such device.
        WorkerError: a model fails on a batch of zeros.
    """
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"this ONNX Runtime has no {PROVIDERS[device]}",
            field=f"variants.{variant}.devices",
            expected="a device that is here: cpu",
        )

    def load(stage: str, field: str, path: str) -> OnnxGraph:
        place = Place(file=path, field=f"variants.{variant}.{field}")
        file = resolve(path, place.field)
        return OnnxGraph(variant, stage, place, _session(str(file), place, threads, device))

    return open_stages(service, variant, load)


def _session(file: str, place: Place, threads: int, device: Device) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what goes wrong is raised, and told once
    # Threads that spin for work take it from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(file, options, providers=[PROVIDERS[device]])
    except Exception as error:  # its exceptions have no common base of their own
        raise place.error(
            f"not a model that ONNX Runtime can load: {reason_of(error)}", "an ONNX file"
        ) from None
