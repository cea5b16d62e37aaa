"""Tensors written as JSON numbers or text: flat in row-major order, or nested as their shape."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Annotated, Any, cast

import msgspec
import numpy as np

from poise.errors import MalformedRequestError
from poise.protocol.elements import from_bf16, from_strings, to_bf16
from poise.protocol.wire import Array, InputWire

_POSITION = re.compile(r" \(byte (\d+)\)")
_NOT_FINITE = (b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf")
_CUT_SHORT = "Input data was truncated"
_HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(?P<escape>\\u[dD][89abAB][0-9a-fA-F]{2})(?=[^\\])"  # a half that nothing completes
    rb"|\\.",  # any other escape
    re.DOTALL,
)
_MOST_CHARACTERS = 200
_OPENING = re.compile(rb"\s*\[")
FEW_EXPONENTS = 16
"""Numbers with an exponent may each take the quick decoder 7 µs: so many are let pass, more are read otherwise."""
MANY_EXPONENTS = 2000
"""So many take a millisecond even if read otherwise: too long for an event loop."""
WORTH_FINER_WORDS = 1024
"""Fewer elements than this are read also if there are too many or too few, to say what is wrong with their nesting."""
_EXPONENTS = tuple(b"%d%c" % (digit, e) for digit in range(10) for e in b"eE")

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
    depth = len(shape) if nested else 1
    try:
        if spec.datatype == "BYTES":
            values = _decoder(spec.datatype, depth).decode(text)
        else:
            values = _numbers(bytes(text), depth, math.prod(shape), spec)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"input {spec.name!r}: data is not of {spec.datatype}: {error}") from None
    except RecursionError:
        raise MalformedRequestError(f"input {spec.name!r}: data is nested deeper than its shape") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequestError(
            f"input {spec.name!r}: data is not JSON: {json_problem(error, text)}"
        ) from None
    return _array(values, nested, shape, spec)


def is_costly(text: bytes) -> bool:
    """Say whether JSON has so many numbers with an exponent that reading them would keep an event loop too long.

    Text in it that only looks like them counts too.
    """
    if text.count(b"e") + text.count(b"E") <= MANY_EXPONENTS:
        return False
    return sum(map(text.count, _EXPONENTS)) > MANY_EXPONENTS


def _numbers(text: bytes, depth: int, count: int, spec: InputWire) -> list[Any]:
    """Return numbers, nested or not, from JSON that is known to be well formed.

    The quick decoder reads most numbers in 20 ns, but those at the ends of the range, such as ``9e-324``, in up to
    7 µs. So nothing is read that has another number of elements than it should, and where there are many exponents
    each number is read by itself: with ``float``, in 0.5 µs at the most.
    """
    # Well-formed lists of so many numbers have so many commas, however they are nested.
    found = text.count(b",") + 1
    exponents = 0 if spec.dtype.kind != "f" else text.count(b"e") + text.count(b"E")
    if found != count and (found >= WORTH_FINER_WORDS or exponents >= FEW_EXPONENTS):
        raise MalformedRequestError(
            f"input {spec.name!r}: got {found} elements, expected {count} for its shape"
        )
    if exponents < FEW_EXPONENTS:
        return cast(list[Any], _decoder(spec.datatype, depth).decode(text))
    values: list[Any] = _careful_decoder(depth).decode(text)
    level = values
    for _ in range(depth - 1):
        level = [inner for value in level for inner in value]
    for kind in set(map(type, level)) - {int, float}:
        raise MalformedRequestError(
            f"input {spec.name!r}: data is not of {spec.datatype}: got {kind.__name__}, expected numbers"
        )
    return values


def json_problem(error: Exception, text: memoryview) -> str:
    """Return what is wrong with JSON in words; numbers that JSON does not have are named."""
    message = str(error).removeprefix("JSON is malformed: ")
    if message == _CUT_SHORT:
        return _why_cut_short(bytes(text))
    position = _POSITION.search(message)
    if position is not None:
        at = int(position[1])
        near = bytes(text[max(0, at - 1) : at + 10])
        if any(near.startswith(word) or near[1:].startswith(word) for word in _NOT_FINITE):
            return f"got NaN or an infinity at byte {at}, expected finite numbers (or binary data)"
    return message if isinstance(error, msgspec.DecodeError) else "got text that is not UTF-8, expected UTF-8"


def body_problem(error: Exception, body: bytes) -> str:
    """Return what is wrong with a body of JSON, in words; what they repeat of it is cut short."""
    if isinstance(error, RecursionError):
        return "the request's JSON is nested too deeply, expected a few levels"
    if not isinstance(error, msgspec.ValidationError):
        return f"the request is not JSON: {json_problem(error, memoryview(body))}"
    words = f"the request is not as the protocol says: {error}"
    return words if len(words) <= _MOST_CHARACTERS else f"{words[: _MOST_CHARACTERS - 3]}..."


def _why_cut_short(text: bytes) -> str:
    """Return what is missing in JSON that the decoder takes for cut short."""
    if not text.strip():
        return "got nothing, expected an object"
    # The decoder looks for the other half of a pair beyond the end of the text's string.
    for half in _HALF.finditer(text):
        if half["escape"]:
            return f"got half of a surrogate pair at byte {half.start()}, expected text that is Unicode"
    return "got text that is cut short, expected all of it"


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
def _careful_decoder(depth: int) -> msgspec.json.Decoder[Any]:
    """Return a decoder of lists of anything; numbers with a fraction or an exponent are read by ``float``."""
    element: Any = Any
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element, float_hook=float)


@cache
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    element: Any = _OTHERS.get(datatype) or _INTEGERS.get(datatype, float)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)
