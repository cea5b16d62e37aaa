"""The onnx runtime: one ONNX Runtime session for each model file of a variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from poise.domain.modalities import ModalityIndex
from poise.domain.service import Device, Service, TensorSpec
from poise.errors import ConfigError, InternalError, WorkerError
from poise.runtimes.base import Masks, Measured, Rows, StagedRunner, Tensors, gather
from poise.runtimes.signature import (
    Place,
    Port,
    check_arrays,
    check_batch_dimension,
    check_inputs,
    check_outputs,
    port_of,
)
from poise.runtimes.stages import HEAD_STAGE, label_in_order
from poise.runtimes.tensors import zeros

PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PROBE_ITEMS = 2
"""Items of the batch of zeros that every graph answers when it is loaded: not 1, so that a batch shows."""

Outputs = dict[str, NDArray[Any]]


class Graph:
    """One loaded model file."""

    def __init__(self, variant: str, stage: str, place: Place, session: Any) -> None:
        self.variant = variant
        self.stage = stage
        self.place = place
        self.inputs: tuple[Port, ...] = tuple(port_of(arg) for arg in session.get_inputs())
        self.outputs: tuple[Port, ...] = tuple(port_of(arg) for arg in session.get_outputs())
        self._run = session.run

    def __call__(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> Outputs:
        """Run the graph and return the outputs named.

        Raises:
            WorkerError: ONNX Runtime failed.
        """
        try:
            return dict(zip(names, self._run(names, feed), strict=True))
        except Exception as error:  # its exceptions have no common base of their own
            raise WorkerError(f"variant {self.variant!r}, stage {self.stage!r}: {_reason(error)}") from error


class EncodersRunner:
    """Runs a variant of encoders and a head: each encoder once, over just the items that use it."""

    def __init__(self, service: Service, encoders: Mapping[str, Graph], head: Graph) -> None:
        self._modalities = {name: tuple(modality.inputs) for name, modality in service.modalities.items()}
        self._outputs = tuple(service.outputs)
        self._encoders = dict(encoders)
        self._head = head
        self._bits = np.arange(len(self._modalities))
        self._everything = service.modality_index.all
        self._absent: dict[str, NDArray[Any]] = {}
        self._check(service)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The modalities, and ``head``."""
        return (*self._encoders, HEAD_STAGE)

    def encode(self, modality: str, inputs: Tensors, rows: Rows) -> NDArray[Any]:
        """Return the embeddings of some items. Shapes: ``rows`` [n]; the result is [n, …]."""
        feed = {name: gather(inputs[name], rows) for name in self._modalities[modality]}
        return self._embed(modality, feed)

    def head(self, embeddings: Tensors, masks: Masks) -> Outputs:
        """Return the outputs for embeddings, each item with its own modality set.

        Embeddings that an item's set leaves out do not count, whatever they hold; a modality that no item uses may
        be missing.

        Shapes: ``embeddings[modality]`` is [n, …], ``masks`` [n]; outputs [n, …].
        """
        feed: dict[str, NDArray[Any]] = {}
        for bit, name in enumerate(self._modalities):
            used = (masks >> bit & 1).astype(bool)
            if used.all():
                feed[name] = np.ascontiguousarray(embeddings[name])
            elif used.any():
                feed[name] = np.zeros_like(embeddings[name])
                feed[name][used] = embeddings[name][used]
            else:
                feed[name] = self._zeros(name, len(masks))
        return self._head(self._outputs, {**feed, "mask": self._presence(masks)})

    def run(self, inputs: Tensors, rows: Rows, masks: Masks) -> tuple[Outputs, Measured]:
        """Answer a batch; see ``VariantRunner.run``."""
        if not masks.all():
            raise InternalError(f"variant {self._head.variant!r} was given an item without a modality")
        measured: Measured = []
        feed: dict[str, NDArray[Any]] = {}
        for bit, name in enumerate(self._modalities):
            used = (masks >> bit & 1).astype(bool)
            if not used.any():
                feed[name] = self._zeros(name, len(rows))
                continue
            whole = bool(used.all())
            mine = rows if whole else rows[used]
            gathered = {tensor: gather(inputs[tensor], mine) for tensor in self._modalities[name]}
            start = perf_counter()
            embedded = self._embed(name, gathered)
            measured.append((name, perf_counter() - start))
            if whole:
                feed[name] = embedded
            else:
                feed[name] = np.zeros((len(rows), *embedded.shape[1:]), embedded.dtype)
                feed[name][used] = embedded
        feed["mask"] = self._presence(masks)
        start = perf_counter()
        outputs = self._head(self._outputs, feed)
        measured.append((HEAD_STAGE, perf_counter() - start))
        return outputs, measured

    def stage_call(self, stage: str, inputs: Tensors, rows: Rows) -> Callable[[], object]:
        """Return a call that runs one encoder, or the head, on some rows; see ``StagedRunner``."""
        if stage == HEAD_STAGE:
            feed = {name: self.encode(name, inputs, rows) for name in self._encoders}
            feed["mask"] = self._presence(np.full(len(rows), self._everything))
            return lambda: self._head(self._outputs, feed)
        gathered = {name: gather(inputs[name], rows) for name in self._modalities[stage]}
        return lambda: self._embed(stage, gathered)

    def answer_sets(self, inputs: Tensors, rows: Rows, masks: Sequence[int]) -> list[Outputs]:
        """Encode once, then run the head for each modality set; see ``StagedRunner``."""
        needed = {name for bit, name in enumerate(self._modalities) if any(mask >> bit & 1 for mask in masks)}
        embeddings = {name: self.encode(name, inputs, rows) for name in self._encoders if name in needed}
        return [self.head(embeddings, np.full(len(rows), mask)) for mask in masks]

    def _embed(self, modality: str, feed: Tensors) -> NDArray[Any]:
        encoder = self._encoders[modality]
        name = encoder.outputs[0].name
        return encoder((name,), feed)[name]

    def _presence(self, masks: Masks) -> NDArray[np.float32]:
        return (masks[:, None] >> self._bits & 1).astype(np.float32)

    def _zeros(self, modality: str, items: int) -> NDArray[Any]:
        """Zero rows of a modality, held from one batch to the next; nobody writes to them."""
        held = self._absent[modality]
        if len(held) < items:
            held = self._absent[modality] = np.zeros((items, *held.shape[1:]), held.dtype)
        return held[:items]

    def _check(self, service: Service) -> None:
        """Hold the encoders and the head against the service and against each other, with a batch of zeros."""
        for name, encoder in self._encoders.items():
            specs = service.modalities[name].inputs
            check_inputs(encoder.inputs, specs, encoder.place)
            if len(encoder.outputs) != 1:
                found = [port.name for port in encoder.outputs]
                raise encoder.place.error(f"the encoder has outputs {found}", "one, the embedding")
            check_batch_dimension("output", encoder.outputs[0], encoder.place)
            embedded = self._embed(name, zeros(specs, PROBE_ITEMS))
            if len(embedded) != PROBE_ITEMS:
                raise encoder.place.error(
                    f"the embedding of a batch of {PROBE_ITEMS} has shape {list(embedded.shape)}",
                    f"{PROBE_ITEMS} rows",
                )
            self._absent[name] = np.zeros_like(embedded)
        specs = {
            name: TensorSpec(
                datatype=self._encoders[name].outputs[0].datatype,  # type: ignore[arg-type]
                shape=array.shape[1:],
            )
            for name, array in self._absent.items()
        }
        specs["mask"] = TensorSpec(datatype="FP32", shape=(len(self._modalities),))
        check_inputs(self._head.inputs, specs, self._head.place)
        check_outputs(self._head.outputs, service.outputs, self._head.place)
        outputs = self.head(self._absent, np.full(PROBE_ITEMS, self._everything))
        check_arrays(outputs, service.outputs, PROBE_ITEMS, self._head.place)


class GraphsRunner:
    """Runs a variant of whole graphs: one run for each modality set in the batch."""

    def __init__(self, service: Service, graphs: Mapping[str, Graph]) -> None:
        self._index: ModalityIndex = service.modality_index
        self._outputs = tuple(service.outputs)
        self._graphs = {self._index.mask_of_label(label): graph for label, graph in graphs.items()}
        self._tensors = {
            mask: tuple(
                tensor for name in self._index.members(mask) for tensor in service.modalities[name].inputs
            )
            for mask in self._graphs
        }
        for mask, graph in self._graphs.items():
            specs = {
                tensor: spec
                for name in self._index.members(mask)
                for tensor, spec in service.modalities[name].inputs.items()
            }
            check_inputs(graph.inputs, specs, graph.place)
            check_outputs(graph.outputs, service.outputs, graph.place)
            outputs = graph(self._outputs, zeros(specs, PROBE_ITEMS))
            check_arrays(outputs, service.outputs, PROBE_ITEMS, graph.place)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The labels of the modality sets."""
        return tuple(self._index.label(mask) for mask in self._graphs)

    def run(self, inputs: Tensors, rows: Rows, masks: Masks) -> tuple[Outputs, Measured]:
        """Answer a batch; see ``VariantRunner.run``."""
        measured: Measured = []
        whole: Outputs = {}
        for mask in np.unique(masks).tolist():
            used = masks == mask
            alone = bool(used.all())
            feed = self._feed(mask, inputs, rows if alone else rows[used])
            start = perf_counter()
            part = self._graphs[mask](self._outputs, feed)
            measured.append((self._index.label(mask), perf_counter() - start))
            if alone:
                return part, measured
            for name, array in part.items():
                if name not in whole:
                    whole[name] = np.empty((len(rows), *array.shape[1:]), array.dtype)
                whole[name][used] = array
        return whole, measured

    def stage_call(self, stage: str, inputs: Tensors, rows: Rows) -> Callable[[], object]:
        """Return a call that runs the graph of a modality set on some rows; see ``StagedRunner``."""
        mask = self._index.mask_of_label(stage)
        feed = self._feed(mask, inputs, rows)
        return lambda: self._graphs[mask](self._outputs, feed)

    def answer_sets(self, inputs: Tensors, rows: Rows, masks: Sequence[int]) -> list[Outputs]:
        """Answer with each modality set's graph; see ``StagedRunner``."""
        return [self._graphs[mask](self._outputs, self._feed(mask, inputs, rows)) for mask in masks]

    def _feed(self, mask: int, inputs: Tensors, rows: Rows) -> dict[str, NDArray[Any]]:
        if mask not in self._graphs:
            raise InternalError(
                f"variant {self._any.variant!r} was given modality mask {mask}, which it has no graph for"
            )
        return {tensor: gather(inputs[tensor], rows) for tensor in self._tensors[mask]}

    @property
    def _any(self) -> Graph:
        return next(iter(self._graphs.values()))


def open_onnx(
    service: Service, variant: str, resolve: Callable[[str, str], Any], *, threads: int, device: Device
) -> StagedRunner:
    """Load the model files of a variant and hold them against the service.

    Raises:
        ConfigError: a missing or corrupt file, another signature than the service's, no such device.
        WorkerError: a model fails on a batch of zeros.
    """
    declared = service.variants[variant]
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"this ONNX Runtime has no {PROVIDERS[device]}",
            field=f"variants.{variant}.devices",
            expected="a device that is here: cpu",
        )

    def load(stage: str, field: str, path: str) -> Graph:
        place = Place(file=path, field=f"variants.{variant}.{field}")
        file = resolve(path, place.field)
        return Graph(variant, stage, place, _session(str(file), place, threads, device))

    if declared.head is None:
        graphs = {
            label_in_order(label): load(label_in_order(label), f"graphs.{label}", path)
            for label, path in declared.graphs.items()
        }
        return GraphsRunner(service, graphs)
    encoders = {name: load(name, f"encoders.{name}", declared.encoders[name]) for name in service.modalities}
    return EncodersRunner(service, encoders, load(HEAD_STAGE, "head", declared.head))


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
            f"not a model that ONNX Runtime can load: {_reason(error)}", "an ONNX file"
        ) from None


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
