"""The elements of tensors as bytes on the wire, row by row, little-endian."""

from __future__ import annotations

import math

import numpy as np

from poise.errors import MalformedRequestError
from poise.protocol.wire import Array, InputWire

Bytes = bytes | bytearray | memoryview


def check_size(size: int, there: int, shape: tuple[int, ...], spec: InputWire) -> None:
    """Refuse a tensor whose bytes are not as many as its shape wants, or not there.

    Raises:
        MalformedRequestError: such a tensor.
    """
    expected = math.prod(shape) * spec.dtype.itemsize
    if size != expected:
        raise MalformedRequestError(
            f"input {spec.name!r}: got binary_data_size {size}, expected {expected} for its shape and datatype"
        )
    if size > there:
        raise MalformedRequestError(f"input {spec.name!r}: got {there} bytes of binary data, expected {size}")


def from_bytes(data: Bytes, shape: tuple[int, ...], spec: InputWire) -> Array:
    """Return a tensor over its bytes, of which there are as many as its shape wants; most are not copied."""
    if spec.datatype == "BOOL":
        # Any byte may come, but a numpy truth value that is neither 0 nor 1 is trouble later.
        truth: Array = np.frombuffer(data, np.uint8) != 0
        return truth.reshape(shape)
    return np.frombuffer(data, spec.dtype).reshape(shape)
