"""An infer request of the Open Inference Protocol to a checked value; JSON and Triton's binary tensor extension.

Everything a client may get wrong ends as a ``MalformedRequestError`` that names the thing and what was expected.
Unknown fields and parameters are let pass, as the protocol demands. Tensors in binary form are views of the
body: nothing is copied before the arena.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np

from poise.domain.datatypes import NUMPY_TYPE
from poise.domain.service import SLOClass, length_key
from poise.errors import MalformedRequestError, TooLargeError
from poise.protocol.json_tensors import decode_elements, json_problem
from poise.protocol.wire import LENGTH, Array, InputWire, ServiceWire

Body = bytes | bytearray | memoryview
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


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


class _Parameters(msgspec.Struct, frozen=True):
    timeout: Int64 | None = None
    priority: Int64 | None = None
    binary_data_output: bool = False
    poise_class: str | None = None
    poise_deadline_ms: float | None = None
    poise_accuracy_floor: float | None = None


class _Request(msgspec.Struct, frozen=True):
    inputs: tuple[_InputTensor, ...]
    id: str | None = None
    parameters: _Parameters | None = None
    outputs: tuple[_RequestedOutput, ...] | None = None


_decoder = msgspec.json.Decoder(_Request)
_NO_PARAMETERS = _Parameters()
_NO_TENSOR_PARAMETERS = _TensorParameters()


class InferTensor(msgspec.Struct, frozen=True):
    """What goes into an arena's tensor: an input as it came, or the lengths of its items, which travel beside it.

    Shapes: ``array`` is [items, *shape], its free axis as long as the client sent it.
    """

    wire: InputWire
    array: Array


class ReplyTerms(msgspec.Struct, frozen=True):
    """What a reply needs to know of its request; kept while the job waits, when the tensors are in the arena.

    ``outputs`` pairs names with whether they go out in binary form. ``own_terms``: the request asked for its own
    floor or left modalities out, so a floor that cannot be reached is the client's doing.
    """

    id: str | None
    outputs: tuple[tuple[str, bool], ...]
    own_terms: bool


class InferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that can be answered as it stands.

    Units: ``deadline_s`` is relative to arrival, in seconds.
    """

    items: int
    available: int
    tensors: tuple[InferTensor, ...]
    slo_class: str
    deadline_s: float
    accuracy_floor: float
    priority: int
    reply: ReplyTerms


def decode_infer(body: Body, header_length: int | None, wire: ServiceWire) -> InferRequest:
    """Return the request in a body; ``header_length`` is the JSON's length where binary tensors follow it.

    Raises:
        MalformedRequestError: anything that is not as the protocol or the service says.
        TooLargeError: more items than the server can ever hold.
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
    request = _decode_json(header)
    tensors = _tensors(request.inputs, binary, wire)
    items = len(tensors[0].array)
    available = _available(tensors, wire)
    parameters = request.parameters or _NO_PARAMETERS
    name = parameters.poise_class if parameters.poise_class is not None else wire.default_class
    slo_class = wire.classes.get(name)
    if slo_class is None:
        raise MalformedRequestError(
            f"parameter poise_class: got {shown(name)}, expected {one_of(wire.classes)}"
        )
    own_terms = parameters.poise_accuracy_floor is not None or available != wire.all_modalities
    return InferRequest(
        items=items,
        available=available,
        tensors=(*tensors, *_lengths(tensors)),
        slo_class=name,
        deadline_s=_deadline_s(parameters, slo_class),
        accuracy_floor=_floor(parameters, slo_class),
        priority=_priority(parameters),
        reply=ReplyTerms(
            request.id, _outputs(request.outputs, parameters.binary_data_output, wire), own_terms
        ),
    )


def shown(text: str) -> str:
    """Return a client's own text for an error: quoted and cut short."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def one_of(names: Sequence[str] | dict[str, Any]) -> str:
    """Return what was expected, as words."""
    listed = ", ".join(names)
    return listed if len(names) == 1 else f"one of {listed}"


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


def _tensors(
    given: tuple[_InputTensor, ...], binary: memoryview, wire: ServiceWire
) -> tuple[InferTensor, ...]:
    if not given:
        raise MalformedRequestError(f"inputs: got none, expected the inputs of {one_of(wire.modalities)}")
    offset = 0
    found: dict[str, InferTensor] = {}
    items = 0
    for tensor in given:
        spec = wire.inputs.get(tensor.name)
        if spec is None:
            raise MalformedRequestError(f"inputs: got {shown(tensor.name)}, expected {one_of(wire.inputs)}")
        if tensor.name in found:
            raise MalformedRequestError(f"input {tensor.name!r}: got it twice, expected each input once")
        if tensor.datatype != spec.datatype:
            raise MalformedRequestError(
                f"input {tensor.name!r}: got datatype {shown(tensor.datatype)}, expected {spec.datatype}"
            )
        _check_shape(tensor.shape, spec)
        if found and tensor.shape[0] != items:
            raise MalformedRequestError(
                f"input {tensor.name!r}: got {tensor.shape[0]} items, expected {items} as in the inputs before it"
            )
        items = tensor.shape[0]
        if items > wire.max_items:
            raise TooLargeError(f"got {items} items, expected at most {wire.max_items} in one request")
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
            array = _binary(binary, offset, size, tensor.shape, spec)
            offset += size
        found[tensor.name] = InferTensor(spec, array)
    if offset != len(binary):
        raise MalformedRequestError(
            f"got {len(binary)} bytes of binary data, expected {offset}, the sum of all binary_data_size"
        )
    return tuple(found.values())


def _lengths(tensors: tuple[InferTensor, ...]) -> list[InferTensor]:
    """Return how long the items are, for each tensor with a free axis."""
    found = []
    for tensor in tensors:
        if tensor.wire.free is not None:
            length = tensor.array.shape[tensor.wire.free + 1]
            lengths: Array = np.full(len(tensor.array), length, NUMPY_TYPE[LENGTH.datatype])
            found.append(InferTensor(_length_wire(tensor.wire), lengths))
    return found


@cache
def _length_wire(wire: InputWire) -> InputWire:
    return msgspec.structs.replace(
        wire,
        name=length_key(wire.name),
        datatype=LENGTH.datatype,
        dtype=NUMPY_TYPE[LENGTH.datatype],
        shape=LENGTH.shape,
        free=None,
        longest=0,
    )


def _check_shape(shape: tuple[int, ...], spec: InputWire) -> None:
    fits = len(shape) == len(spec.shape) + 1 and shape[0] >= 1
    if fits:
        for got, want in zip(shape[1:], spec.shape, strict=True):
            fits = fits and (got == want or (want == -1 and 1 <= got <= spec.longest))
    if not fits:
        sizes = ", ".join(str(size) for size in shape[:8]) + (", ..." if len(shape) > 8 else "")
        raise MalformedRequestError(
            f"input {spec.name!r}: got shape [{sizes}], expected {spec.expected} with n of at least 1"
        )


def _binary(binary: memoryview, offset: int, size: int, shape: tuple[int, ...], spec: InputWire) -> Array:
    expected = math.prod(shape) * spec.dtype.itemsize
    if size != expected:
        raise MalformedRequestError(
            f"input {spec.name!r}: got binary_data_size {size}, expected {expected} for its shape and datatype"
        )
    if offset + size > len(binary):
        raise MalformedRequestError(
            f"input {spec.name!r}: got {len(binary) - offset} bytes of binary data, expected {size}"
        )
    data = binary[offset : offset + size]
    if spec.datatype == "BOOL":
        # Any byte may come, but a numpy truth value that is neither 0 nor 1 is trouble later.
        truth: Array = np.frombuffer(data, np.uint8) != 0
        return truth.reshape(shape)
    return np.frombuffer(data, spec.dtype).reshape(shape)


def _available(tensors: tuple[InferTensor, ...], wire: ServiceWire) -> int:
    given = {tensor.wire.name for tensor in tensors}
    mask = 0
    for tensor in tensors:
        mask |= tensor.wire.bit
    if len(given) < len(wire.inputs):
        for modality, names in wire.modalities.items():
            there = [name for name in names if name in given]
            if there and len(there) < len(names):
                missing = ", ".join(name for name in names if name not in given)
                raise MalformedRequestError(
                    f"modality {modality!r}: got {', '.join(there)} without {missing}, expected all its inputs or none"
                )
    return mask


def _outputs(
    requested: tuple[_RequestedOutput, ...] | None, binary_by_default: bool, wire: ServiceWire
) -> tuple[tuple[str, bool], ...]:
    if not requested:
        return tuple((name, binary_by_default) for name in wire.outputs)
    found: dict[str, bool] = {}
    for output in requested:
        if output.name not in wire.outputs:
            raise MalformedRequestError(f"outputs: got {shown(output.name)}, expected {one_of(wire.outputs)}")
        if output.name in found:
            raise MalformedRequestError(f"output {output.name!r}: got it twice, expected each output once")
        parameters = output.parameters or _NO_TENSOR_PARAMETERS
        if parameters.classification is not None or parameters.shared_memory_region is not None:
            raise MalformedRequestError(
                f"output {output.name!r}: classification and shared memory are not offered, expected neither"
            )
        found[output.name] = binary_by_default if parameters.binary_data is None else parameters.binary_data
    return tuple(found.items())


def _deadline_s(parameters: _Parameters, slo_class: SLOClass) -> float:
    """Return the class's SLO, or a shorter deadline; a longer one is cut to the SLO."""
    deadline_s = slo_class.latency_slo_s
    if parameters.timeout is not None:
        if parameters.timeout < 0:
            raise MalformedRequestError(
                f"parameter timeout: got {parameters.timeout}, expected microseconds, or 0 for none"
            )
        if 0 < parameters.timeout < deadline_s * 1e6:
            deadline_s = parameters.timeout / 1e6
    given_ms = parameters.poise_deadline_ms
    if given_ms is not None:
        if not given_ms > 0:
            raise MalformedRequestError(
                f"parameter poise_deadline_ms: got {given_ms}, expected milliseconds above 0"
            )
        deadline_s = min(deadline_s, given_ms / 1e3)
    return deadline_s


def _floor(parameters: _Parameters, slo_class: SLOClass) -> float:
    floor = parameters.poise_accuracy_floor
    if floor is None:
        return slo_class.accuracy_floor
    highest = slo_class.accuracy_floor if slo_class.max_floor is None else slo_class.max_floor
    if not 0 <= floor <= highest:
        raise MalformedRequestError(
            f"parameter poise_accuracy_floor: got {floor}, expected 0 to {highest}, the highest of the class"
        )
    return floor


def _priority(parameters: _Parameters) -> int:
    priority = parameters.priority or 0
    if not 0 <= priority < 2**31:
        raise MalformedRequestError(
            f"parameter priority: got {priority}, expected 0 or a small whole number above"
        )
    return priority
