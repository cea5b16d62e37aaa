"""A service as the protocol sees it: its tensors with the batch dimension first, and the bounds of a request."""

from __future__ import annotations

from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.service import Service, SLOClass, TensorSpec

Array = NDArray[np.generic]
LENGTH = TensorSpec(datatype="UINT32", shape=())
"""An item's length in a tensor's free axis, which travels beside the tensor under ``length_key(tensor)``."""

MAX_STRINGS = 2**14
"""How many elements of BYTES an input may have in one request: they are looked for one by one, and all others wait."""
MAX_SLOTS_BYTES = 64 * 2**20
"""What all slots of a request may take, at the longest that the service declares."""

VERSION = "1"
"""The one version of a service that the protocol's paths may name."""


class InputWire(msgspec.Struct, frozen=True):
    """One input tensor. Shapes: ``shape`` is one item's, ``free`` the axis of its -1 (None: no such axis).

    ``dtype`` is what an element is in memory. Units: ``max_bytes`` is of one element of BYTES, of which a request may
    have ``max_strings``.
    """

    name: str
    modality: str
    bit: int
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    free: int | None
    longest: int
    buckets: tuple[int, ...] = ()
    max_bytes: int = 0
    max_strings: int = 0

    @property
    def expected(self) -> str:
        """The shape that a request may give, in words."""
        sizes = ["n", *(str(size) if size != -1 else f"1..{self.longest}" for size in self.shape)]
        padded = f" (padded to buckets {', '.join(map(str, self.buckets))})" if self.buckets else ""
        return f"[{', '.join(sizes)}]{padded}"


class OutputWire(msgspec.Struct, frozen=True):
    """One output tensor. Shapes: ``shape`` is one item's. ``dtype`` is what an element is in memory."""

    name: str
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ServiceWire(msgspec.Struct, frozen=True):
    """All of a service that a request is held against; made once."""

    name: str
    inputs: dict[str, InputWire]
    modalities: dict[str, tuple[str, ...]]
    outputs: dict[str, OutputWire]
    classes: dict[str, SLOClass]
    default_class: str
    max_items: int
    all_modalities: int


def wire_of(service: Service, max_items: int) -> ServiceWire:
    """Return the wire form of a service that takes at most ``max_items`` items in one request."""
    inputs = {}
    specs = service.inputs_of(service.modalities).values()
    strings = sum(spec.datatype == "BYTES" for spec in specs)
    for bit, (modality, group) in enumerate(service.modalities.items()):
        for name, spec in group.inputs.items():
            inputs[name] = _input(name, modality, 1 << bit, spec, strings)
    return ServiceWire(
        name=service.service,
        inputs=inputs,
        modalities={name: tuple(group.inputs) for name, group in service.modalities.items()},
        outputs={
            name: OutputWire(name, spec.datatype, spec.numpy_type, spec.shape)
            for name, spec in service.outputs.items()
        },
        classes=service.classes,
        default_class=service.default_class,
        max_items=max_items,
        all_modalities=service.modality_index.all,
    )


def _input(name: str, modality: str, bit: int, spec: TensorSpec, strings: int) -> InputWire:
    """Return an input's wire form; ``strings``: how many inputs of BYTES share what slots may take."""
    free = spec.shape.index(-1) if -1 in spec.shape else None
    longest = spec.shape_at()[free] if free is not None else 0
    wire = InputWire(
        name, modality, bit, spec.datatype, spec.numpy_type, spec.shape, free, longest, spec.buckets
    )
    if spec.max_bytes is None:
        return wire
    room = MAX_SLOTS_BYTES // strings // spec.numpy_type.itemsize
    most = max(item_elements(spec.shape), min(MAX_STRINGS, room))
    return msgspec.structs.replace(wire, max_bytes=spec.max_bytes, max_strings=most)


def metadata(wire: ServiceWire) -> dict[str, Any]:
    """Return the protocol's model metadata; an input's parameters name the modality that it belongs to."""
    return {
        "name": wire.name,
        "versions": [VERSION],
        "platform": "poise",
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": [-1, *tensor.shape],
                "parameters": {"modality": tensor.modality},
            }
            for tensor in wire.inputs.values()
        ],
        "outputs": [
            {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}
            for tensor in wire.outputs.values()
        ],
    }


def item_elements(shape: tuple[int, ...]) -> int:
    """Return the number of elements of one item."""
    return prod(shape)
