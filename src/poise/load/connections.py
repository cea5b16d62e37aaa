"""A lean HTTP/1.1 client: many keep-alive connections, one request at a time on each, callbacks for answers.

A general client costs more processor time for a request than a small model does, and the generator often
shares its machine with the server. So this one does only what a load generator needs: POST and GET, a pool
without a queue, and never an exception: whatever happens to a request comes back as a `Reply`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

from poise.client.address import Endpoint, parse_url, tls_of

__all__ = ["ConnectionPool", "Endpoint", "Reply", "parse_url"]

MAX_IDLE_S = 3.0
"""A connection idle for longer is not used again: servers close theirs after about 5 s."""


class Reply(msgspec.Struct, frozen=True):
    """What came back: an HTTP answer, or ``error``, why none did (``status`` is then 0).

    Units: ``done_s`` on the clock `time.perf_counter`, at the last byte. ``header_length``: the size in
    bytes of the JSON that precedes binary tensors, None where there are none.
    """

    status: int
    body: bytes
    done_s: float
    header_length: int | None = None
    error: str = ""


OnReply = Callable[[Reply], None]


class ConnectionPool:
    """Connections to one server: idle ones are used again, last in first out; more are opened as needed.

    There is no queue: a request that finds all ``limit`` connections busy comes back with ``no_connection``
    at once, so that the generator stays open-loop.
    """

    def __init__(self, endpoint: Endpoint, *, limit: int, tls: ssl.SSLContext | None = None) -> None:
        """Make a pool; nothing is connected yet. ``tls`` is for an https URL.

        Raises:
            ConfigError: settings of TLS for an endpoint without.
        """
        self.endpoint = endpoint
        self.limit = limit
        self.open = 0
        self.most_open = 0
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._address = endpoint.host
        self._ssl = tls_of(endpoint, tls)

    def send(self, head: bytes, body: bytes | bytearray, on_reply: OnReply, timeout_s: float) -> None:
        """Send one request; ``on_reply`` is called exactly once, within about ``timeout_s``."""
        oldest_s = time.perf_counter() - MAX_IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since_s >= oldest_s:
                connection.send(head, body, on_reply, timeout_s)
                return
            connection.close()
        if self.open >= self.limit:
            on_reply(_no_reply("no_connection"))
            return
        self._opening()
        task = self._loop.create_task(self._connect_and_send(head, body, on_reply, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def request(self, head: bytes, body: bytes | bytearray = b"", *, timeout_s: float = 10.0) -> Reply:
        """Send one request and wait for what comes back."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.send(head, body, future.set_result, timeout_s)
        return await future

    async def resolve(self, timeout_s: float = 10.0) -> str:
        """Connect once and keep the address that answered; return why none did, or an empty text."""
        self._opening()
        connection, error = await self._connect(timeout_s)
        if connection is None:
            return error
        peer = connection.transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._address = peer[0]
        connection.idle_since_s = time.perf_counter()
        self._idle.append(connection)
        return ""

    async def close(self) -> None:
        """Close every connection and wait until all are closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        connections = list(self._all)
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.closed.wait() for connection in connections))

    def released(self, connection: _Connection) -> None:
        """Take back a connection whose request is done."""
        connection.idle_since_s = time.perf_counter()
        self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self.open -= 1
        self._all.discard(connection)

    def _opening(self) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    async def _connect_and_send(
        self, head: bytes, body: bytes | bytearray, on_reply: OnReply, timeout_s: float
    ) -> None:
        started_s = time.perf_counter()
        connection, error = await self._connect(timeout_s)
        if connection is None:
            on_reply(_no_reply(error))
        else:
            left_s = max(0.0, timeout_s - (time.perf_counter() - started_s))
            connection.send(head, body, on_reply, left_s)

    async def _connect(self, timeout_s: float) -> tuple[_Connection | None, str]:
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self),
                    self._address,
                    self.endpoint.port,
                    ssl=self._ssl,
                    server_hostname=self.endpoint.host if self._ssl else None,
                )
        except TimeoutError:
            error = "connect_timeout"
        except ConnectionRefusedError:
            error = "connect_refused"
        except ssl.SSLCertVerificationError:
            error = "certificate_not_trusted"
        except OSError:
            error = "connect_failed"
        else:
            self._all.add(connection)
            return connection, ""
        self.open -= 1
        return None, error


class _Connection(asyncio.Protocol):
    """One connection, and the request on it if there is one."""

    transport: asyncio.Transport
    _header_length: int | None

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.usable = True
        self.idle_since_s = 0.0
        self.closed = asyncio.Event()
        self._on_reply: OnReply | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._start_message()

    def send(self, head: bytes, body: bytes | bytearray, on_reply: OnReply, timeout_s: float) -> None:
        """Send a request on this idle connection."""
        if not self.usable:
            on_reply(_no_reply("closed"))
            return
        self._on_reply = on_reply
        self._timer = self.pool._loop.call_later(timeout_s, self._finish, "timeout")
        self.transport.writelines((head, body))

    def close(self) -> None:
        """Close at once; an unanswered request fails."""
        self.usable = False
        self.transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses of it

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self.pool.lost(self)
        self.closed.set()
        if self._headers_done and self._until_close and exc is None:
            self._finish()
        else:
            self._finish("reset" if isinstance(exc, ConnectionResetError) else "closed")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._finish("bad_http")
            return
        if self._complete:
            self._finish()

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"inference-header-content-length" and value.isdigit():
            self._header_length = int(value)
        elif lower in (b"content-length", b"transfer-encoding"):
            self._until_close = False

    def on_headers_complete(self) -> None:
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # only known here

    def _start_message(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._header_length = None
        self._headers_done = False
        self._until_close = True
        self._complete = False
        self._keep_alive = False

    def _finish(self, error: str = "") -> None:
        """Hand over the reply, once, and give the connection back or close it."""
        done_s = time.perf_counter()
        on_reply, self._on_reply = self._on_reply, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if on_reply is None:  # bytes or an end that no request waits for
            self.close()
            return
        if error:
            reply = Reply(0, b"", done_s, error=error)
            self.close()
        else:
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            reply = Reply(self._parser.get_status_code(), body, done_s, self._header_length)
            if self.usable and self._keep_alive:
                self._start_message()
                self.pool.released(self)
            else:
                self.close()
        on_reply(reply)


def _no_reply(error: str) -> Reply:
    return Reply(0, b"", time.perf_counter(), error=error)
