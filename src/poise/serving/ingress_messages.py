"""What a cell's process and its ingress processes say to each other: msgpack with a schema, never tensors.

A packet holds one message or several. A message longer than a packet goes in parts. What an ingress has to know of the
services lies in a memory file, which comes with the files of their arenas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from poise.domain.job import RefusalReason
from poise.errors import InternalError
from poise.ingress.child_end import MAX_PACKET_BYTES
from poise.ingress.guard import Token
from poise.ingress.limits import Limits
from poise.protocol.wire import ServiceWire
from poise.scheduling.commands import Answer
from poise.serving.arena import ArenaLayout
from poise.serving.server_file import TlsFiles

PART_BYTES = MAX_PACKET_BYTES - 1024
MAX_WHOLE_BYTES = 64 * 2**20
"""No message in parts is longer."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of what travels on the socket."""


class Part(_Message, frozen=True, tag="part"):
    """A part of a packet that is too long for one."""

    data: bytes
    last: bool


class RouteTold(msgspec.Struct, frozen=True, array_like=True):
    """A route of the server's, as ``Route``."""

    method: str
    pattern: str
    changes_state: bool
    admin: bool


class IngressStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that an ingress process needs to know but the services. ``labels``: whether answers are kept for labels."""

    limits: Limits
    tokens: tuple[Token, ...] | None
    origins: tuple[str, ...]
    tls: TlsFiles | None
    routes: tuple[RouteTold, ...]
    labels: bool
    log_level: str
    log_json: bool


class ServiceTold(msgspec.Struct, frozen=True):
    """A service. ``gate`` is its cell's number, which no other ever has; its arena is mapped as ``layout`` says.

    The ingress has the rows from ``first_row`` on, ``rows`` of them.
    ``closed``: it has no arena any more. ``labels`` are those of the modality sets.
    """

    gate: int
    name: str
    wire: ServiceWire
    layout: ArenaLayout
    first_row: int
    rows: int
    closed: bool
    labels: dict[int, str]
    padded: bool


# To an ingress


class JobAnswered(_Message, frozen=True, tag="answered"):
    """A job's outputs are in its rows, and nobody else touches these any more."""

    number: int
    answer: Answer


class JobRefused(_Message, frozen=True, tag="refused"):
    """A job gets no answer; nobody touches its rows any more."""

    number: int
    reason: RefusalReason
    detail: str


class JobFailed(_Message, frozen=True, tag="failed"):
    """A job met a fault of ours; nobody touches its rows any more."""

    number: int


class Replied(_Message, frozen=True, tag="replied"):
    """The reply to another request than of inference."""

    number: int
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    close: bool


class Services(_Message, frozen=True, tag="services"):
    """The services changed; the files that come with this say to what."""


class Renew(_Message, frozen=True, tag="renew"):
    """Let in whoever has these tokens from now on, and read the files of TLS again."""

    tokens: tuple[Token, ...] | None


class Finish(_Message, frozen=True, tag="finish"):
    """Take no more connections, see the replies off, for so many seconds at most, and end."""

    take_limit_s: float


class Drain(_Message, frozen=True, tag="drain"):
    """Say when each request that waits for its reply now has one."""


ToIngress = JobAnswered | JobRefused | JobFailed | Replied | Services | Renew | Drain | Finish | Part


# From an ingress


class Listening(_Message, frozen=True, tag="listening"):
    """Connections are taken."""


class JobPlaced(_Message, frozen=True, tag="placed"):
    """A job whose tensors are in rows. Units: seconds; ``arrival_s`` on the clock ``time.monotonic``."""

    number: int
    gate: int
    first_row: int
    items: int
    available: int
    slo_class: str
    arrival_s: float
    deadline_s: float
    accuracy_floor: float
    priority: int
    bucket: int


class JobTurnedAway(_Message, frozen=True, tag="turned_away"):
    """A job for which the ingress has no rows."""

    gate: int
    slo_class: str
    items: int


class JobGivenUp(_Message, frozen=True, tag="given_up"):
    """The client of a job is gone."""

    number: int


class LabelsComing(_Message, frozen=True, tag="labels_coming"):
    """A job's answer is to be kept for its labels."""

    number: int
    request_id: str
    sender: str


class Asked(_Message, frozen=True, tag="asked"):
    """Another request than of inference."""

    number: int
    method: str
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Counted(_Message, frozen=True, tag="counted"):
    """What was counted since the last time: requests by route and status; and what there is now."""

    requests: tuple[tuple[str, int, int], ...]
    connections_opened: int
    connections_refused: int
    connections: int
    bodies_bytes: int


class Drained(_Message, frozen=True, tag="drained"):
    """Each request that waited for its reply at ``Drain`` has one."""


FromIngress = (
    Drained | Listening | JobPlaced | JobTurnedAway | JobGivenUp | LabelsComing | Asked | Counted | Part
)


def _of_type(value: Any) -> str:
    return str(np.dtype(value).str)


def _to_type(_: type, text: Any) -> Any:
    return np.dtype(text)


M = TypeVar("M", ToIngress, FromIngress)

_encoder = msgspec.msgpack.Encoder(enc_hook=_of_type)
_start = msgspec.msgpack.Decoder(IngressStart)
_services = msgspec.msgpack.Decoder(tuple[ServiceTold, ...], dec_hook=_to_type)


def encode_start(start: IngressStart) -> bytes:
    """Return the bytes of the start of an ingress process."""
    return _encoder.encode(start)


def decode_start(data: bytes) -> IngressStart:
    """Return the start of an ingress process."""
    return _start.decode(data)


def encode_services(services: Sequence[ServiceTold]) -> bytes:
    """Return the bytes of what an ingress has to know of the services."""
    return _encoder.encode(services)


def decode_services(data: bytes) -> tuple[ServiceTold, ...]:
    """Return what an ingress has to know of the services."""
    return _services.decode(data)


def packets(messages: Sequence[ToIngress | FromIngress]) -> Iterator[bytes]:
    """Yield some messages as packets, as few as will do."""
    data = _encoder.encode(messages)
    if len(data) <= MAX_PACKET_BYTES:
        yield data
    elif len(messages) > 1:
        half = len(messages) // 2
        yield from packets(messages[:half])
        yield from packets(messages[half:])
    else:
        for at in range(0, len(data), PART_BYTES):
            yield _encoder.encode([Part(data[at : at + PART_BYTES], at + PART_BYTES >= len(data))])


class Unpacker(Generic[M]):
    """Turns packets of one end into messages. ``kind`` is the union of what that end says."""

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[list[M]] = msgspec.msgpack.Decoder(list[kind])
        self._parts: list[bytes] = []

    def take(self, data: bytes) -> list[M]:
        """Return the messages of a packet; none where it is a part, but the last.

        Raises:
            InternalError: it is not of this schema.
        """
        messages = self._decoded(data)
        if len(messages) == 1 and isinstance(messages[0], Part):
            part = messages[0]
            self._parts.append(part.data)
            if sum(map(len, self._parts)) > MAX_WHOLE_BYTES:
                raise InternalError(f"a message in parts is longer than {MAX_WHOLE_BYTES} bytes")
            if not part.last:
                return []
            whole, self._parts = b"".join(self._parts), []
            messages = self._decoded(whole)
        return messages

    def _decoded(self, data: bytes) -> list[M]:
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InternalError(f"a packet of an ingress does not decode: {error}") from None
