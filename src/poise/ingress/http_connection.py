"""One HTTP/1.1 connection: bytes in, requests to the application, replies out, one after another.

httptools (llhttp) reads each request's head. A body of known length is not its business: it lies in the buffer that
the socket was read into, or, if it is longer than one read, goes from the socket straight to a place of its own. So
the tensors of a request are copied once, into the arena. Only bodies sent in chunks pass through the parser.

All connections share one buffer: a read and what is done with it are one turn of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from enum import Enum, auto
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any, cast

import httptools

from poise.errors import RequestError
from poise.ingress.routes import HttpRequest, Later, Reply, Route, error_reply
from poise.protocol import status

if TYPE_CHECKING:
    from poise.ingress.http_server import HttpServer

HELD_BYTES = 64 * 2**10
"""So much that follows a request may wait for its reply; more is not read before."""
SMALL_BYTES = 64 * 2**10
"""Replies up to here go out in one piece."""
LINGER_S = 5.0
"""How long a client may go on sending what it was already told is not wanted."""

_END = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PHRASES = {code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n".encode() for code in HTTPStatus}
_PHRASES[status.CLIENT_GONE] = b"HTTP/1.1 499 Client Closed Request\r\n"

log = logging.getLogger(__name__)


class State(Enum):
    """What a connection waits for."""

    HEAD = auto()  # a request's head, or its rest
    BODY = auto()  # the rest of a body of known length
    CHUNKS = auto()  # a body in chunks
    REPLY = auto()  # the application
    DISCARDING = auto()  # the rest of a body that nobody wants
    CLOSED = auto()


class HttpConnection(asyncio.BufferedProtocol):
    """One client's connection. ``deadline_s``: when the server gives it up, by the event loop's clock."""

    __slots__ = (
        "_body",
        "_chunks",
        "_complete",
        "_discard",
        "_filled",
        "_headers",
        "_held",
        "_keep_alive",
        "_later",
        "_parser",
        "_paused",
        "_request",
        "_route",
        "_server",
        "_state",
        "_taken",
        "_target",
        "_task",
        "_transport",
        "deadline_s",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._state = State.HEAD
        self._held = b""
        self._parser: Any = None
        self._headers: dict[bytes, bytes] = {}
        self._target = b""
        self._complete = False
        self._keep_alive = True
        self._request: HttpRequest | None = None
        self._route: Route | None = None
        self._body: memoryview | None = None
        self._filled = 0
        self._taken = 0
        self._chunks: list[bytes] = []
        self._discard = 0
        self._later: Later | None = None
        self._task: asyncio.Task[Reply] | None = None
        self._paused = False
        self.deadline_s = inf

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection up, or refuse it where there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        self.deadline_s = self._server.now_s() + self._server.limits.idle_s
        if not self._server.opened(self):
            self._reply(error_reply(503, "too many connections", close=True))
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        if self._state is State.BODY:
            assert self._body is not None
            return self._body[self._filled :]
        return self._server.buffer_view

    def buffer_updated(self, nbytes: int) -> None:
        """Take up what was read."""
        if self._state is State.BODY:
            self._filled += nbytes
            assert self._body is not None
            if self._filled == len(self._body):
                self._handle(self._body)
            return
        buffer = self._server.buffer
        if self._state is State.CLOSED:
            return
        if self._state is State.REPLY or self._held:
            self._hold(bytes(memoryview(buffer)[:nbytes]))
        else:
            self._read(buffer, nbytes)

    def eof_received(self) -> bool:
        """A client that ends its side is gone: its job is given up as the connection closes."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Give up what the client waits for."""
        self._state = State.CLOSED
        self._forget_request()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._server.closed(self)

    def pause_writing(self) -> None:
        """The client does not read: give it some time, and read nothing more from it."""
        self._paused = True
        self.deadline_s = self._server.now_s() + self._server.limits.take_s

    def resume_writing(self) -> None:
        """The client reads on."""
        self._paused = False
        if self._state is State.HEAD:
            self._rest()

    # What the server calls

    def expire(self) -> None:
        """End a connection whose client was too slow."""
        if self._state in (State.DISCARDING, State.CLOSED) or self._paused:
            self.abort()
        elif self._state is State.HEAD and not self._held:
            self._close()
        else:
            self._reply(error_reply(408, "the request did not arrive in time", close=True))

    def finish(self) -> None:
        """Close now if nothing is under way, else with the reply."""
        self._keep_alive = False
        if self._state is State.HEAD and not self._held:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def waiting(self) -> bool:
        """Whether the client waits for a reply, or has not read all of it."""
        assert self._transport is not None
        return self._state is State.REPLY or self._transport.get_write_buffer_size() > 0

    # Requests

    def _hold(self, data: bytes) -> None:
        """Put data behind what is held: the beginning of a head, or what comes after a request."""
        self._held += data
        if self._state is State.REPLY:
            if len(self._held) > HELD_BYTES:
                assert self._transport is not None
                self._transport.pause_reading()
            return
        held, self._held = self._held, b""
        self._read(held, len(held))

    def _read(self, data: bytes | bytearray, end: int) -> None:
        """Take up requests one after another, as far as they are there."""
        at = 0
        while at < end and not self._paused:
            if self._state is State.HEAD:
                head_end = data.find(_END, at, end) + len(_END)
                if head_end < len(_END):
                    if end - at > self._server.limits.head_bytes:
                        self._reply(error_reply(431, "the head of the request is too long", close=True))
                    break
                at = self._begin(data, at, head_end, end)
            elif self._state is State.CHUNKS:
                at = self._feed_chunks(data, at, end)
            elif self._state is State.DISCARDING:
                step = min(self._discard, end - at)
                self._discard -= step
                at += step
                if self._discard == 0:
                    self._state = State.HEAD
                    self._await_head()
            else:
                break
        if at < end and self._state in (State.HEAD, State.REPLY):
            if self._state is State.HEAD and not self._held and not self._paused:
                self.deadline_s = self._server.now_s() + self._server.limits.head_s
            self._held = bytes(memoryview(data)[at:end])

    def _begin(self, data: bytes | bytearray, at: int, head_end: int, end: int) -> int:
        """Take up one request from its head on; return how far it reaches into the data."""
        limits = self._server.limits
        if head_end - at > limits.head_bytes:
            self._reply(error_reply(431, "the head of the request is too long", close=True))
            return end
        if not self._parse_head(data, at, head_end):
            return end
        headers = self._headers
        chunked = b"transfer-encoding" in headers
        length = 0 if chunked else int(headers.get(b"content-length", b"0"))
        method = self._parser.get_method().decode("latin-1")
        self._keep_alive = self._keep_alive and self._parser.should_keep_alive()
        request = self._request = HttpRequest(method, self._target, headers)
        try:
            route = self._server.app.route(request, length)
        except RequestError as error:
            self._decline(error_reply(status.status_of_error(error), error.message), length, chunked)
            return head_end
        except Exception:
            log.exception("a request to %r failed", request.target)
            self._decline(error_reply(status.INTERNAL, status.GENERIC), length, chunked)
            return head_end
        if isinstance(route, Reply):
            self._decline(route, length, chunked)
            return head_end
        self._route = route
        if chunked or length > end - head_end:
            return self._begin_body(data, head_end, end, None if chunked else length)
        self._handle(memoryview(data)[head_end : head_end + length])
        return head_end + length

    def _parse_head(self, data: bytes | bytearray, at: int, head_end: int) -> bool:
        self._headers = {}
        self._target = b""
        self._complete = False
        self._parser = httptools.HttpRequestParser(self)
        problem = 0
        try:
            self._parser.feed_data(memoryview(data)[at:head_end])
        except httptools.HttpParserUpgrade:
            pass  # not offered: the request is answered as any other
        except httptools.HttpParserError:
            problem = 400
        if not self._complete and not problem:
            problem = 400
        if len(self._headers) > self._server.limits.headers:
            problem = 431
        if problem:
            words = "expected HTTP/1.1" if problem == 400 else "the request has too many headers"
            self._reply(error_reply(problem, words, close=True))
        return not problem

    def on_url(self, target: bytes) -> None:
        """Take up a part of the request's target; httptools calls this."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take up a header; httptools calls this."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Note that the head was whole; httptools calls this."""
        self._complete = True

    def on_body(self, chunk: bytes) -> None:
        """Take up a chunk; httptools calls this, for bodies in chunks only."""
        self._chunks.append(chunk)
        self._filled += len(chunk)

    def on_message_complete(self) -> None:
        """Note that the last chunk was there; httptools calls this."""
        self._discard = -1

    def _begin_body(self, data: bytes | bytearray, at: int, end: int, length: int | None) -> int:
        """Make room for a body that is not all there, or that comes in chunks; take up what is there of it."""
        server, limits = self._server, self._server.limits
        expected = limits.body_bytes if length is None else length
        self.deadline_s = server.now_s() + limits.body_s + expected / limits.body_bytes_per_s
        self._taken = 0 if length is None else length
        if not server.take_body(self._taken):
            self._taken = 0
            reply = error_reply(429, "too many bytes are on their way in")
            self._decline(reply, length or 0, chunked=length is None)
            return at
        assert self._request is not None
        assert self._transport is not None
        if at == end and self._request.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)
        self._discard = 0
        self._filled = 0
        if length is None:
            self._chunks = []
            self._state = State.CHUNKS
            return at
        self._body = server.app.room_for(self._request, length)
        self._body[: end - at] = memoryview(data)[at:end]
        self._filled = end - at
        self._state = State.BODY
        return end

    def _feed_chunks(self, data: bytes | bytearray, at: int, end: int) -> int:
        server = self._server
        before = self._filled
        try:
            self._parser.feed_data(memoryview(data)[at:end])
        except httptools.HttpParserError:
            self._reply(error_reply(400, "expected a body in chunks, as its head said", close=True))
            return end
        grown = self._filled - before
        if self._filled > server.limits.body_bytes:
            words = f"got a body of more than {server.limits.body_bytes} bytes, expected at most so many"
            self._reply(error_reply(413, words, close=True))
        elif not server.take_body(grown):
            self._reply(error_reply(429, "too many bytes are on their way in", close=True))
        else:
            self._taken += grown
            if self._discard < 0:
                # The parser has had whatever followed the last chunk, so nothing can be told of it.
                self._discard = 0
                self._keep_alive = False
                self._body = memoryview(b"".join(self._chunks))
                self._handle(self._body)
        return end

    def _handle(self, body: memoryview) -> None:
        """Have a whole request answered."""
        request, route = self._request, self._route
        assert request is not None
        assert route is not None
        self._state = State.REPLY
        self.deadline_s = inf
        request.body = body
        request.owned = self._body is not None
        try:
            reply = route.handler(request)
        except RequestError as error:
            reply = error_reply(status.status_of_error(error), error.message)
        except Exception:
            log.exception("a request to %r failed", request.target)
            reply = error_reply(status.INTERNAL, status.GENERIC)
        request.body = b""
        self._body = None
        if isinstance(reply, Reply):
            self._reply(reply)
        elif isinstance(reply, Coroutine):
            self._task = asyncio.get_running_loop().create_task(self._answered(reply, request))
            self._task.add_done_callback(self._task_done)
        else:
            self._later = reply
            reply.when_ready = self._ready

    async def _answered(self, coroutine: Coroutine[Any, Any, Reply], request: HttpRequest) -> Reply:
        try:
            return await coroutine
        except RequestError as error:
            return error_reply(status.status_of_error(error), error.message)
        except Exception:
            log.exception("a request to %r failed", request.target)
            return error_reply(status.INTERNAL, status.GENERIC)

    def _task_done(self, task: asyncio.Task[Reply]) -> None:
        self._task = None
        if not task.cancelled():
            self._ready(task.result())

    def _ready(self, reply: Reply) -> None:
        """Send a reply that was waited for, and go on with what came meanwhile.

        That is left to another turn of the event loop: who calls this is in the middle of other jobs.
        """
        self._later = None
        if self._state is State.REPLY:
            self._reply(reply)
            if self._held:
                asyncio.get_running_loop().call_soon(self._rest)

    def _rest(self) -> None:
        if self._state is State.HEAD and self._transport is not None and not self._paused:
            held, self._held = self._held, b""
            self._transport.resume_reading()
            if held:
                self._read(held, len(held))

    # Replies

    def _decline(self, reply: Reply, length: int, chunked: bool) -> None:
        """Reply before the body is there, and let the client send it for nothing, as far as that is bearable."""
        if chunked or length > self._server.limits.body_bytes:
            self._reply(Reply(reply.status, reply.body, reply.headers, close=True))
            return
        keep = self._keep_alive
        self._reply(reply)
        if length and keep and self._state is State.HEAD:
            self._discard = length
            self._state = State.DISCARDING
            self.deadline_s = self._server.now_s() + LINGER_S + length / self._server.limits.body_bytes_per_s

    def _reply(self, reply: Reply) -> None:
        """Send a reply; afterwards the connection waits for the next request, or closes."""
        transport = self._transport
        assert transport is not None
        close = reply.close or not self._keep_alive
        request, route = self._request, self._route
        self._server.traffic.requests["" if route is None else route.pattern, reply.status] += 1
        parts = reply.body
        size = sum(len(part) for part in parts)
        head = [_PHRASES[reply.status], b"content-length: %d\r\n" % size]
        head += [b"%b: %b\r\n" % header for header in reply.headers]
        head.append(b"connection: close\r\n\r\n" if close else b"\r\n")
        if request is not None and request.method == "HEAD":
            parts, size = (), 0
        if size <= SMALL_BYTES:
            transport.write(b"".join((*head, *parts)))
        else:
            transport.writelines((b"".join(head), *parts))
        self._forget_request()
        if close:
            self._close()
            return
        self._state = State.HEAD
        self._await_head()

    def _await_head(self) -> None:
        if not self._paused:
            self.deadline_s = self._server.now_s() + self._server.limits.idle_s

    def _forget_request(self) -> None:
        if self._taken:
            self._server.give_body(self._taken)
            self._taken = 0
        self._request = self._route = None
        self._body = None
        self._chunks = []

    def _close(self) -> None:
        """Close when what is written is sent.

        What the client still sends is read and dropped until it closes its side too, for a moment: were data left
        unread, the kernel would reset the connection, and the client might lose the reply.
        """
        self._keep_alive = False
        self._state = State.CLOSED
        self.deadline_s = self._server.now_s() + LINGER_S
        assert self._transport is not None
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
