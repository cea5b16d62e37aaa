"""What the client's calls return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a job. Shapes: ``outputs[name]`` is [items, *shape], read-only.

    ``modalities`` and ``variants`` have one entry for each item: the modality set, as ``clip+speech``, and the variant
    that answered it. ``accuracy`` is what is expected of the answer, in [0, 1]. Units: seconds; ``queue_s`` is from
    arrival to the first dispatch, ``compute_s`` from there to the last output. ``late``: after the deadline;
    ``below_floor``: the class prefers deadlines, and this job paid for it.

    From a server of the protocol other than poise, what it does not say is empty or None.
    """

    service: str
    id: str | None
    outputs: Mapping[str, NDArray[Any]]
    modalities: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    accuracy: float | None = None
    queue_s: float | None = None
    compute_s: float | None = None
    late: bool = False
    below_floor: bool = False

    @property
    def items(self) -> int:
        """How many items were answered."""
        return len(next(iter(self.outputs.values())))

    @property
    def variant(self) -> str:
        """The variant that answered; where several did, all of them by name, with commas."""
        return ",".join(sorted(set(self.variants)))


class ServerMetadata(msgspec.Struct, frozen=True):
    """What a server says of itself. ``models`` are its services."""

    name: str
    version: str
    extensions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


class TensorMetadata(msgspec.Struct, frozen=True):
    """A tensor of a service. Shapes: ``shape`` has the items first; -1 stands for a free size."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] = {}

    @property
    def modality(self) -> str:
        """The modality that an input belongs to; its own name where nothing is said."""
        return str(self.parameters.get("modality", self.name))


class ServiceMetadata(msgspec.Struct, frozen=True):
    """What a server says of one service."""

    name: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    versions: tuple[str, ...] = ()
    platform: str = ""


def from_bfloat16(raw: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return numbers of 16 bits, the upper half of a float, as floats."""
    return (raw.astype(np.uint32) << 16).view(np.float32)
