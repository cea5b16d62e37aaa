"""A request's tensors and terms, checked against a service, whatever protocol they came by.

Everything a client may get wrong ends as a ``MalformedRequestError`` that names the thing and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np

from poise.domain.datatypes import NUMPY_TYPE
from poise.domain.service import SLOClass, length_key
from poise.errors import MalformedRequestError, TooLargeError
from poise.protocol.wire import LENGTH, Array, InputWire, ServiceWire

SHORTEST_S = 1e-6
"""What a job has to its deadline at least, also if its client has given it up already."""

MOST_ID_CHARACTERS = 1000
HIGHEST_PRIORITY = 2**31 - 1

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Parameters(msgspec.Struct, frozen=True):
    """What a request may ask for beside its tensors, under the names of the protocol's ``parameters``.

    Units: ``timeout`` in microseconds; 0 is none, as the protocol says. ``sequence_id``: requests of one go to one
    state of the model; 0 and the empty text are none, and any other is refused.
    """

    timeout: Int64 | None = None
    priority: Int64 | None = None
    sequence_id: int | str | None = None
    poise_class: str | None = None
    poise_deadline_ms: float | None = None
    poise_accuracy_floor: float | None = None


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


def infer_request(
    tensors: Sequence[InferTensor],
    parameters: Parameters,
    outputs: tuple[tuple[str, bool], ...],
    request_id: str | None,
    wire: ServiceWire,
    *,
    limit_s: float | None = None,
) -> InferRequest:
    """Return the request of some tensors, each checked by ``check_input`` before.

    ``limit_s``: the client waits no longer than so many seconds.

    Raises:
        MalformedRequestError: a modality that is there in part, parameters that the service does not allow, or an id
            that is too long.
    """
    _check_terms(request_id, parameters)
    available = _available(tensors, wire)
    name = parameters.poise_class if parameters.poise_class is not None else wire.default_class
    slo_class = wire.classes.get(name)
    if slo_class is None:
        raise MalformedRequestError(
            f"parameter poise_class: got {shown(name)}, expected {one_of(wire.classes)}"
        )
    deadline_s = _deadline_s(parameters, slo_class)
    own_terms = parameters.poise_accuracy_floor is not None or available != wire.all_modalities
    return InferRequest(
        items=len(tensors[0].array),
        available=available,
        tensors=(*tensors, *_lengths(tensors)),
        slo_class=name,
        deadline_s=deadline_s if limit_s is None else min(deadline_s, max(limit_s, SHORTEST_S)),
        accuracy_floor=_floor(parameters, slo_class),
        priority=_priority(parameters),
        reply=ReplyTerms(request_id, outputs, own_terms),
    )


def check_input(
    name: str, datatype: str, shape: tuple[int, ...], before: Mapping[str, InferTensor], wire: ServiceWire
) -> InputWire:
    """Return the service's side of an input. ``before``: the inputs of the same request that came before it.

    Raises:
        MalformedRequestError: no such input, or not its datatype or shape.
        TooLargeError: more items than the server can ever hold.
    """
    spec = wire.inputs.get(name)
    if spec is None:
        raise MalformedRequestError(f"inputs: got {shown(name)}, expected {one_of(wire.inputs)}")
    if name in before:
        raise MalformedRequestError(f"input {name!r}: got it twice, expected each input once")
    if datatype != spec.datatype:
        raise MalformedRequestError(
            f"input {name!r}: got datatype {shown(datatype)}, expected {spec.datatype}"
        )
    _check_shape(shape, spec)
    items = shape[0]
    first = next(iter(before.values()), None)
    if first is not None and len(first.array) != items:
        raise MalformedRequestError(
            f"input {name!r}: got {items} items, expected {len(first.array)} as in the inputs before it"
        )
    if items > wire.max_items:
        raise TooLargeError(f"got {items} items, expected at most {wire.max_items} in one request")
    return spec


def check_some(count: int, wire: ServiceWire) -> None:
    """Refuse a request without inputs.

    Raises:
        MalformedRequestError: it has none.
    """
    if count == 0:
        raise MalformedRequestError(f"inputs: got none, expected the inputs of {one_of(wire.modalities)}")


def check_count(count: int, most: int) -> None:
    """Refuse a request with too many inputs.

    Raises:
        TooLargeError: it has more than ``most``.
    """
    if count > most:
        raise TooLargeError(f"got {count} inputs, expected at most {most}")


def check_output(name: str, before: Mapping[str, bool], wire: ServiceWire) -> None:
    """Refuse an output that a request may not ask for. ``before``: those that it asked for before.

    Raises:
        MalformedRequestError: no such output, or one asked for twice.
    """
    if name not in wire.outputs:
        raise MalformedRequestError(f"outputs: got {shown(name)}, expected {one_of(wire.outputs)}")
    if name in before:
        raise MalformedRequestError(f"output {name!r}: got it twice, expected each output once")


def shown(text: str) -> str:
    """Return a client's own text for an error: quoted and cut short."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def one_of(names: Sequence[str] | dict[str, Any]) -> str:
    """Return what was expected, as words."""
    listed = ", ".join(names)
    return listed if len(names) == 1 else f"one of {listed}"


def _lengths(tensors: Sequence[InferTensor]) -> list[InferTensor]:
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


def _available(tensors: Sequence[InferTensor], wire: ServiceWire) -> int:
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


def _check_terms(request_id: str | None, parameters: Parameters) -> None:
    if request_id is not None and len(request_id) > MOST_ID_CHARACTERS:
        raise MalformedRequestError(
            f"id: got {len(request_id)} characters, expected at most {MOST_ID_CHARACTERS}"
        )
    if parameters.sequence_id not in (None, 0, ""):
        raise MalformedRequestError(
            f"parameter sequence_id: got {shown(str(parameters.sequence_id))}, expected 0 or none: sequences are not "
            "offered, every request stands alone"
        )


def _deadline_s(parameters: Parameters, slo_class: SLOClass) -> float:
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


def _floor(parameters: Parameters, slo_class: SLOClass) -> float:
    floor = parameters.poise_accuracy_floor
    if floor is None:
        return slo_class.accuracy_floor
    highest = slo_class.accuracy_floor if slo_class.max_floor is None else slo_class.max_floor
    if not 0 <= floor <= highest:
        raise MalformedRequestError(
            f"parameter poise_accuracy_floor: got {floor}, expected 0 to {highest}, the highest of the class"
        )
    return floor


def _priority(parameters: Parameters) -> int:
    priority = parameters.priority or 0
    if not 0 <= priority <= HIGHEST_PRIORITY:
        raise MalformedRequestError(
            f"parameter priority: got {priority}, expected a whole number from 0 to {HIGHEST_PRIORITY}"
        )
    return priority
