"""The protocol's datatypes in the words of numpy and of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import NUMPY_TYPE
from poise.domain.service import TensorSpec, length_key
from poise.errors import ConfigError

ONNX_TYPE = {
    name: f"tensor({ {'FP16': 'float16', 'FP32': 'float', 'FP64': 'double'}.get(name, name.lower()) })"
    for name in NUMPY_TYPE
}
"""Protocol datatype -> what ONNX Runtime calls a tensor of it."""

DATATYPE = {onnx: name for name, onnx in ONNX_TYPE.items()}
"""What ONNX Runtime calls a tensor -> protocol datatype."""

_DATATYPES = {numpy_type: name for name, numpy_type in NUMPY_TYPE.items()}


def datatype_of(array: NDArray[Any]) -> str:
    """Return the protocol's datatype of an array, or numpy's name of its type where the protocol has none."""
    return _DATATYPES.get(array.dtype, str(array.dtype))


def zeros(specs: Mapping[str, TensorSpec], items: int, rung: int | None = None) -> dict[str, NDArray[Any]]:
    """Return an array of zeros for each tensor, a free length at a rung; None is the longest bucket.

    Shapes: [items, …] each.
    """
    return {
        name: np.zeros((items, *spec.shape_at(rung)), NUMPY_TYPE[spec.datatype])
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
    return NUMPY_TYPE[spec.datatype].itemsize * math.prod(spec.shape_at())
