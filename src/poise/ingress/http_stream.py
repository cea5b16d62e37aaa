"""A client's connection as a stream of bytes: what was read and waits, how fast is read and sent, and until when."""

from __future__ import annotations

import asyncio
import select
from enum import Enum, auto
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING

from poise.ingress.routes import Reply
from poise.protocol import status

if TYPE_CHECKING:
    from poise.ingress.http_server import HttpServer

HELD_BYTES = 64 * 2**10
"""So much that follows a request may wait for its reply; more is not read before."""
SMALL_BYTES = 64 * 2**10
"""Replies up to here go out in one piece."""
STEPS_AT_ONCE = 4
TURN_S = 0.001
"""After so many requests, or pieces of one, or so long, other connections get their turn. A request is not divided."""
LINGER_S = 5.0
"""How long a client may go on sending after the last reply."""

_PHRASES = {code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n".encode() for code in HTTPStatus}
_PHRASES[status.CLIENT_GONE] = b"HTTP/1.1 499 Client Closed Request\r\n"


class State(Enum):
    """What a connection waits for."""

    HEAD = auto()  # a request's head, or its rest
    BODY = auto()  # the rest of a body of known length
    CHUNKS = auto()  # a body in chunks
    REPLY = auto()  # the application
    DISCARDING = auto()  # the rest of a body that nobody wants
    CLOSED = auto()


class Stream(asyncio.BufferedProtocol):
    """One client's connection. ``deadline_s``: when the server gives it up, by the event loop's clock.

    What is held is bounded: nothing more is read while there is much of it, or while the client does not read.
    """

    __slots__ = (
        "_begun",
        "_held",
        "_paused",
        "_reading",
        "_resting",
        "_server",
        "_transport",
        "_unsent",
        "deadline_s",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._begun = False  # a head has begun to come in
        self._held = b""
        self._resting = False  # what is held is taken up at the next turn
        self._reading = True
        self._paused = False  # the client does not read
        self._unsent = 0
        self.deadline_s = inf

    def pause_writing(self) -> None:
        """The client does not read: give it some time, and read nothing more from it."""
        self._paused = True
        self._await_taking()
        self._flow()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def connected(self) -> bool:
        """Whether the connection was made."""
        return self._transport is not None

    @property
    def gone(self) -> bool:
        """Whether the client has left while nothing is read from it: the event loop does not look then."""
        if self._reading or self._transport is None or self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def _take_up_held(self) -> None:
        """Go on with what is held, as far as that is possible now."""

    def _hold(self, data: memoryview) -> None:
        """Put data behind what is held."""
        self._held += data
        self._flow()

    def _flow(self) -> None:
        """Read from the client as long as there is room for what it sends."""
        reading = not self._paused and len(self._held) <= HELD_BYTES
        transport = self._transport
        if reading is self._reading or transport is None or transport.is_closing():
            return
        self._reading = reading
        if reading:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _rest_soon(self) -> None:
        """Take up what is held at another turn of the event loop."""
        if not self._resting:
            self._resting = True
            asyncio.get_running_loop().call_soon(self._rest)

    def _rest(self) -> None:
        self._resting = False
        self._take_up_held()

    def _came(self, size: int) -> None:
        """Give a client that goes on sending the time that so many bytes may take."""
        limits, now_s = self._server.limits, self._server.now_s()
        self.deadline_s = min(self.deadline_s + size / limits.body_bytes_per_s, now_s + limits.body_s)

    def _await_head(self) -> None:
        self._begun = False
        if not self._paused:
            self.deadline_s = self._server.now_s() + self._server.limits.idle_s

    def _await_rest_of_head(self) -> None:
        """Give a head its time, once: not anew with each byte of it."""
        if not self._begun:
            self._begun = True
            self.deadline_s = self._server.now_s() + self._server.limits.head_s

    def _await_taking(self) -> None:
        """Give the client time to read some of what waits for it."""
        assert self._transport is not None
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline_s = self._server.now_s() + self._server.limits.take_s

    def _takes(self) -> bool:
        """Say whether the client has read enough since it was given time; give it some again then."""
        assert self._transport is not None
        left = self._transport.get_write_buffer_size()
        enough = self._server.limits.take_s * self._server.limits.body_bytes_per_s
        if left == 0 or self._unsent - left < enough:
            return False
        self._await_taking()
        return True

    def _send(self, reply: Reply, *, close: bool, head_only: bool) -> None:
        transport = self._transport
        assert transport is not None
        parts = reply.body
        size = sum(len(part) for part in parts)
        head = [_PHRASES[reply.status], b"content-length: %d\r\n" % size]
        head += [b"%b: %b\r\n" % header for header in reply.headers]
        head.append(b"connection: close\r\n\r\n" if close else b"\r\n")
        if head_only:
            parts, size = (), 0
        if size <= SMALL_BYTES:
            transport.write(b"".join((*head, *parts)))
        else:
            transport.writelines((b"".join(head), *parts))

    def _end(self) -> None:
        """Close when what is written is sent.

        What the client still sends is read and dropped until it closes its side too, for a moment: were data left
        unread, the kernel would reset the connection, and the client might lose the reply.
        """
        assert self._transport is not None
        self._held = b""
        if self._paused:
            self._await_taking()
        else:
            self.deadline_s = self._server.now_s() + LINGER_S
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
