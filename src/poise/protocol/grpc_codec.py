"""Inference over gRPC: from the bytes of a ``ModelInferRequest`` to a checked value, and from an answer to bytes.

The tensors of a message in ``raw_input_contents`` are views of its bytes: they are cut out before protobuf sees the
rest, which would copy them twice. In an answer they are put behind what protobuf wrote for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from poise.errors import MalformedRequestError, TooLargeError
from poise.protocol import inference_pb2 as pb
from poise.protocol.answers import answer_parameters
from poise.protocol.elements import from_bytes, from_strings, to_bytes
from poise.protocol.requests import (
    InferRequest,
    InferTensor,
    Parameters,
    ReplyTerms,
    check_input,
    check_output,
    check_some,
    infer_request,
)
from poise.protocol.wire import VERSION, Array, InputWire, ServiceWire
from poise.scheduling.commands import Answer

HEAD_BYTES = 2**19
"""What a message may hold beside ``raw_input_contents``: protobuf takes it apart in one go, and all others wait."""
FIELDS = 1024
"""How many fields a message may have, each element of a list counted."""
CHUNK = 2**14
"""How many numbers of typed contents are read at a time."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_RAW_INPUT = pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _BYTES
_RAW_OUTPUT = bytes([pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | _BYTES])
_NO_PARAMETERS = Parameters()

CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Which list of ``InferTensorContents`` a datatype's elements stand in; others have raw contents only."""


class InferMessage(msgspec.Struct, frozen=True):
    """A ``ModelInferRequest`` as it came. ``raw``: its ``raw_input_contents``, views of the message's bytes."""

    message: pb.ModelInferRequest
    raw: Sequence[memoryview]


def parse_infer(data: bytes, *, tensors: int = FIELDS) -> InferMessage:
    """Take a message apart; ``tensors``: how many inputs it may have.

    Raises:
        MalformedRequestError: it is not a ``ModelInferRequest``.
        TooLargeError: too many inputs, or too much beside ``raw_input_contents``.
    """
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    try:
        for key, field, content in _fields(memoryview(data)):
            if key == _RAW_INPUT:
                raw.append(content)
            else:
                rest.append(field)
        if len(raw) > tensors:
            raise TooLargeError(f"got {len(raw)} raw_input_contents, expected at most {tensors}")
        if sum(map(len, rest)) > HEAD_BYTES:
            raise TooLargeError(
                f"got more than {HEAD_BYTES} bytes beside raw_input_contents, expected tensors in raw_input_contents"
            )
        message = pb.ModelInferRequest.FromString(b"".join(rest))
    except (DecodeError, IndexError):
        raise MalformedRequestError("the message is damaged, expected a ModelInferRequest") from None
    if len(message.inputs) > tensors:
        raise TooLargeError(f"got {len(message.inputs)} inputs, expected at most {tensors}")
    return InferMessage(message, raw)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield each field of a message: its key, its bytes, and of those the content where it has a length."""
    at, end, count = 0, len(data), 0
    while at < end:
        count += 1
        if count > FIELDS:
            raise TooLargeError(f"got more than {FIELDS} fields in a message, expected fewer")
        key, content = _varint(data, at)
        kind = key & 7
        if kind == _BYTES:
            size, content = _varint(data, content)
            after = content + size
        elif kind == _VARINT:
            _, after = _varint(data, content)
        elif kind == _FIXED64:
            after = content + 8
        elif kind == _FIXED32:
            after = content + 4
        else:
            raise DecodeError  # groups, which no message of ours has
        if after > end:
            raise DecodeError
        yield key, data[at:after], data[content:after]
        at = after


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
    raise DecodeError


def infer_request_of(infer: InferMessage, wire: ServiceWire, limit_s: float | None = None) -> InferRequest:
    """Return the request of a message; ``limit_s``: the client waits no longer than so many seconds.

    Raises:
        MalformedRequestError: anything that is not as the protocol or the service says.
        TooLargeError: more items than the server can ever hold.
    """
    message = infer.message
    parameters = _parameters(message.parameters)
    tensors = _tensors(infer, wire)
    return infer_request(
        tensors, parameters, _outputs(message, wire), message.id or None, wire, limit_s=limit_s
    )


def _parameters(given: Mapping[str, pb.InferParameter]) -> Parameters:
    if not given:
        return _NO_PARAMETERS
    found = {}
    for name in Parameters.__struct_fields__:
        if name in given:
            kind = given[name].WhichOneof("parameter_choice")
            found[name] = None if kind is None else getattr(given[name], kind)
    try:
        return msgspec.convert(found, Parameters)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"a parameter is not as the protocol says: {error}") from None


def _tensors(infer: InferMessage, wire: ServiceWire) -> tuple[InferTensor, ...]:
    inputs, raw = infer.message.inputs, infer.raw
    check_some(len(inputs), wire)
    if raw and len(raw) != len(inputs):
        raise MalformedRequestError(
            f"got {len(raw)} raw_input_contents, expected {len(inputs)}, one for each input, or none"
        )
    found: dict[str, InferTensor] = {}
    for number, tensor in enumerate(inputs):
        shape = tuple(tensor.shape)
        spec = check_input(tensor.name, tensor.datatype, shape, found, wire)
        if "shared_memory_region" in tensor.parameters:
            raise MalformedRequestError(f"input {spec.name!r}: shared memory is not offered, expected data")
        if not raw:
            array = _typed(tensor, shape, spec)
        elif tensor.HasField("contents"):
            raise MalformedRequestError(
                f"input {spec.name!r}: got contents and raw_input_contents, expected one"
            )
        else:
            array = from_bytes(raw[number], shape, spec)
        found[spec.name] = InferTensor(spec, array)
    return tuple(found.values())


def _typed(tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], spec: InputWire) -> Array:
    wanted = CONTENTS.get(spec.datatype)
    if wanted is None:
        raise MalformedRequestError(
            f"input {spec.name!r}: {spec.datatype} has no typed contents, expected raw_input_contents"
        )
    for field, _ in tensor.contents.ListFields():
        if field.name != wanted:
            raise MalformedRequestError(f"input {spec.name!r}: got {field.name}, expected {wanted}")
    values = getattr(tensor.contents, wanted)
    count = math.prod(shape)
    if len(values) != count:
        raise MalformedRequestError(
            f"input {spec.name!r}: got {len(values)} elements, expected {count} for its shape"
        )
    if spec.datatype == "BYTES":
        return from_strings(values[:], shape, spec)
    array: Array = np.empty(count, spec.dtype)
    try:
        for at in range(0, count, CHUNK):  # others get their turn in between, as this is a thread's work
            array[at : at + CHUNK] = values[at : at + CHUNK]
    except OverflowError:
        raise MalformedRequestError(
            f"input {spec.name!r}: a number is out of range, expected numbers of {spec.datatype}"
        ) from None
    return array.reshape(shape)


def _outputs(message: pb.ModelInferRequest, wire: ServiceWire) -> tuple[tuple[str, bool], ...]:
    if not message.outputs:
        return tuple((name, True) for name in wire.outputs)
    found: dict[str, bool] = {}
    for output in message.outputs:
        check_output(output.name, found, wire)
        if "classification" in output.parameters or "shared_memory_region" in output.parameters:
            raise MalformedRequestError(
                f"output {output.name!r}: classification and shared memory are not offered, expected neither"
            )
        found[output.name] = True
    return tuple(found.items())


def encode_infer_answer(
    terms: ReplyTerms,
    answer: Answer,
    outputs: Mapping[str, Array],
    wire: ServiceWire,
    label: Callable[[int], str],
) -> bytes:
    """Return the bytes of a ``ModelInferResponse``."""
    head = pb.ModelInferResponse(model_name=wire.name, model_version=VERSION, id=terms.id or "")
    for name, value in answer_parameters(answer, label).items():
        _set(head.parameters[name], value)
    parts: list[bytes | memoryview] = [b""]
    for name, _ in terms.outputs:
        array = outputs[name]
        head.outputs.add(name=name, datatype=wire.outputs[name].datatype, shape=array.shape)
        content = to_bytes(array, wire.outputs[name])
        parts += (_RAW_OUTPUT, _varint_of(len(content)), content)
    parts[0] = head.SerializeToString()
    return b"".join(parts)


def _set(parameter: pb.InferParameter, value: Any) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _varint_of(value: int) -> bytes:
    """Return a number as protobuf writes lengths."""
    return bytes(_septets(value))


def _septets(value: int) -> Iterable[int]:
    while value >= 0x80:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
