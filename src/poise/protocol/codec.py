"""An infer request of the Open Inference Protocol to a checked value; JSON and Triton's binary tensor extension.

Everything a client may get wrong ends as a ``MalformedRequestError`` that names the thing and what was expected.
Unknown fields and parameters are let pass, as the protocol demands. Tensors in binary form are views of the
body: nothing is copied before the arena.
"""

from __future__ import annotations

import msgspec

from poise.errors import MalformedRequestError, TooLargeError
from poise.protocol.elements import check_size, from_bytes
from poise.protocol.json_structure import JSON_DEPTH, TENSORS, check_structure
from poise.protocol.json_tensors import decode_elements, json_problem
from poise.protocol.requests import (
    InferRequest,
    InferTensor,
    Int64,
    Parameters,
    ReplyTerms,
    check_count,
    check_input,
    check_output,
    check_some,
    infer_request,
    one_of,
    shown,
)
from poise.protocol.wire import ServiceWire

__all__ = [
    "Body",
    "InferRequest",
    "InferTensor",
    "ReplyTerms",
    "decode_id",
    "decode_infer",
    "one_of",
    "shown",
]

Body = bytes | bytearray | memoryview


class _TensorParameters(msgspec.Struct, frozen=True):
    binary_data_size: Int64 | None = None
    binary_data: bool | None = None
    classification: Int64 | None = None
    shared_memory_region: str | None = None


class _InputTensor(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[Int64, ...]
    parameters: _TensorParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class _RequestedOutput(msgspec.Struct, frozen=True):
    name: str
    parameters: _TensorParameters | None = None


class _Parameters(Parameters, frozen=True):
    binary_data_output: bool = False


class _Request(msgspec.Struct, frozen=True):
    inputs: tuple[_InputTensor, ...]
    id: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    outputs: tuple[_RequestedOutput, ...] | None = None


MAX_PARAMETERS_BYTES = 8 * 2**10
"""The same name may come again and again, each time with a number that takes 7 µs to read."""
_decoder = msgspec.json.Decoder(_Request)
_parameters_decoder = msgspec.json.Decoder(_Parameters | None)
_NO_PARAMETERS = _Parameters()
_NO_TENSOR_PARAMETERS = _TensorParameters()


def decode_infer(
    body: Body,
    header_length: int | None,
    wire: ServiceWire,
    *,
    json_depth: int = JSON_DEPTH,
    most_tensors: int = TENSORS,
) -> InferRequest:
    """Return the request in a body; ``header_length`` is the JSON's length where binary tensors follow it.

    Raises:
        MalformedRequestError: anything that is not as the protocol or the service says.
        TooLargeError: more items than the server can ever hold, or JSON that is nested deeper, or names more tensors,
            than a request may.
    """
    view = memoryview(body)
    if header_length is None:
        header, binary = view, view[len(view) :]
    elif 0 <= header_length <= len(view):
        header, binary = view[:header_length], view[header_length:]
    else:
        raise MalformedRequestError(
            f"Inference-Header-Content-Length: got {header_length}, expected 0 to {len(view)}, the length of the body"
        )
    check_structure(bytes(header), json_depth, most_tensors)
    request = _decode_json(header)
    check_count(len(request.inputs), most_tensors)
    tensors = _tensors(request.inputs, binary, wire)
    parameters = _parameters(request.parameters)
    outputs = _outputs(request.outputs, parameters.binary_data_output, wire)
    return infer_request(tensors, parameters, outputs, request.id, wire)


def decode_id(text: bytes) -> str | None:
    """Return the id in a request's JSON.

    Raises:
        MalformedRequestError: it is not a request's.
    """
    return _decode_json(memoryview(text)).id


def _decode_json(header: memoryview) -> _Request:
    try:
        return _decoder.decode(header)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"the request is not as the protocol says: {error}") from None
    except RecursionError:
        raise MalformedRequestError(
            "the request's JSON is nested too deeply, expected a few levels"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequestError(f"the request is not JSON: {json_problem(error, header)}") from None


def _parameters(raw: msgspec.Raw) -> _Parameters:
    text = memoryview(raw)
    if not text:
        return _NO_PARAMETERS
    if len(text) > MAX_PARAMETERS_BYTES:
        raise TooLargeError(
            f"parameters: got {len(text)} bytes of them, expected at most {MAX_PARAMETERS_BYTES}"
        )
    try:
        return _parameters_decoder.decode(text) or _NO_PARAMETERS
    except msgspec.ValidationError as error:
        words = str(error).replace("`$", "`$.parameters")
        if "`$" not in words:
            words += " - at `$.parameters`"
        raise MalformedRequestError(f"the request is not as the protocol says: {words}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequestError(f"the request is not JSON: {json_problem(error, text)}") from None


def _tensors(
    given: tuple[_InputTensor, ...], binary: memoryview, wire: ServiceWire
) -> tuple[InferTensor, ...]:
    check_some(len(given), wire)
    offset = 0
    found: dict[str, InferTensor] = {}
    for tensor in given:
        spec = check_input(tensor.name, tensor.datatype, tensor.shape, found, wire)
        parameters = tensor.parameters or _NO_TENSOR_PARAMETERS
        if parameters.shared_memory_region is not None:
            raise MalformedRequestError(f"input {tensor.name!r}: shared memory is not offered, expected data")
        if parameters.binary_data_size is None:
            array = decode_elements(tensor.data, tensor.shape, spec)
        else:
            if tensor.data:
                raise MalformedRequestError(
                    f"input {tensor.name!r}: got data and binary_data_size, expected one"
                )
            size = parameters.binary_data_size
            check_size(size, tensor.shape, spec)
            there = len(binary) - offset
            if size > there:
                raise MalformedRequestError(
                    f"input {spec.name!r}: got {there} bytes of binary data, expected {size}"
                )
            array = from_bytes(binary[offset : offset + size], tensor.shape, spec)
            offset += size
        found[tensor.name] = InferTensor(spec, array)
    if offset != len(binary):
        raise MalformedRequestError(
            f"got {len(binary)} bytes of binary data, expected {offset}, the sum of all binary_data_size"
        )
    return tuple(found.values())


def _outputs(
    requested: tuple[_RequestedOutput, ...] | None, binary_by_default: bool, wire: ServiceWire
) -> tuple[tuple[str, bool], ...]:
    if not requested:
        return tuple((name, binary_by_default) for name in wire.outputs)
    found: dict[str, bool] = {}
    for output in requested:
        check_output(output.name, found, wire)
        parameters = output.parameters or _NO_TENSOR_PARAMETERS
        if parameters.classification is not None or parameters.shared_memory_region is not None:
            raise MalformedRequestError(
                f"output {output.name!r}: classification and shared memory are not offered, expected neither"
            )
        found[output.name] = binary_by_default if parameters.binary_data is None else parameters.binary_data
    return tuple(found.items())
