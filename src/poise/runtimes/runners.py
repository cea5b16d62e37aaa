"""Runs the stages of a variant in either layout, whatever runtime loaded them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.modalities import ModalityIndex
from poise.domain.service import Service, TensorSpec
from poise.errors import InternalError
from poise.runtimes.base import Masks, Measured, Outputs, Rows, StagedRunner, Tensors
from poise.runtimes.feed import StageFeed
from poise.runtimes.graph import Graph
from poise.runtimes.signature import check_arrays, check_batch_dimension, check_inputs, check_outputs
from poise.runtimes.stages import HEAD_STAGE, label_in_order
from poise.runtimes.tensors import datatype_of, zeros

PROBE_ITEMS = 2
"""Items of the batches of zeros that every graph answers when it is loaded: not 1, so that a batch shows."""

Load = Callable[[str, str, str], Graph]
"""(stage, field of the variant that names it, what it says there) -> the loaded stage."""


def open_stages(service: Service, variant: str, load: Load) -> StagedRunner:
    """Load all stages of a variant and hold them against the service.

    Raises:
        ConfigError: what ``load`` raises, or another signature than the service's.
        WorkerError: a stage fails on a batch of zeros.
    """
    declared = service.variants[variant]
    if declared.head is None:
        graphs = {
            label_in_order(label): load(label_in_order(label), f"graphs.{label}", named)
            for label, named in declared.graphs.items()
        }
        return GraphsRunner(service, graphs)
    encoders = {name: load(name, f"encoders.{name}", declared.encoders[name]) for name in service.modalities}
    return EncodersRunner(service, encoders, load(HEAD_STAGE, "head", declared.head))


class EncodersRunner:
    """Runs a variant of encoders and a head: each encoder once, over just the items that use it."""

    def __init__(self, service: Service, encoders: Mapping[str, Graph], head: Graph) -> None:
        self._modalities = tuple(service.modalities)
        self._feeds = {name: StageFeed(modality.inputs) for name, modality in service.modalities.items()}
        self._outputs = tuple(service.outputs)
        self._encoders = dict(encoders)
        self._embedding: dict[str, tuple[str]] = {}
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
        return self._embed(modality, self._feeds[modality](inputs, rows))

    def head(self, embeddings: Tensors, masks: Masks) -> Outputs:
        """Return the outputs for embeddings, each item with its own modality set.

        Embeddings that an item's set leaves out do not count, whatever they hold; a modality that no item uses may
        be missing.

        Shapes: ``embeddings[modality]`` is [n, …], ``masks`` [n]; outputs [n, …].
        """
        feed: Outputs = {}
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
        feed: Outputs = {}
        for bit, name in enumerate(self._modalities):
            used = (masks >> bit & 1).astype(bool)
            if not used.any():
                feed[name] = self._zeros(name, len(rows))
                continue
            whole = bool(used.all())
            mine = rows if whole else rows[used]
            gathered = self._feeds[name](inputs, mine)
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
        gathered = self._feeds[stage](inputs, rows)
        return lambda: self._embed(stage, gathered)

    def answer_sets(self, inputs: Tensors, rows: Rows, masks: Sequence[int]) -> list[Outputs]:
        """Encode once, then run the head for each modality set; see ``StagedRunner``."""
        needed = {name for bit, name in enumerate(self._modalities) if any(mask >> bit & 1 for mask in masks)}
        embeddings = {name: self.encode(name, inputs, rows) for name in self._encoders if name in needed}
        return [self.head(embeddings, np.full(len(rows), mask)) for mask in masks]

    def _embed(self, modality: str, feed: Tensors) -> NDArray[Any]:
        name = self._embedding[modality]
        return self._encoders[modality](name, feed)[name[0]]

    def _presence(self, masks: Masks) -> NDArray[np.float32]:
        return (masks[:, None] >> self._bits & 1).astype(np.float32)

    def _zeros(self, modality: str, items: int) -> NDArray[Any]:
        """Zero rows of a modality, held from one batch to the next; nobody writes to them."""
        held = self._absent[modality]
        if len(held) < items:
            held = self._absent[modality] = np.zeros((items, *held.shape[1:]), held.dtype)
        return held[:items]

    def _check(self, service: Service) -> None:
        """Hold the encoders and the head against the service and against each other, with batches of zeros."""
        for name, encoder in self._encoders.items():
            self._absent[name] = self._check_encoder(name, encoder, service)
        specs = {
            name: TensorSpec(datatype=datatype_of(array), shape=array.shape[1:])  # type: ignore[arg-type]
            for name, array in self._absent.items()
        }
        specs["mask"] = TensorSpec(datatype="FP32", shape=(len(self._modalities),))
        if self._head.inputs is not None:
            check_inputs(self._head.inputs, specs, self._head.place)
        if self._head.outputs is not None:
            check_outputs(self._head.outputs, service.outputs, self._head.place)
        outputs = self.head(self._absent, np.full(PROBE_ITEMS, self._everything))
        check_arrays(outputs, service.outputs, PROBE_ITEMS, self._head.place)

    def _check_encoder(self, name: str, encoder: Graph, service: Service) -> NDArray[Any]:
        """Return zero embeddings of a batch, once the encoder gives such at every bucket."""
        specs = service.modalities[name].inputs
        if encoder.inputs is not None:
            check_inputs(encoder.inputs, specs, encoder.place)
        rungs = range(max(1, len(service.buckets_of((name,)))))
        if encoder.outputs is not None:
            found = [port.name for port in encoder.outputs]
        else:
            found = list(encoder(None, zeros(specs, PROBE_ITEMS, rungs[0])))
        if len(found) != 1:
            raise encoder.place.error(f"the encoder has outputs {found}", "one, the embedding")
        if encoder.outputs is not None:
            check_batch_dimension("output", encoder.outputs[0], encoder.place)
        self._embedding[name] = (found[0],)
        first = self._embed(name, zeros(specs, PROBE_ITEMS, rungs[0]))
        if first.ndim == 0 or len(first) != PROBE_ITEMS:
            raise encoder.place.error(
                f"the embedding of a batch of {PROBE_ITEMS} has shape {list(first.shape)}",
                f"{PROBE_ITEMS} rows",
            )
        for rung in rungs[1:]:
            shape = self._embed(name, zeros(specs, PROBE_ITEMS, rung)).shape
            if shape != first.shape:
                bucket = service.buckets_of((name,))[rung]
                raise encoder.place.error(
                    f"the embedding at bucket {bucket} has shape {list(shape)}",
                    f"{list(first.shape)}, as at the shortest bucket",
                )
        return np.zeros_like(first)


class GraphsRunner:
    """Runs a variant of whole graphs: one run for each modality set in the batch."""

    def __init__(self, service: Service, graphs: Mapping[str, Graph]) -> None:
        self._index: ModalityIndex = service.modality_index
        self._outputs = tuple(service.outputs)
        self._graphs = {self._index.mask_of_label(label): graph for label, graph in graphs.items()}
        self._feeds: dict[int, StageFeed] = {}
        for mask, graph in self._graphs.items():
            members = self._index.members(mask)
            specs = service.inputs_of(members)
            self._feeds[mask] = StageFeed(specs)
            if graph.inputs is not None:
                check_inputs(graph.inputs, specs, graph.place)
            if graph.outputs is not None:
                check_outputs(graph.outputs, service.outputs, graph.place)
            for rung in range(max(1, len(service.buckets_of(members)))):
                outputs = graph(self._outputs, zeros(specs, PROBE_ITEMS, rung))
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
                    # text of one length would cut the longer text of another graph short
                    dtype = np.dtype(object) if array.dtype.kind in "SU" else array.dtype
                    whole[name] = np.empty((len(rows), *array.shape[1:]), dtype)
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

    def _feed(self, mask: int, inputs: Tensors, rows: Rows) -> Outputs:
        if mask not in self._graphs:
            raise InternalError(
                f"variant {self._any.variant!r} was given modality mask {mask}, which it has no graph for"
            )
        return self._feeds[mask](inputs, rows)

    @property
    def _any(self) -> Graph:
        return next(iter(self._graphs.values()))
