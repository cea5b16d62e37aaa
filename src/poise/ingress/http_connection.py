"""One HTTP/1.1 connection: bytes in, requests to the application, replies out, one after another.

A body of known length lies in the buffer that the socket was read into, or, if it is longer than one read, goes from
the socket straight to a place of its own. So the tensors of a request are copied once, into the arena. All connections
share one buffer: a read and what is done with it are one turn of the event loop. Whoever sends many requests at once,
or many small chunks, has several turns, and others theirs in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from math import inf
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

from poise.errors import RequestError
from poise.ingress.http_chunks import ChunkedBody
from poise.ingress.http_head import HEAD_TOO_LONG, Heads
from poise.ingress.http_stream import LINGER_S, STEPS_AT_ONCE, TURN_S, State, Stream
from poise.ingress.routes import HttpRequest, Later, Reply, Route, error_reply, reply_to
from poise.ingress.trace import end_http_trace, http_trace
from poise.protocol import status
from poise.protocol.layouts import Layouts

if TYPE_CHECKING:
    from poise.ingress.http_server import HttpServer

BODY_READ_BYTES = 64 * 2**10
"""So much of a body is read at once: the event loop reads again and again while there is more, for some 30 times."""

_END = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger(__name__)


class HttpConnection(Stream):
    """One client's connection, and the request that it is at."""

    __slots__ = (
        "_body",
        "_chunks",
        "_discard",
        "_filled",
        "_heads",
        "_keep_alive",
        "_later",
        "_layouts",
        "_request",
        "_route",
        "_state",
        "_taken",
        "_task",
    )

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self._state = State.HEAD
        self._heads = Heads(server.limits)
        self._layouts = Layouts()
        self._keep_alive = True
        self._request: HttpRequest | None = None
        self._route: Route | None = None
        self._body: memoryview | None = None
        self._chunks: ChunkedBody | None = None
        self._filled = 0
        self._taken = 0
        self._discard = 0
        self._later: Later | None = None
        self._task: asyncio.Task[Reply] | None = None

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection up, or refuse it where there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        # Whoever connects has something to ask; only between requests may a connection be idle for longer.
        self.deadline_s = self._server.now_s() + min(self._server.limits.head_s, self._server.limits.idle_s)
        if not self._server.opened(self):
            self._reply(error_reply(503, "too many connections", close=True))
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        if self._state is State.BODY:
            assert self._body is not None
            return self._body[self._filled : self._filled + BODY_READ_BYTES]
        return self._server.buffer_view

    def buffer_updated(self, nbytes: int) -> None:
        """Take up what was read."""
        if self._state is State.BODY:
            self._filled += nbytes
            assert self._body is not None
            if self._filled == len(self._body):
                self._handle(self._body)
            else:
                self._came(nbytes)
            return
        buffer = self._server.buffer
        if self._state is State.CLOSED:
            return
        if self._busy:
            self._hold(memoryview(buffer)[:nbytes])
        elif self._held:
            held, self._held = self._held + memoryview(buffer)[:nbytes], b""
            self._read(held, len(held))
        else:
            self._read(buffer, nbytes)

    def eof_received(self) -> bool:
        """A client that ends its side is gone: its job is given up as the connection closes."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Give up what the client waits for."""
        if self._state is State.REPLY and self._request is not None and self._route is not None:
            self._server.traffic.requests[self._route.pattern, status.CLIENT_GONE] += 1
            if self._request.trace is not None:
                end_http_trace(self._request.trace, status.CLIENT_GONE)
        self._state = State.CLOSED
        self._held = b""
        self._forget_request()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._server.closed(self)

    def resume_writing(self) -> None:
        """The client reads on."""
        self._paused = False
        if self._state is State.CLOSED:
            self.deadline_s = self._server.now_s() + LINGER_S
        elif self._state is State.HEAD:
            self._await_head()
        self._take_up_held()

    # What the server calls

    def expire(self) -> None:
        """End a connection whose client was too slow."""
        if self._takes():
            return
        if self.waiting or self._state in (State.DISCARDING, State.CLOSED):
            self.abort()
        elif self.idle:
            self._close()
        else:
            self._reply(error_reply(408, "the request did not arrive in time", close=True))

    def finish(self) -> None:
        """Close now if nothing is under way, else with the reply."""
        self._keep_alive = False
        if self.idle:
            self._close()

    @property
    def idle(self) -> bool:
        """Whether nothing of a request is there, and everything is sent that could be."""
        return self._state is State.HEAD and not self._held and not self._paused

    @property
    def waiting(self) -> bool:
        """Whether the client waits for a reply, or has not read all of it."""
        assert self._transport is not None
        return self._state is State.REPLY or self._transport.get_write_buffer_size() > 0

    @property
    def replying(self) -> HttpRequest | None:
        """The request that is there whole and has no reply yet; None where there is none."""
        return self._request if self._state is State.REPLY else None

    # Requests

    @property
    def _busy(self) -> bool:
        """Whether what comes in has to wait."""
        return self._state is State.REPLY or self._paused or self._resting

    def _read(self, data: bytes | bytearray, end: int) -> None:
        """Take up requests one after another, as far as they are there, and keep the rest."""
        at = 0
        whole = True
        steps, end_s = STEPS_AT_ONCE, perf_counter() + TURN_S
        while at < end and steps and whole and not self._paused and perf_counter() < end_s:
            steps -= 1
            if self._state is State.HEAD:
                head_end = data.find(_END, at, end) + len(_END)
                whole = head_end >= len(_END)
                if whole:
                    at = self._begin(data, at, head_end, end)
            elif self._state is State.CHUNKS:
                at = self._feed_chunks(data, at, end)
            elif self._state is State.DISCARDING:
                at += self._throw_away(end - at)
            else:
                break
        if at < end and self._state is not State.CLOSED:
            if not whole and end - at > self._server.limits.head_bytes:
                self._reply(HEAD_TOO_LONG)
                return
            self._held = bytes(memoryview(data)[at:end])
            if not whole:
                self._await_rest_of_head()
            elif not self._busy:
                self._rest_soon()
        self._flow()

    def _take_up_held(self) -> None:
        if not self._busy and self._held and self._state is not State.CLOSED:
            held, self._held = self._held, b""
            self._read(held, len(held))
        self._flow()

    def _begin(self, data: bytes | bytearray, at: int, head_end: int, end: int) -> int:
        """Take up one request from its head on; return how far it reaches into the data."""
        head = self._heads.read(data, at, head_end)
        if isinstance(head, Reply):
            self._reply(head)
            return end
        self._begun = False
        length = head.length
        self._keep_alive = self._keep_alive and head.keep_alive
        request = self._request = HttpRequest(head.method, head.target, head.headers, self._layouts)
        try:
            route = self._server.app.route(request, length or 0)
        except RequestError as error:
            self._decline(reply_to(error), length)
            return head_end
        except Exception:
            log.exception("a request to %r failed", request.target)
            self._decline(error_reply(status.INTERNAL, status.GENERIC), length)
            return head_end
        if isinstance(route, Reply):
            self._decline(route, length)
            return head_end
        self._route = route
        if route.traced and self._server.app.tracer is not None:
            request.trace = http_trace(self._server.app.tracer, request, route)
        if length is None or length > end - head_end:
            return self._begin_body(data, head_end, end, length)
        self._handle(memoryview(data)[head_end : head_end + length])
        return head_end + length

    def _begin_body(self, data: bytes | bytearray, at: int, end: int, length: int | None) -> int:
        """Make room for a body that is not all there, or that comes in chunks; take up what is there of it."""
        server, limits = self._server, self._server.limits
        if not server.take_body(length or 0):
            self._decline(error_reply(429, "too many bytes are on their way in"), length)
            return at
        self._taken = length or 0
        self.deadline_s = server.now_s() + limits.body_s
        assert self._request is not None
        assert self._transport is not None
        if at == end and self._request.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)
        if length is None:
            self._chunks = ChunkedBody(limits.body_bytes)
            self._state = State.CHUNKS
            return at
        try:
            self._body = server.app.room_for(self._request, length)
        except MemoryError:
            self._decline(error_reply(503, "there is no memory for the body"), length)
            return at
        self._body[: end - at] = memoryview(data)[at:end]
        self._filled = end - at
        self._state = State.BODY
        return end

    def _feed_chunks(self, data: bytes | bytearray, at: int, end: int) -> int:
        server, chunks = self._server, self._chunks
        assert chunks is not None
        before = len(chunks.content)
        try:
            reached = chunks.feed(data, at, end)
        except RequestError as error:
            self._reply(reply_to(error, close=True))
            return end
        except MemoryError:
            self._reply(error_reply(503, "there is no memory for the body", close=True))
            return end
        grown = len(chunks.content) - before
        if not server.take_body(grown):
            self._reply(error_reply(429, "too many bytes are on their way in", close=True))
            return end
        self._taken += grown
        self._came(grown)
        if chunks.complete:
            self._body = memoryview(chunks.content)
            self._handle(self._body)
        return reached

    def _throw_away(self, size: int) -> int:
        """Drop so many bytes of a body that nobody wants, or as many as are left of it."""
        size = min(self._discard, size)
        self._discard -= size
        self._came(size)
        if self._discard == 0:
            self._state = State.HEAD
            self._await_head()
        return size

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
            reply = reply_to(error)
        except Exception:
            log.exception("a request to %r failed", request.target)
            reply = error_reply(status.INTERNAL, status.GENERIC)
        request.body = b""
        self._body = None
        if isinstance(reply, Reply):
            self._reply(reply)
        elif isinstance(reply, CoroutineType):  # the abstract one takes ten times as long to ask
            self._task = asyncio.get_running_loop().create_task(self._answered(reply, request))
            self._task.add_done_callback(self._task_done)
            self._task.add_done_callback(lambda _: reply.close())  # never begun, if its client left at once
        else:
            self._later = later = cast(Later, reply)
            later.when_ready = self._ready

    async def _answered(self, coroutine: Coroutine[Any, Any, Reply], request: HttpRequest) -> Reply:
        try:
            return await coroutine
        except RequestError as error:
            return reply_to(error)
        except Exception:
            log.exception("a request to %r failed", request.target)
            return error_reply(status.INTERNAL, status.GENERIC)

    def _task_done(self, task: asyncio.Task[Reply]) -> None:
        self._task = None
        if not task.cancelled():
            self._ready(task.result())

    def _ready(self, reply: Reply) -> None:
        """Send a reply that was waited for; what came meanwhile has another turn: other jobs are being settled."""
        self._later = None
        if self._state is State.REPLY:
            self._reply(reply)
            if self._held:
                self._rest_soon()

    # Replies

    def _decline(self, reply: Reply, length: int | None) -> None:
        """Reply before the body is there, and let the client send it for nothing, as far as that is bearable."""
        if length is None or length > self._server.limits.body_bytes:
            self._reply(Reply(reply.status, reply.body, reply.headers, close=True))
            return
        keep = self._keep_alive
        self._reply(reply)
        if length and keep and self._state is State.HEAD:
            self._discard = length
            self._state = State.DISCARDING
            self.deadline_s = self._server.now_s() + self._server.limits.body_s

    def _reply(self, reply: Reply) -> None:
        """Send a reply; afterwards the connection waits for the next request, or closes."""
        close = reply.close or not self._keep_alive
        request, route = self._request, self._route
        self._server.traffic.requests["" if route is None else route.pattern, reply.status] += 1
        if request is not None and request.trace is not None:
            end_http_trace(request.trace, reply.status)
        self._send(reply, close=close, head_only=request is not None and request.method == "HEAD")
        self._forget_request()
        if close:
            self._close()
            return
        self._state = State.HEAD
        self._await_head()

    def _forget_request(self) -> None:
        if self._taken:
            self._server.give_body(self._taken)
            self._taken = 0
        self._request = self._route = None
        self._body = None
        self._chunks = None

    def _close(self) -> None:
        self._keep_alive = False
        self._state = State.CLOSED
        self._end()
