"""The protocol's datatypes in the words of numpy and of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import NUMPY_TYPE, SLOT_HEAD_BYTES
from poise.domain.service import TensorSpec, length_key
from poise.domain.slots import bytes_in, slots_of_array
from poise.errors import ConfigError

ONNX_TYPE = {
    name: f"tensor({ {'FP16': 'float16', 'FP32': 'float', 'FP64': 'double'}.get(name, name.lower()) })"
    for name in NUMPY_TYPE
} | {"BYTES": "tensor(string)"}
"""Protocol datatype -> what ONNX Runtime calls a tensor of it."""

DATATYPE = {onnx: name for name, onnx in ONNX_TYPE.items()}
"""What ONNX Runtime calls a tensor -> protocol datatype."""

_DATATYPES = {numpy_type: name for name, numpy_type in NUMPY_TYPE.items()}


def datatype_of(array: NDArray[Any]) -> str:
    """Return the protocol's datatype of an array, or numpy's name of its type where the protocol has none."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    return _DATATYPES.get(array.dtype, str(array.dtype))


def model_datatype(spec: TensorSpec) -> str:
    """Return the datatype that a model has for a tensor: BF16 is only how it travels, and FP32 what is computed."""
    return "FP32" if spec.datatype == "BF16" else spec.datatype


def as_model_takes(array: NDArray[Any]) -> NDArray[Any]:
    """Return rows of an arena as a model is given them: slots of BYTES become Python's ``bytes``."""
    return bytes_in(array) if array.dtype.kind == "V" else array


def as_arena_holds(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what a model gave as an arena of that type holds it: text and bytes become slots.

    Raises:
        ValueError: an element is no text and no bytes, or too long.
    """
    if dtype.kind == "V" and array.dtype.kind in "OSU":
        return slots_of_array(array, dtype.itemsize - SLOT_HEAD_BYTES)
    return array


def zeros(specs: Mapping[str, TensorSpec], items: int, rung: int | None = None) -> dict[str, NDArray[Any]]:
    """Return an array of zeros for each tensor as a model takes it, a free length at a rung; None is the longest.

    A zero of BYTES is the empty one.

    Shapes: [items, …] each.
    """
    return {
        name: as_model_takes(np.zeros((items, *spec.shape_at(rung)), spec.numpy_type))
        for name, spec in specs.items()
    }


def padded(inputs: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return items as an arena holds them: free axes padded with zeros to the longest bucket, lengths beside them.

    Shapes: [n, …] each; ``length_key(name)`` is [n].
    Raises:
        ConfigError: items longer than the longest bucket.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, array in inputs.items():
        axis = specs[name].free_axis
        if axis is None:
            found[name] = array
            continue
        length, longest = array.shape[axis + 1], specs[name].buckets[-1]
        if length > longest:
            raise ConfigError(
                f"array {name!r} has items of length {length}",
                field=name,
                expected=f"at most {longest}, the longest of buckets {list(specs[name].buckets)}",
            )
        room = [(0, 0)] * array.ndim
        room[axis + 1] = (0, longest - length)
        found[name] = np.pad(array, room)
        found[length_key(name)] = np.full(len(array), length, np.uint32)
    return found


def item_bytes(spec: TensorSpec) -> int:
    """Return how many bytes one item of a tensor takes, at its longest bucket."""
    return spec.numpy_type.itemsize * math.prod(spec.shape_at())
