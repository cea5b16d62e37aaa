"""The elements of tensors as bytes on the wire, row by row, little-endian."""

from __future__ import annotations

import math

import numpy as np

from poise.errors import MalformedRequestError
from poise.protocol.wire import Array, InputWire, OutputWire

Bytes = bytes | bytearray | memoryview


def check_size(size: int, shape: tuple[int, ...], spec: InputWire) -> None:
    """Refuse a tensor of other than as many bytes as its shape wants.

    Raises:
        MalformedRequestError: such a tensor.
    """
    expected = math.prod(shape) * spec.dtype.itemsize
    if size != expected:
        raise MalformedRequestError(
            f"input {spec.name!r}: got {size} bytes of binary data, expected {expected} for its shape and datatype"
        )


def from_bytes(data: Bytes, shape: tuple[int, ...], spec: InputWire) -> Array:
    """Return a tensor over its bytes; most are not copied. Shapes: ``shape``, checked before.

    Raises:
        MalformedRequestError: they are not as many as the shape wants.
    """
    check_size(len(data), shape, spec)
    if spec.datatype == "BOOL":
        # Any byte may come, but a numpy truth value that is neither 0 nor 1 is trouble later.
        truth: Array = np.frombuffer(data, np.uint8) != 0
        return truth.reshape(shape)
    return np.frombuffer(data, spec.dtype).reshape(shape)


def to_bytes(array: Array, spec: OutputWire) -> memoryview:
    """Return the bytes of a tensor; they are not copied if they lie row by row."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
