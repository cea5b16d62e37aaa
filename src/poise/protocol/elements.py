"""The elements of tensors as bytes on the wire, row by row, little-endian."""

from __future__ import annotations

import math
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import SLOT_HEAD_BYTES
from poise.domain.slots import heads, slots_of
from poise.errors import MalformedRequestError, TooLargeError
from poise.protocol.wire import Array, InputWire, OutputWire

Bytes = bytes | bytearray | memoryview

_BF16_BYTES = 2
_LENGTH = Struct("<I")


def check_size(size: int, shape: tuple[int, ...], spec: InputWire) -> None:
    """Refuse a tensor of other than as many bytes as its shape wants.

    Raises:
        MalformedRequestError: such a tensor.
        TooLargeError: too many elements of BYTES.
    """
    count = math.prod(shape)
    if spec.datatype == "BYTES":
        _check_strings(count, spec)
        if size < count * SLOT_HEAD_BYTES:
            raise MalformedRequestError(
                f"input {spec.name!r}: got {size} bytes of binary data, expected {count} elements, each with the "
                f"{SLOT_HEAD_BYTES} bytes of its length"
            )
        return
    expected = count * (_BF16_BYTES if spec.datatype == "BF16" else spec.dtype.itemsize)
    if size != expected:
        raise MalformedRequestError(
            f"input {spec.name!r}: got {size} bytes of binary data, expected {expected} for its shape and datatype"
        )


def from_bytes(data: Bytes, shape: tuple[int, ...], spec: InputWire) -> Array:
    """Return a tensor over its bytes; most are not copied. Shapes: ``shape``, checked before.

    Raises:
        MalformedRequestError: they are not as many as the shape wants, or an element of BYTES is too long.
        TooLargeError: too many elements of BYTES.
    """
    check_size(len(data), shape, spec)
    if spec.datatype == "BOOL":
        # Any byte may come, but a numpy truth value that is neither 0 nor 1 is trouble later.
        truth: Array = np.frombuffer(data, np.uint8) != 0
        return truth.reshape(shape)
    if spec.datatype == "BF16":
        return from_bf16(np.frombuffer(data, "<u2")).reshape(shape)
    if spec.datatype == "BYTES":
        return from_strings(_strings(memoryview(data), math.prod(shape), spec), shape, spec)
    return np.frombuffer(data, spec.dtype).reshape(shape)


def _strings(data: memoryview, count: int, spec: InputWire) -> list[memoryview]:
    """Return the elements that lie one after another, each behind its length."""
    found: list[memoryview] = []
    at, end = 0, len(data)
    while at < end and len(found) < count:
        if end - at < SLOT_HEAD_BYTES:
            break
        begin = at + SLOT_HEAD_BYTES
        at = begin + _LENGTH.unpack_from(data, at)[0]
        found.append(data[begin:at])
    if at != end or len(found) != count:
        raise MalformedRequestError(
            f"input {spec.name!r}: got binary data that is not {count} elements, expected each behind its length"
        )
    return found


def from_strings(values: list[memoryview] | list[bytes], shape: tuple[int, ...], spec: InputWire) -> Array:
    """Return a tensor of BYTES from its elements, of which there are as many as its shape wants.

    Raises:
        MalformedRequestError: one of them is too long.
        TooLargeError: there are too many.
    """
    _check_strings(len(values), spec)
    try:
        return slots_of(values, spec.max_bytes).reshape(shape)
    except ValueError as error:
        raise MalformedRequestError(f"input {spec.name!r}: {error}") from None


def _check_strings(count: int, spec: InputWire) -> None:
    if count > spec.max_strings:
        raise TooLargeError(
            f"input {spec.name!r}: got {count} elements of BYTES, expected at most {spec.max_strings} in one request"
        )


def to_bytes(array: Array, spec: OutputWire) -> memoryview:
    """Return the bytes of a tensor; most are not copied if they lie row by row."""
    if spec.datatype == "BYTES":
        return memoryview(b"".join(heads(array)))
    if spec.datatype == "BF16":
        array = to_bf16(array)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return numbers of BF16 as float32, which has room for all of them."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(array: Array) -> NDArray[np.uint16]:
    """Return float32 as the bits of BF16, rounded to the nearest, and to the even one of two; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    quiet = (bits >> 16 | 0x40).astype(np.uint16)  # rounding may carry a NaN over into infinity
    return np.where(np.isnan(array), quiet, rounded)
