"""Compressed bodies, inflated a step at a time beside the event loop; what they become is counted before it is there.

A body of 60 KB may become 64 MiB. So the bytes of each step are taken from what all bodies may have at once, and given
back with the body.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from poise.errors import QueueFullError
from poise.ingress.decoding import LARGE_JSON_BYTES, LargeJson
from poise.ingress.json_room import Room
from poise.ingress.routes import Bytes
from poise.protocol.compression import Encoding, Inflater

FIRST_STEP_BYTES = 64 * 2**10
STEP_BYTES = 2**20
"""Some 4 ms of a thread: whoever sends little waits no longer for those who send much."""
THREADS = 2


class Bodies(Protocol):
    """What all bodies may have at once."""

    def take_body(self, size: int) -> bool:
        """Take so many bytes; say whether they were there."""

    def give_body(self, size: int) -> None:
        """Give bytes back."""


class Share:
    """The bytes that one request has taken beyond its body as sent. ``bodies`` None: nothing is counted."""

    def __init__(self, bodies: Bodies | None) -> None:
        self._bodies = bodies
        self._taken_bytes = 0

    def grow(self, size: int) -> None:
        """Take bytes.

        Raises:
            QueueFullError: there are not so many.
        """
        if self._bodies is None:
            return
        if not self._bodies.take_body(size):
            raise QueueFullError("too many bytes are on their way in")
        self._taken_bytes += size

    def shrink(self, size: int | None = None) -> None:
        """Give bytes back; None: all."""
        if self._bodies is not None:
            size = self._taken_bytes if size is None else size
            self._taken_bytes -= size
            self._bodies.give_body(size)


class Inflating:
    """Inflates bodies in two threads of its own. Belongs to the event loop's thread."""

    def __init__(self, large_json: LargeJson) -> None:
        self._large_json = large_json
        self._threads = ThreadPoolExecutor(THREADS, "poise-inflate")  # started when there is something to do

    async def inflated(self, encoding: Encoding, body: Bytes, limit: int, share: Share) -> Bytes:
        """Return a body's content, of ``limit`` bytes at most; ``share`` has grown by as much.

        Raises:
            RequestError: it is larger, damaged, or more than may be on its way in.
        """
        run = asyncio.get_running_loop().run_in_executor
        inflater = Inflater(encoding, body, limit)
        pieces: list[bytes] = []
        length, step = 0, FIRST_STEP_BYTES
        room: memoryview | None = None
        while not inflater.complete:
            share.grow(step)
            if room is None:
                pieces.append(await run(self._threads, inflater.piece, step))
                came = len(pieces[-1])
            else:
                assert isinstance(room.obj, Room)
                came = await run(self._threads, _piece_to, room.obj, length, inflater, step)
            share.shrink(step - came)
            length, step = length + came, STEP_BYTES
            if pieces and length > LARGE_JSON_BYTES:
                # Memory of a file of its own goes back to the system. What is never written of it costs nothing.
                room = self._large_json.room_for(limit)
                if room is not None:
                    room[:length] = b"".join(pieces)
                    pieces = []
        return b"".join(pieces) if room is None else room[:length]


def _piece_to(room: Room, at: int, inflater: Inflater, most: int) -> int:
    """Inflate a piece into a room's file; return its length. It holds the room, as ``decoding`` does and why."""
    piece = inflater.piece(most)
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(room.fd, rest, at)
        at, rest = at + written, rest[written:]
    return len(piece)
