"""Arrays to the bytes of the protocol's tensors, and back."""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from poise.client.plain import text
from poise.client.values import from_bfloat16
from poise.errors import MalformedRequestError

_LENGTH = Struct("<I")

_KINDS: dict[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",  # numpy has none of its own; the package ml_dtypes brings one of this name
    "float32": "FP32",
    "float64": "FP64",
}
_NUMPY = {datatype: np.dtype(name) for name, datatype in _KINDS.items() if datatype != "BF16"}


def encode_tensor(name: str, given: ArrayLike) -> tuple[str, tuple[int, ...], bytes | memoryview]:
    """Return an array's datatype, shape and bytes; those of a contiguous little-endian array are not copied.

    Strings, and arrays of ``str`` or ``bytes`` objects, are BYTES.

    Raises:
        MalformedRequestError: no array with items, or of a type that the protocol does not have.
    """
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, OverflowError):
        raise MalformedRequestError(
            f"input {name!r}: got no array, expected lists of one length at every level"
        ) from None
    if array.ndim == 0:
        raise MalformedRequestError(f"input {name!r}: got a single value, expected an array of items")
    if array.dtype.kind in "OSU":
        return "BYTES", array.shape, _encode_texts(name, array)
    datatype = _KINDS.get(array.dtype.name)
    if datatype is None:
        raise MalformedRequestError(
            f"input {name!r}: got numpy type {array.dtype}, expected one of {', '.join(_KINDS)}, or strings"
        )
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return datatype, array.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _encode_texts(name: str, array: NDArray[Any]) -> bytes:
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        if isinstance(element, str):
            data = text(f"input {name!r}: an element", element).encode()
        elif isinstance(element, bytes):
            data = element
        else:
            raise MalformedRequestError(
                f"input {name!r}: got an element of type {type(element).__name__}, expected str or bytes"
            )
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def decode_tensor(datatype: str, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    """Return a tensor in binary form as an array: BYTES as objects, BF16 as float32, all else without a copy.

    Raises:
        ValueError: bytes that are not so many elements of that datatype, or no such datatype.
    """
    if datatype == "BYTES":
        return _decode_texts(data).reshape(shape)
    if datatype == "BF16":
        return from_bfloat16(np.frombuffer(data, "<u2")).reshape(shape)
    return np.frombuffer(data, _numpy(datatype)).reshape(shape)


def decode_json_tensor(datatype: str, shape: tuple[int, ...], data: list[Any]) -> NDArray[Any]:
    """Return a tensor in JSON form as an array.

    Raises:
        ValueError: not so many elements of that datatype.
        OverflowError: a number beyond it.
    """
    if datatype == "BYTES":
        texts = np.array([str(element).encode() for element in _flat(data)], object)
        return texts.reshape(shape)
    return np.array(data, np.dtype(np.float32) if datatype == "BF16" else _numpy(datatype)).reshape(shape)


def _flat(data: list[Any]) -> list[Any]:
    return [leaf for element in data for leaf in (_flat(element) if isinstance(element, list) else [element])]


def _numpy(datatype: str) -> np.dtype[Any]:
    dtype = _NUMPY.get(datatype)
    if dtype is None:
        raise ValueError(f"datatype {datatype!r} is not known")
    return dtype


def _decode_texts(data: memoryview) -> NDArray[Any]:
    texts, at = [], 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise ValueError("a length is cut short")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            raise ValueError("an element is cut short")
        texts.append(bytes(data[at : at + size]))
        at += size
    array = np.empty(len(texts), object)
    array[:] = texts
    return array
