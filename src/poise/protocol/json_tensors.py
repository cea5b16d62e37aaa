"""Tensors written as JSON numbers or text: flat in row-major order, or nested as their shape."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np

from poise.errors import MalformedRequestError
from poise.protocol.elements import from_bf16, from_strings, to_bf16
from poise.protocol.wire import Array, InputWire

_POSITION = re.compile(r" \(byte (\d+)\)")
_NOT_FINITE = (b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf")
_OPENING = re.compile(rb"\s*\[")

_INTEGERS: dict[str, Any] = {
    "UINT8": Annotated[int, msgspec.Meta(ge=0, le=2**8 - 1)],
    "UINT16": Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)],
    "UINT32": Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)],
    "UINT64": Annotated[int, msgspec.Meta(ge=0)],
    "INT8": Annotated[int, msgspec.Meta(ge=-(2**7), le=2**7 - 1)],
    "INT16": Annotated[int, msgspec.Meta(ge=-(2**15), le=2**15 - 1)],
    "INT32": Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)],
    "INT64": int,
}
_OTHERS: dict[str, Any] = {"BOOL": bool, "BYTES": str}


def decode_elements(raw: msgspec.Raw, shape: tuple[int, ...], spec: InputWire) -> Array:
    """Return a tensor from the JSON text of its elements. Shapes: ``shape``, checked before.

    Raises:
        MalformedRequestError: no data, other than numbers of the datatype, or another count or nesting.
    """
    text = memoryview(raw)
    if not text:
        raise MalformedRequestError(f"input {spec.name!r}: got no data, expected data or binary_data_size")
    nested = len(shape) > 1 and _depth(text) > 1
    try:
        values = _decoder(spec.datatype, len(shape) if nested else 1).decode(text)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"input {spec.name!r}: data is not of {spec.datatype}: {error}") from None
    except RecursionError:
        raise MalformedRequestError(f"input {spec.name!r}: data is nested deeper than its shape") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequestError(
            f"input {spec.name!r}: data is not JSON: {json_problem(error, text)}"
        ) from None
    return _array(values, nested, shape, spec)


def json_problem(error: Exception, text: memoryview) -> str:
    """Return what is wrong with JSON in words; numbers that JSON does not have are named."""
    message = str(error).removeprefix("JSON is malformed: ")
    position = _POSITION.search(message)
    if position is not None:
        at = int(position[1])
        near = bytes(text[max(0, at - 1) : at + 10])
        if any(near.startswith(word) or near[1:].startswith(word) for word in _NOT_FINITE):
            return f"got NaN or an infinity at byte {at}, expected finite numbers (or binary data)"
    return message if isinstance(error, msgspec.DecodeError) else "got text that is not UTF-8, expected UTF-8"


def _array(values: list[Any], nested: bool, shape: tuple[int, ...], spec: InputWire) -> Array:
    if not nested and len(values) != math.prod(shape):
        raise MalformedRequestError(
            f"input {spec.name!r}: got {len(values)} elements, expected {math.prod(shape)} for its shape"
        )
    if spec.datatype == "BYTES":
        return _strings(values, nested, shape, spec)
    try:
        with np.errstate(over="ignore"):
            array: Array = np.array(values, dtype=spec.dtype)
            if spec.datatype == "BF16":
                array = from_bf16(to_bf16(array))
    except OverflowError:
        raise MalformedRequestError(
            f"input {spec.name!r}: a number is out of range, expected numbers of {spec.datatype}"
        ) from None
    except ValueError:
        raise MalformedRequestError(
            f"input {spec.name!r}: data is nested unevenly, expected lists as its shape says"
        ) from None
    if nested and array.shape != shape:
        raise MalformedRequestError(
            f"input {spec.name!r}: data is nested as {list(array.shape)}, expected {list(shape)}, or a flat list"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MalformedRequestError(
            f"input {spec.name!r}: a number is out of range, expected finite numbers of {spec.datatype}"
        )
    return array.reshape(shape)


def _strings(values: list[Any], nested: bool, shape: tuple[int, ...], spec: InputWire) -> Array:
    """Return a tensor of text; ``values`` are nested as deep as ``shape``, or not at all."""
    fits = not nested or len(values) == shape[0]
    for size in shape[1:] if nested else ():
        fits = fits and all(len(value) == size for value in values)
        values = [inner for value in values for inner in value]
    if not fits:
        raise MalformedRequestError(
            f"input {spec.name!r}: data is nested otherwise, expected {list(shape)}, or a flat list"
        )
    return from_strings([value.encode() for value in values], shape, spec)


def _depth(text: memoryview) -> int:
    """Return the number of opening brackets at the start, as far as they matter: 0, 1 or 2."""
    depth = at = 0
    while depth < 2 and (match := _OPENING.match(text, at)):
        depth, at = depth + 1, match.end()
    return depth


@cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    element: Any = _OTHERS.get(datatype) or _INTEGERS.get(datatype, float)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)
