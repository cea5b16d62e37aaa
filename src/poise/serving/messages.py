"""What the server and a worker say to each other: one message a packet, msgpack with a schema, never tensors.

The start of a worker travels in a sealed memory file, since a profile may be larger than a packet. Everything
after it is a few dozen bytes: tensors stay in the arena, and a batch names its rows as runs. How long each item is
lies in its row, so that a batch need not say at which bucket it is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import TypeVar

import msgspec

from poise.domain.profile import Profile
from poise.domain.service import Device, Service
from poise.errors import InternalError
from poise.serving.arena import ArenaLayout

MAX_MESSAGE_CHARACTERS = 2000

_RUN = Struct("<IIB")


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of what travels on the control socket."""


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a worker needs to know; ``folder`` is the service's file, which model paths are relative to."""

    folder: str
    service: Service
    profile: Profile
    variants: tuple[str, ...]
    threads: int
    device: Device
    layout: ArenaLayout


class Ready(_Message, frozen=True, tag="ready"):
    """Every resident variant is loaded and has answered once. Units: seconds, bytes."""

    load_s: float
    memory_bytes: int


class CannotStart(_Message, frozen=True, tag="cannot_start"):
    """A variant does not load; the worker ends. ``message`` is for the operator."""

    message: str


class Run(_Message, frozen=True, tag="run"):
    """Answer a batch; ``runs`` is read by ``unpack_runs``."""

    batch_id: int
    variant: str
    runs: bytes


class Done(_Message, frozen=True, tag="done"):
    """The batch's outputs are in its rows. Units: ``stage_s`` pairs stages with seconds."""

    batch_id: int
    stage_s: tuple[tuple[str, float], ...]


class Failed(_Message, frozen=True, tag="failed"):
    """The model raised, or answered in another shape than the service declares. For the log, not for clients."""

    batch_id: int
    message: str


class Stop(_Message, frozen=True, tag="stop"):
    """End after the present batch."""


ToWorker = Run | Stop
FromWorker = Ready | CannotStart | Done | Failed


class HostStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a host of emulated workers needs to know, but for the workers."""

    service: Service
    profile: Profile
    layout: ArenaLayout


class Take(_Message, frozen=True, tag="take"):
    """Be one worker more; ``Ready`` follows after the load times of its variants."""

    variants: tuple[str, ...]
    threads: int
    device: Device


class Drop(_Message, frozen=True, tag="drop"):
    """Be that worker no more, whatever it does; nothing follows."""


class Gone(_Message, frozen=True, tag="gone"):
    """The worker has ended, as ``Stop`` asked for."""


class ToHost(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message for one worker of a host."""

    worker_id: int
    message: Take | Run | Stop | Drop


FromHosted = Ready | CannotStart | Done | Failed | Gone


class FromHost(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message of one worker of a host."""

    worker_id: int
    message: FromHosted


M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_start = msgspec.msgpack.Decoder(Start)
_host_start = msgspec.msgpack.Decoder(HostStart)
_to_host = msgspec.msgpack.Decoder(ToHost)
_from_host = msgspec.msgpack.Decoder(FromHost)


def encode(message: Start | HostStart | ToWorker | FromWorker | ToHost | FromHost) -> bytes:
    """Return the bytes of a message."""
    return _encoder.encode(message)


def decode_start(data: bytes) -> Start:
    """Return the start of a worker.

    Raises:
        InternalError: not a message of this schema; likewise the other functions here.
    """
    return _decoded(_start, data, "start of a worker")


def decode_host_start(data: bytes) -> HostStart:
    """Return the start of a host."""
    return _decoded(_host_start, data, "start of a host")


def decode_to_worker(data: bytes) -> ToWorker:
    """Return a message sent to a worker."""
    return _decoded(_to_worker, data, "message to a worker")


def decode_from_worker(data: bytes) -> FromWorker:
    """Return a message sent by a worker."""
    return _decoded(_from_worker, data, "message from a worker")


def decode_to_host(data: bytes) -> ToHost:
    """Return a message sent to a host."""
    return _decoded(_to_host, data, "message to a host")


def decode_from_host(data: bytes) -> FromHost:
    """Return a message sent by a host."""
    return _decoded(_from_host, data, "message from a host")


def _decoded(decoder: msgspec.msgpack.Decoder[M], data: bytes, what: str) -> M:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"{what} does not decode: {error}") from None


def pack_runs(runs: Iterable[tuple[int, int, int]]) -> bytes:
    """Return runs of (first row, rows, modality mask) in nine bytes each; neighbours with one mask are joined."""
    packed = bytearray()
    first = count = mask = 0
    for start, length, modalities in runs:
        if count and start == first + count and modalities == mask:
            count += length
            continue
        if count:
            packed += _RUN.pack(first, count, mask)
        first, count, mask = start, length, modalities
    if count:
        packed += _RUN.pack(first, count, mask)
    return bytes(packed)


def unpack_runs(packed: bytes) -> Iterator[tuple[int, int, int]]:
    """Return the runs of (first row, rows, modality mask) that ``pack_runs`` packed."""
    return _RUN.iter_unpack(packed)
