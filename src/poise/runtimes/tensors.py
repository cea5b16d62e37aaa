"""The protocol's datatypes in the words of numpy and of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import NUMPY_TYPE
from poise.domain.service import TensorSpec

ONNX_TYPE = {
    name: f"tensor({ {'FP16': 'float16', 'FP32': 'float', 'FP64': 'double'}.get(name, name.lower()) })"
    for name in NUMPY_TYPE
}
"""Protocol datatype -> what ONNX Runtime calls a tensor of it."""

DATATYPE = {onnx: name for name, onnx in ONNX_TYPE.items()}
"""What ONNX Runtime calls a tensor -> protocol datatype."""


def zeros(specs: Mapping[str, TensorSpec], items: int) -> dict[str, NDArray[Any]]:
    """Return an array of zeros for each tensor; a free length takes the smallest bucket.

    Shapes: [items, …] each.
    """
    return {
        name: np.zeros((items, *fixed_shape(spec, longest=False)), NUMPY_TYPE[spec.datatype])
        for name, spec in specs.items()
    }


def fixed_shape(spec: TensorSpec, *, longest: bool) -> tuple[int, ...]:
    """Return the shape of an item with a free length set to the largest or the smallest bucket."""
    if not spec.buckets:
        return spec.shape
    length = spec.buckets[-1] if longest else spec.buckets[0]
    return tuple(length if size == -1 else size for size in spec.shape)


def item_bytes(spec: TensorSpec) -> int:
    """Return how many bytes one item of a tensor takes, at its largest bucket."""
    return NUMPY_TYPE[spec.datatype].itemsize * math.prod(fixed_shape(spec, longest=True))
