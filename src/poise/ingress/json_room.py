"""What the server and its JSON process share: memory for one piece of work, and the schema of what lies in it.

A *room* is a memory file without a name that both map. The body of a request is received into it, and the tensors in it
are written behind it, so neither is ever sent. An order lies in the room too, and so does what became of it; over the
socket goes only where. Pages that nobody touches cost nothing, so a room is as large as its content can ever be.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any

import msgspec
import numpy as np

from poise.errors import InternalError
from poise.protocol.requests import ReplyTerms
from poise.protocol.wire import Array, InputWire, ServiceWire
from poise.scheduling.commands import Answer

ALIGNMENT_BYTES = 64
SLACK_BYTES = 2**20
"""Left for an order and for what becomes of it, beside what grows with the content."""
TENSOR_BYTES_PER_BYTE = 8
"""The most that tensors grow over their JSON: eight bytes for ``0,`` and, with a free axis, a length for each item."""
NUMBER_BYTES = 26
"""The longest number in JSON, with the comma behind it."""
ESCAPED_BYTES = 6
"""The longest that JSON may make of a character."""


class Room(mmap.mmap):
    """A room, mapped. ``fd`` is its file; both go with the last thing that refers to the memory.

    Raises:
        OSError: no memory, or no more files.
    """

    fd: int

    def __new__(cls, size_bytes: int) -> Room:
        """Make a room that nobody else has. It belongs to this user, and its size is fixed."""
        fd = os.memfd_create("poise-json", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, size_bytes)
            # A mapped file that shrinks kills whoever touches it.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            room = super().__new__(cls, fd, size_bytes)
        except BaseException:
            os.close(fd)
            raise
        room.fd = fd
        return room

    def __del__(self) -> None:
        """Close the file; the mapping goes by itself."""
        os.close(self.fd)


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where bytes lie in a room."""

    at: int
    size: int


class _Order(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of what is asked for and of what becomes of it."""


class Decode(_Order, frozen=True, tag="decode"):
    """Decode the request in the first ``body_bytes`` bytes; tensors may be written from ``free`` on."""

    body_bytes: int
    header_length: int | None
    wire: ServiceWire
    json_depth: int
    most_tensors: int
    free: int


class PlacedTensor(msgspec.Struct, frozen=True):
    """A tensor in a room. Shapes: ``shape`` is the array's, items first."""

    wire: InputWire
    at: int
    shape: tuple[int, ...]


class Decoded(_Order, frozen=True, tag="decoded", kw_only=True):
    """An ``InferRequest`` whose tensors lie in the room."""

    items: int
    available: int
    tensors: tuple[PlacedTensor, ...]
    slo_class: str
    deadline_s: float
    accuracy_floor: float
    priority: int
    reply: ReplyTerms


class PlacedOutput(msgspec.Struct, frozen=True):
    """An output in a room. Shapes: ``shape`` is the array's, items first."""

    name: str
    at: int
    shape: tuple[int, ...]


class Encode(_Order, frozen=True, tag="encode"):
    """Encode an answer; its JSON may be written from ``free`` on. ``labels`` are those of its modality sets."""

    terms: ReplyTerms
    answer: Answer
    outputs: tuple[PlacedOutput, ...]
    labels: dict[int, str]
    wire: ServiceWire
    free: int


class Encoded(_Order, frozen=True, tag="encoded"):
    """The JSON of an answer."""

    text: Place


class Malformed(_Order, frozen=True, tag="malformed"):
    """The request is not as it should be, which is the client's fault."""

    message: str


class TooLarge(_Order, frozen=True, tag="too_large"):
    """The request is for more than there can be."""

    message: str


class NotFinite(_Order, frozen=True, tag="not_finite"):
    """An output holds a number that JSON does not have."""

    output: str


class Broken(_Order, frozen=True, tag="broken"):
    """A fault of ours. ``message`` is for the log."""

    message: str


Order = Decode | Encode
Outcome = Decoded | Encoded | Malformed | TooLarge | NotFinite | Broken


class Told(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The packet that goes with an order, and the one that comes back: which it is, and where it lies in the room."""

    number: int
    place: Place


def _of_type(value: Any) -> str:
    return str(np.dtype(value).str)


def _to_type(_: type, text: Any) -> Any:
    return np.dtype(text)


_encoder = msgspec.msgpack.Encoder(enc_hook=_of_type)
_order: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order, dec_hook=_to_type)
_outcome: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome, dec_hook=_to_type)
_told = msgspec.msgpack.Decoder(Told)


def put(room: mmap.mmap, at: int, value: Order | Outcome) -> Place:
    """Write an order, or what became of one, into a room from an offset on; return where it lies.

    Raises:
        InternalError: it does not fit.
    """
    data = _encoder.encode(value)
    if at + len(data) > len(room):
        raise InternalError(f"{len(data)} bytes do not fit into a room of {len(room)} at {at}")
    room[at : at + len(data)] = data
    return Place(at, len(data))


def take_order(room: mmap.mmap, place: Place) -> Order:
    """Return the order that lies somewhere in a room.

    Raises:
        InternalError: none does.
    """
    order: Order = _taken(_order, room, place)
    return order


def take_outcome(room: mmap.mmap, place: Place) -> Outcome:
    """Return what became of an order.

    Raises:
        InternalError: nothing of the kind lies there.
    """
    outcome: Outcome = _taken(_outcome, room, place)
    return outcome


def encode_told(told: Told) -> bytes:
    """Return the bytes of a packet."""
    return _encoder.encode(told)


def decode_told(data: bytes) -> Told:
    """Return a packet.

    Raises:
        InternalError: something else.
    """
    try:
        return _told.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"a packet does not decode: {error}") from None


def view(room: mmap.mmap, place: Place) -> memoryview:
    """Return bytes of a room.

    Raises:
        InternalError: they are not in it.
    """
    if min(place.at, place.size) < 0 or place.at + place.size > len(room):
        raise InternalError(f"{place.size} bytes at {place.at} are not in a room of {len(room)}")
    return memoryview(room)[place.at : place.at + place.size]


def array_at(room: mmap.mmap, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a tensor in a room.

    Raises:
        InternalError: it is not in it.
    """
    size = dtype.itemsize
    for length in shape:
        if length < 0:
            raise InternalError(f"a tensor in a room has shape {shape}")
        size *= length
    array: Array = np.frombuffer(view(room, Place(at, size)), dtype).reshape(shape)
    return array


def aligned(at: int) -> int:
    """Return the next offset where a tensor may lie."""
    return -(-at // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _taken(decoder: msgspec.msgpack.Decoder[Any], room: mmap.mmap, place: Place) -> Any:
    try:
        return decoder.decode(view(room, place))
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise InternalError(f"what lies in a room does not decode: {error}") from None
