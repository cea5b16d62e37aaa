"""Elements of BYTES in memory of fixed size: a slot each, of a length and as many bytes as the service allows.

A slot begins as the protocol's binary form of its element does: four bytes of length, little-endian, and the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import SLOT_HEAD_BYTES

_LENGTH = Struct("<I")


def slots_of(values: Sequence[bytes | memoryview], max_bytes: int) -> NDArray[np.void]:
    """Return the slots of some elements. Shapes: [n].

    Raises:
        ValueError: an element is longer than ``max_bytes``.
    """
    width = SLOT_HEAD_BYTES + max_bytes
    zeros = np.zeros(width * len(values), np.uint8)  # the system's: a page is there once it is written to
    memory = zeros.data
    at = 0
    for value in values:
        size = len(value)
        if size > max_bytes:
            raise ValueError(f"got an element of {size} bytes, expected at most {max_bytes}")
        _LENGTH.pack_into(memory, at, size)
        memory[at + SLOT_HEAD_BYTES : at + SLOT_HEAD_BYTES + size] = value
        at += width
    return zeros.view(np.dtype(f"V{width}"))


def bytes_in(slots: NDArray[Any]) -> NDArray[np.object_]:
    """Return the elements in some slots. Shapes: that of ``slots``, of Python's ``bytes``."""
    elements = np.empty(slots.size, object)
    for number, head in enumerate(heads(slots)):
        elements[number] = bytes(head[SLOT_HEAD_BYTES:])
    return elements.reshape(slots.shape)


def heads(slots: NDArray[Any]) -> Iterable[memoryview]:
    """Yield each slot as far as it is filled: what the binary form of its element is."""
    width = slots.dtype.itemsize
    data = np.ascontiguousarray(slots).reshape(-1).view(np.uint8).data
    for at in range(0, len(data), width):
        (size,) = _LENGTH.unpack_from(data, at)
        yield data[at : at + min(SLOT_HEAD_BYTES + size, width)]


def copy_slots(target: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy slots over others as far as they are filled. Shapes: alike; ``target``'s lie row by row."""
    width = source.dtype.itemsize
    memory = target.reshape(-1).view(np.uint8).data
    for number, head in enumerate(heads(source)):
        memory[number * width : number * width + len(head)] = head


def slots_of_array(array: NDArray[Any], max_bytes: int) -> NDArray[np.void]:
    """Return the slots of an array of text or bytes, of whichever kind numpy has. Shapes: that of ``array``.

    Raises:
        ValueError: an element is no text and no bytes, or longer than ``max_bytes``.
    """
    values = [as_bytes(value) for value in array.ravel().tolist()]
    return slots_of(values, max_bytes).reshape(array.shape)


def as_bytes(value: object) -> bytes:
    """Return an element's bytes; text is written as UTF-8.

    Raises:
        ValueError: neither bytes nor text.
    """
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise ValueError(f"got an element of type {type(value).__name__}, expected bytes or text")
