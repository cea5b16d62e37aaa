"""The service file (``service.yaml``): what the operator declares, as frozen values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import numpy as np

from poise.domain.adapter_settings import AdapterSettings
from poise.domain.datatypes import numpy_type
from poise.domain.file_struct import FileStruct
from poise.domain.modalities import (
    MAX_MODALITIES,
    MODALITY_NAME,
    RESERVED_MODALITY_NAMES,
    SERVICE_NAME,
    ModalityIndex,
    label_of,
    names_of,
)
from poise.domain.quantities import (
    parse_bytes,
    require_at_least_one,
    require_fraction,
    require_not_negative,
    require_positive,
)

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
    "BYTES",
]
Device = Literal["cpu", "cuda"]
MAX_BATCH = 4096
"""Beyond this a batch is a mistake, and its tables would fill the memory."""
MAX_BUCKETS = 32
"""Each bucket is measured at every batch size; more of them would make a profile a day's work."""
MAX_ELEMENT_BYTES = 2**24
"""Of one element of BYTES: shared memory is held for the longest."""
RESERVED_TENSOR_PREFIX = "poise:"
"""No tensor of a service is named so: what travels beside the tensors is (``length_key``)."""


def length_key(tensor: str) -> str:
    """Return the name under which the lengths of a tensor's items travel beside it."""
    return f"{RESERVED_TENSOR_PREFIX}length:{tensor}"


class TensorSpec(FileStruct, frozen=True, kw_only=True):
    """A tensor without its batch dimension.

    A *rung* is the position of a bucket: 0 is the shortest. A rung beyond a tensor's last stands for its longest,
    so that tensors of unequally many buckets can be padded to one rung.

    Shapes: ``shape`` has no batch dimension; one -1 is allowed where ``buckets`` lists the padded lengths.
    Units: ``max_bytes`` is of one element of BYTES, and there only.
    """

    datatype: Datatype
    shape: tuple[int, ...]
    buckets: tuple[int, ...] = ()
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        free = self.shape.count(-1)
        if any(size < 1 and size != -1 for size in self.shape):
            raise ValueError(
                f"got shape {list(self.shape)}, expected sizes of at least 1 (or one -1 with buckets)"
            )
        if free > 1:
            raise ValueError(f"got shape {list(self.shape)}, expected at most one -1")
        if free != bool(self.buckets):
            raise ValueError("expected buckets exactly where the shape has a -1")
        if any(b < 1 for b in self.buckets) or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"got buckets {list(self.buckets)}, expected rising whole numbers of at least 1")
        if len(self.buckets) > MAX_BUCKETS:
            raise ValueError(f"got {len(self.buckets)} buckets, expected at most {MAX_BUCKETS}")
        if (self.datatype == "BYTES") != (self.max_bytes is not None):
            raise ValueError(
                "expected max_bytes, the most that an element may have, for BYTES and nothing else"
            )
        if self.max_bytes is not None and not 1 <= self.max_bytes <= MAX_ELEMENT_BYTES:
            raise ValueError(f"got max_bytes {self.max_bytes}, expected 1 to {MAX_ELEMENT_BYTES}")
        if self.datatype == "BYTES" and self.buckets:
            raise ValueError("expected a fixed shape: BYTES has no buckets")

    @property
    def numpy_type(self) -> np.dtype[Any]:
        """What an element is in memory; see ``datatypes.numpy_type``."""
        return numpy_type(self.datatype, self.max_bytes)

    @property
    def free_axis(self) -> int | None:
        """The axis of the -1 in ``shape``; None where every size is fixed."""
        return self.shape.index(-1) if self.buckets else None

    def rung_of(self, length: int) -> int:
        """Return the rung of the shortest bucket that holds a length.

        Raises:
            ValueError: no bucket does.
        """
        rung = bisect_left(self.buckets, length)
        if rung == len(self.buckets):
            raise ValueError(f"got length {length}, expected at most one of buckets {list(self.buckets)}")
        return rung

    def shape_at(self, rung: int | None = None) -> tuple[int, ...]:
        """Return an item's shape padded to a rung; None is the longest bucket."""
        if not self.buckets:
            return self.shape
        length = self.buckets[-1 if rung is None else min(rung, len(self.buckets) - 1)]
        return tuple(length if size == -1 else size for size in self.shape)


class Modality(FileStruct, frozen=True, kw_only=True):
    """A named group of input tensors that can be left out together."""

    inputs: dict[str, TensorSpec]

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("got no inputs, expected at least one input tensor")


class Variant(FileStruct, frozen=True, kw_only=True):
    """One deployable model of the service. Paths are relative to the service file's folder."""

    runtime: Literal["onnx", "torch", "python", "emulated"]
    encoders: dict[str, str] = {}
    head: str | None = None
    graphs: dict[str, str] = {}
    modality_sets: tuple[str, ...] | None = None
    devices: tuple[Device, ...] = ("cpu",)
    module: str | None = None
    factory: str | None = None

    def __post_init__(self) -> None:
        if self.runtime == "emulated":
            if self.encoders or self.head or self.graphs:
                raise ValueError(
                    "runtime emulated takes no encoders, head or graphs: its stages come from the profile"
                )
        elif bool(self.encoders) == bool(self.graphs):
            raise ValueError("expected either encoders with a head, or graphs")
        elif bool(self.encoders) != bool(self.head):
            raise ValueError("expected encoders and a head together")
        if self.graphs and self.modality_sets is not None:
            raise ValueError("modality_sets does not go with graphs: their keys are the modality sets")
        if self.runtime == "python" and not (self.module and self.factory):
            raise ValueError("runtime python expected a module and a factory")
        if self.runtime != "python" and (self.module or self.factory):
            raise ValueError("module and factory go with runtime python only")
        if not self.devices:
            raise ValueError("got no devices, expected at least one of cpu, cuda")
        labels = [label_of(names_of(label)) for label in (*self.graphs, *(self.modality_sets or ()))]
        if len(set(labels)) != len(labels):
            raise ValueError("a modality set stands twice")
        if self.modality_sets is not None and not self.modality_sets:
            raise ValueError("got no modality_sets, expected at least one (or leave the field out for all)")


class SLOClass(FileStruct, frozen=True, kw_only=True):
    """A named tier of jobs. Units: ``latency_slo_ms`` in milliseconds (the file's edge unit)."""

    latency_slo_ms: float
    accuracy_floor: float = 0.0
    weight: float = 1.0
    prefer: Literal["floor", "deadline"] = "floor"
    max_floor: float | None = None

    def __post_init__(self) -> None:
        require_positive(self.latency_slo_ms, "latency_slo_ms")
        require_fraction(self.accuracy_floor, "accuracy_floor")
        require_positive(self.weight, "weight")
        if self.max_floor is not None:
            require_fraction(self.max_floor, "max_floor")
            if self.max_floor < self.accuracy_floor:
                raise ValueError(
                    f"got max_floor {self.max_floor}, expected at least accuracy_floor {self.accuracy_floor}"
                )

    @property
    def latency_slo_s(self) -> float:
        """The latency SLO in seconds."""
        return self.latency_slo_ms / 1000.0


class Budget(FileStruct, frozen=True, kw_only=True):
    """What the service may use on one cell."""

    cores: int = 2
    memory: str | int = "2GiB"
    surge_cores: int = 0
    cells: int = 1
    accelerators: dict[str, int] = {}

    def __post_init__(self) -> None:
        require_at_least_one(self.cores, "cores")
        require_at_least_one(self.cells, "cells")
        require_not_negative(self.surge_cores, "surge_cores")
        parse_bytes(self.memory, "memory")
        for name, count in self.accelerators.items():
            require_not_negative(count, f"accelerators.{name}")

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_bytes(self.memory, "memory")


class WorkerKind(FileStruct, frozen=True, kw_only=True):
    """Workers alike: a resident set of variants, threads, device and how many.

    Units: ``batch_cap_ms`` in milliseconds: no batch of theirs is planned to take longer; null leaves it to the policy.
    """

    variants: tuple[str, ...]
    threads: int = 1
    count: int = 1
    device: Device = "cpu"
    batch_cap_ms: float | None = None

    def __post_init__(self) -> None:
        if not self.variants or len(set(self.variants)) != len(self.variants):
            raise ValueError(f"got variants {list(self.variants)}, expected at least one variant, each once")
        require_at_least_one(self.threads, "threads")
        require_at_least_one(self.count, "count")
        if self.batch_cap_ms is not None:
            require_positive(self.batch_cap_ms, "batch_cap_ms")


class Guarantee(FileStruct, frozen=True, kw_only=True):
    """How accuracy floors are held."""

    scope: Literal["job", "class"] = "class"
    credit_items: int = 500
    confidence: float | None = None

    def __post_init__(self) -> None:
        require_at_least_one(self.credit_items, "credit_items")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise ValueError(
                f"got confidence {self.confidence!r}, expected a number from 0.5 to below 1, or null"
            )


class SchedulerSettings(FileStruct, frozen=True, kw_only=True):
    """The scheduler's settings."""

    policy: str = "poise"
    max_batch: int = 32
    queue_jobs: int = 10_000
    queue_items: int = 100_000
    latency: Literal["mean", "p50", "p95", "p99"] = "p95"
    calibrate: bool = True

    def __post_init__(self) -> None:
        require_at_least_one(self.max_batch, "max_batch")
        if self.max_batch > MAX_BATCH:
            raise ValueError(f"got max_batch {self.max_batch}, expected at most {MAX_BATCH}")
        require_at_least_one(self.queue_jobs, "queue_jobs")
        require_at_least_one(self.queue_items, "queue_items")


class Service(FileStruct, frozen=True, kw_only=True):
    """One service as its file declares it."""

    format: Literal[1]
    service: str
    modalities: dict[str, Modality]
    outputs: dict[str, TensorSpec]
    variants: dict[str, Variant]
    classes: dict[str, SLOClass] = msgspec.field(
        default_factory=lambda: {"default": SLOClass(latency_slo_ms=1000)}
    )
    budget: Budget = Budget()
    allocation: tuple[WorkerKind, ...] | None = None
    guarantee: Guarantee = Guarantee()
    scheduler: SchedulerSettings = SchedulerSettings()
    adapter: AdapterSettings = AdapterSettings()
    metric: str = "top1"
    validation: str | None = None
    test: str | None = None
    profile: str = "profile.json"

    def __post_init__(self) -> None:
        if not SERVICE_NAME.match(self.service):
            raise ValueError(f"service: got {self.service!r}, expected 1 to 64 of a-z A-Z 0-9 . _ -")
        self._check_modalities()
        for field, names in (("variants", self.variants), ("classes", self.classes)):
            if not names:
                raise ValueError(f"{field}: got none, expected at least one")
            for name in names:
                if not SERVICE_NAME.match(name):
                    raise ValueError(f"{field}: got name {name!r}, expected 1 to 64 of a-z A-Z 0-9 . _ -")
        if not self.outputs:
            raise ValueError("outputs: got none, expected at least one")
        if any(-1 in spec.shape for spec in self.outputs.values()):
            raise ValueError("outputs: got a shape with -1, expected fixed shapes")
        for name, variant in self.variants.items():
            self._check_variant(name, variant)
        self._check_allocation()
        if self.metric != "top1" and not (self.metric.startswith("python:") and self.metric.count(":") == 2):
            raise ValueError(f"metric: got {self.metric!r}, expected top1 or python:module:function")

    def _check_modalities(self) -> None:
        if not 1 <= len(self.modalities) <= MAX_MODALITIES:
            raise ValueError(f"modalities: got {len(self.modalities)}, expected 1 to {MAX_MODALITIES}")
        owner: dict[str, str] = {}
        for name, modality in self.modalities.items():
            if not MODALITY_NAME.match(name) or name in RESERVED_MODALITY_NAMES:
                raise ValueError(
                    f"modalities: got name {name!r}, expected 1 to 32 of a-z 0-9 _, "
                    f"and none of {sorted(RESERVED_MODALITY_NAMES)}"
                )
            for tensor in modality.inputs:
                if tensor.startswith(RESERVED_TENSOR_PREFIX):
                    raise ValueError(
                        f"modalities.{name}: got input {tensor!r}, "
                        f"expected a name that does not begin with {RESERVED_TENSOR_PREFIX!r}"
                    )
                if tensor in owner:
                    raise ValueError(
                        f"modalities.{name}: input {tensor!r} stands in modality {owner[tensor]!r} too, expected one"
                    )
                owner[tensor] = name

    def _check_variant(self, name: str, variant: Variant) -> None:
        known = set(self.modalities)
        at = f"variants.{name}"
        for label in (*variant.graphs, *(variant.modality_sets or ())):
            unknown = set(names_of(label)) - known
            if unknown:
                raise ValueError(
                    f"{at}: modality set {label!r} names {sorted(unknown)}, expected some of {sorted(known)}"
                )
        if variant.encoders and set(variant.encoders) != known:
            raise ValueError(
                f"{at}: got encoders for {sorted(variant.encoders)}, expected one for each of {sorted(known)}"
            )

    def _check_allocation(self) -> None:
        for kind in self.allocation or ():
            unknown = set(kind.variants) - set(self.variants)
            if unknown:
                raise ValueError(
                    f"allocation: got variants {sorted(unknown)}, expected some of {sorted(self.variants)}"
                )
        if self.adapter.variant is not None and self.adapter.variant not in self.variants:
            raise ValueError(
                f"adapter.variant: got {self.adapter.variant!r}, expected one of {sorted(self.variants)}"
            )

    def inputs_of(self, modalities: Iterable[str]) -> dict[str, TensorSpec]:
        """Return the input tensors of some modalities, by name."""
        return {tensor: spec for name in modalities for tensor, spec in self.modalities[name].inputs.items()}

    def buckets_of(self, modalities: Iterable[str]) -> tuple[int, ...]:
        """Return the bucket of each rung of a stage that takes some modalities; empty where none is padded.

        All inputs of a stage are padded to one rung, the highest that any of them needs; the rung has the name of
        the bucket that the first of the inputs with most buckets has there.
        """
        return max((spec.buckets for spec in self.inputs_of(modalities).values()), key=len, default=())

    @property
    def modality_index(self) -> ModalityIndex:
        """The index of this service's modalities, in file order."""
        return ModalityIndex(tuple(self.modalities))

    @property
    def default_class(self) -> str:
        """The class of a job that names none: the file's first."""
        return next(iter(self.classes))
