"""JSON that is too large for the event loop: a process of its own decodes and encodes it, one piece after another.

The process is started when it is first needed, and kept. Should it die, hang or answer nonsense, the request that it
had is refused, and another is started for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from poise.errors import InternalError, MalformedRequestError, NotReadyError, QueueFullError, TooLargeError
from poise.ingress.child import ChildProcess
from poise.ingress.gate import Answered, Gate
from poise.ingress.json_room import (
    ESCAPED_BYTES,
    NUMBER_BYTES,
    SLACK_BYTES,
    TENSOR_BYTES_PER_BYTE,
    Broken,
    Decode,
    Decoded,
    Encode,
    Encoded,
    Malformed,
    NotFinite,
    Order,
    Outcome,
    Place,
    PlacedOutput,
    Room,
    Told,
    TooLarge,
    aligned,
    array_at,
    decode_told,
    encode_told,
    put,
    take_outcome,
    view,
)
from poise.ingress.limits import Limits
from poise.ingress.routes import Bytes
from poise.ingress.slices import copy_in_slices
from poise.protocol.answers import NotFiniteError
from poise.protocol.elements import to_bytes
from poise.protocol.requests import InferRequest, InferTensor, ReplyTerms
from poise.protocol.wire import MAX_SLOTS_BYTES, Array, ServiceWire

LARGE_JSON_BYTES = 256 * 2**10
"""Longer JSON is decoded in the process; up to here the event loop does it, in some two milliseconds."""
LARGE_OUTPUT_ELEMENTS = 8 * 2**10
"""More numbers are encoded in the process."""
MAX_WAITING = 32
MAX_WAITING_BYTES = 512 * 2**20
"""So much may wait for the process; more is refused."""
PATIENCE_S = 5.0
PATIENCE_S_PER_BYTE = 1e-6
"""The process is taken for hung this long after an order, plus so much for each byte: it has little of a busy core."""
GIVEN_UP_S = 1.0
"""It is ended so long after the client of its order has left: others wait. At once would be dear: it starts anew."""
STOP_LIMIT_S = 2.0

log = logging.getLogger(__name__)


class JsonProcess(ChildProcess):
    """The process, from its start to its end. ``owner`` is told of its packets and of its end."""

    def __init__(self, owner: LargeJson) -> None:
        self._owner = owner
        super().__init__("poise.ingress.decoding_process", b"")

    def give(self, told: Told, room: Room) -> None:
        """Send an order; a process that cannot take it is ended."""
        self._send_with(encode_told(told), (room.fd,))

    def _packet(self, data: bytes) -> None:
        self._owner.told(self, decode_told(data))

    def _gone(self, status: int) -> None:
        self._owner.gone(self, status)


class _Lost(msgspec.Struct, frozen=True):
    """What became of an order that was not carried out, in words for the client."""

    words: str


class _Work:
    """One order, from the queue to its outcome."""

    __slots__ = ("done", "number", "order_place", "patience_s", "room", "weight_bytes")

    def __init__(self, number: int, room: Room, order_place: Place, weight_bytes: int) -> None:
        self.number = number
        self.room = room
        self.order_place = order_place
        self.weight_bytes = weight_bytes
        # A loss is a result too: an exception would hold the frames that wait for it, these hold the room, and only a
        # collection, which is seldom, would let go of it.
        self.done: asyncio.Future[Outcome | _Lost] = asyncio.get_running_loop().create_future()


class LargeJson:
    """Decodes and encodes large JSON elsewhere. Everything is called on the event loop.

    Units: ``patience_s`` in seconds, as ``PATIENCE_S``.
    """

    def __init__(self, max_waiting: int = MAX_WAITING, patience_s: float = PATIENCE_S) -> None:
        self._max_waiting = max_waiting
        self._patience_s = patience_s
        self._process: JsonProcess | None = None
        self._waiting: deque[_Work] = deque()
        self._waiting_bytes = 0
        self._current: _Work | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._next = 0
        self._ended: asyncio.Future[None] | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """The id of the process; None where there is none."""
        return None if self._process is None else self._process.pid

    def room_for(self, length: int) -> memoryview | None:
        """Return where the body of a request is best received; None where no such memory is to be had."""
        try:
            return memoryview(Room(_room_bytes(length)))[:length]
        except OSError as error:
            log.error("there is no room for a body of %d bytes: %s", length, error.strerror)
            return None

    async def decode(
        self, body: Bytes, header_length: int | None, wire: ServiceWire, limits: Limits
    ) -> InferRequest:
        """Return the request in a body, as ``decode_infer`` does; its tensors lie in memory of their own.

        Raises:
            RequestError: as ``decode_infer``; or too much waits, or the process was lost.
            InternalError: a fault of ours.
        """
        with self._reserved(len(body)):
            room = await _received(body)
        free = aligned(len(body))
        order = Decode(len(body), header_length, wire, limits.json_depth, limits.tensors, free)
        outcome = await self._outcome(room, order, free, len(body))
        if isinstance(outcome, Decoded):
            return _request(room, outcome)
        if isinstance(outcome, Malformed):
            raise MalformedRequestError(outcome.message)
        if isinstance(outcome, TooLarge):
            raise TooLargeError(outcome.message)
        raise InternalError("a request was not decoded")

    async def encode(self, terms: ReplyTerms, answered: Answered, gate: Gate) -> tuple[Bytes, ...]:
        """Return the JSON of an answer, and its binary outputs behind it, as ``encode_answer`` does.

        Raises:
            NotFiniteError: an output asked for in JSON holds a NaN or an infinity.
            RequestError: too much waits, or the process was lost.
            InternalError: a fault of ours.
        """
        asked = {name: answered.outputs[name] for name, _ in terms.outputs}
        size = sum(array.nbytes for array in asked.values())
        answer = answered.answer
        labels = {part.modalities: gate.label(part.modalities) for part in answer.parts}
        text_bytes = sum(map(_text_bytes, asked.values()))
        text_bytes += sum(
            part.items * (len(labels[part.modalities]) + len(part.variant) + 2) for part in answer.parts
        )
        room = _made(size + text_bytes + ESCAPED_BYTES * len(terms.id or "") + 2 * SLACK_BYTES)
        placed = []
        at = 0
        with self._reserved(size):
            for name, array in asked.items():
                at = aligned(at)
                await copy_in_slices(array_at(room, at, array.shape, array.dtype), array)
                placed.append(PlacedOutput(name, at, array.shape))
                at += array.nbytes
        free = aligned(at) + SLACK_BYTES
        order = Encode(terms, answer, tuple(placed), labels, gate.wire, free)
        outcome = await self._outcome(room, order, at, size)
        if isinstance(outcome, NotFinite):
            raise NotFiniteError(outcome.output)
        if not isinstance(outcome, Encoded):
            raise InternalError("an answer was not encoded")
        return view(room, outcome.text), *_binary(terms, answered.outputs, gate.wire)

    async def stop(self) -> None:
        """End the process; what waits is refused."""
        self._stopped = True
        process = self._process
        if process is not None:
            self._ended = asyncio.get_running_loop().create_future()
            process.kill()
            await asyncio.wait([self._ended], timeout=STOP_LIMIT_S)
        for work in (self._current, *self._waiting):
            if work is not None:
                self._fail(work, "the server has stopped")
        self._waiting.clear()

    # What the process says

    def told(self, process: JsonProcess, told: Told) -> None:
        """Take up that an order was carried out.

        Raises:
            InternalError: it was not given.
        """
        work = self._current
        if process is not self._process or work is None or told.number != work.number:
            raise InternalError(f"the JSON process speaks of order {told.number}, which it was not given")
        outcome = take_outcome(work.room, told.place)
        if isinstance(outcome, Broken):
            log.error("the JSON process met a fault: %s", outcome.message)
        self._finished()
        if not work.done.done():
            work.done.set_result(outcome)
        self._give()

    def gone(self, process: JsonProcess, status: int) -> None:
        """Take up the end of the process: what it had is refused, and another is started if there is more to do."""
        if process is not self._process:
            return
        self._process = None
        work = self._current
        if work is not None:
            self._finished()
            self._fail(work, "the process that reads and writes large JSON was lost")
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if not self._stopped:
            log.error("the JSON process ended with status %d", status)
            self._give()

    # The queue

    def _check_queue(self, size: int) -> None:
        if len(self._waiting) >= self._max_waiting or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise QueueFullError(
                "too much JSON waits to be read or written, expected less, or binary tensors"
            )

    @contextlib.contextmanager
    def _reserved(self, size: int) -> Iterator[None]:
        """Count what is being copied with what waits already."""
        self._check_queue(size)
        self._waiting_bytes += size
        try:
            yield
        finally:
            self._waiting_bytes -= size

    async def _outcome(self, room: Room, order: Order, at: int, weight_bytes: int) -> Outcome:
        self._check_queue(weight_bytes)
        if self._stopped:
            raise NotReadyError("the server has stopped")
        # An order lies where what becomes of it may overwrite it: it has been read by then.
        place = put(room, at, order)
        self._next += 1
        work = _Work(self._next, room, place, weight_bytes)
        self._waiting.append(work)
        self._waiting_bytes += weight_bytes
        self._give()
        try:
            outcome = await work.done
        except asyncio.CancelledError:
            self._given_up(work)
            raise
        if isinstance(outcome, _Lost):
            raise NotReadyError(outcome.words)
        return outcome

    def _give(self) -> None:
        """Give the process the next order, if it has none."""
        while self._current is None and self._waiting and not self._stopped:
            work = self._waiting.popleft()
            self._waiting_bytes -= work.weight_bytes
            if work.done.done():
                continue  # its client is gone
            if self._process is None:
                try:
                    self._process = JsonProcess(self)
                except OSError as error:  # no memory, no more processes
                    log.error("the JSON process cannot be started: %s", error.strerror)
                    self._fail(work, "large JSON cannot be read or written now")
                    continue
            self._current = work
            limit_s = self._patience_s + PATIENCE_S_PER_BYTE * work.weight_bytes
            self._limit = asyncio.get_running_loop().call_later(limit_s, self._hangs, self._process, limit_s)
            self._process.give(Told(work.number, work.order_place), work.room)

    def _given_up(self, work: _Work) -> None:
        """Take up that nobody waits for an order any more: those behind it wait for it a little longer at the most."""
        if work in self._waiting:
            self._waiting.remove(work)
            self._waiting_bytes -= work.weight_bytes
        elif work is self._current and self._limit is not None and self._process is not None:
            loop = asyncio.get_running_loop()
            if self._limit.when() > loop.time() + GIVEN_UP_S:
                self._limit.cancel()
                self._limit = loop.call_later(GIVEN_UP_S, self._hangs, self._process, GIVEN_UP_S)

    def _finished(self) -> None:
        self._current = None
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _hangs(self, process: JsonProcess, limit_s: float) -> None:
        log.error("the JSON process took longer than %.0f s for an order; it is ended", limit_s)
        process.kill()

    def _fail(self, work: _Work, words: str) -> None:
        if not work.done.done():
            work.done.set_result(_Lost(f"{words}, expected binary tensors, or another try later"))


def is_large(terms: ReplyTerms, outputs: Mapping[str, Array]) -> bool:
    """Say whether an answer holds so many numbers in JSON that the event loop had better not encode them."""
    return sum(outputs[name].size for name, binary in terms.outputs if not binary) > LARGE_OUTPUT_ELEMENTS


def _binary(terms: ReplyTerms, outputs: Mapping[str, Array], wire: ServiceWire) -> tuple[memoryview, ...]:
    return tuple(to_bytes(outputs[name], wire.outputs[name]) for name, binary in terms.outputs if binary)


def _text_bytes(array: Array) -> int:
    """Return how long an output may be in JSON, at the most."""
    return array.nbytes * ESCAPED_BYTES if array.dtype.kind == "V" else array.size * NUMBER_BYTES


def _room_bytes(length: int) -> int:
    # What is never written to is never there: the slots of BYTES may have room for much more than is in them.
    return aligned(length) * (1 + TENSOR_BYTES_PER_BYTE) + 2 * SLACK_BYTES + MAX_SLOTS_BYTES


def _made(size: int) -> Room:
    try:
        return Room(size)
    except OSError as error:
        log.error("there is no room for JSON of %d bytes: %s", size, error.strerror)
        raise NotReadyError("large JSON cannot be read or written now, expected another try later") from None


async def _received(body: Bytes) -> Room:
    """Return the room that a body was received into, or one that it was copied into, beside the event loop."""
    if isinstance(body, memoryview) and isinstance(body.obj, Room):
        return body.obj
    room = _made(_room_bytes(len(body)))
    await asyncio.to_thread(_write, room, body)
    return room


def _write(room: Room, body: Bytes) -> None:
    """Write a room's file whole; the interpreter is free meanwhile, which it would not be while memory is copied.

    It holds the room: who waited for it may be gone, and another file have the number of the room's by then.
    """
    rest = memoryview(body)
    at = 0
    while at < len(rest):
        at += os.pwrite(room.fd, rest[at:], at)


def _request(room: Room, decoded: Decoded) -> InferRequest:
    tensors = tuple(
        InferTensor(placed.wire, array_at(room, placed.at, placed.shape, placed.wire.dtype))
        for placed in decoded.tensors
    )
    fields = {name: getattr(decoded, name) for name in decoded.__struct_fields__ if name != "tensors"}
    return InferRequest(tensors=tensors, **fields)
