"""The HTTP server: a listening socket, its connections, and the clock that ends those of slow clients."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from poise.ingress.http_connection import HttpConnection
from poise.ingress.http_handshake import Handshake, accept_encrypted
from poise.ingress.limits import Limits
from poise.telemetry.traffic import Traffic

if TYPE_CHECKING:
    from poise.ingress.http_app import HttpApp

BACKLOG = 2048
"""So many connections may wait to be taken up."""
READ_BYTES = 256 * 2**10
"""The size of the buffer that all connections read into."""
SWEEP_S = 0.5
"""How often deadlines of connections are looked at; so much later may one end."""
ASK_AGAIN_S = 0.01


class HttpServer:
    """Serves an application over one listening socket. Everything runs on one event loop."""

    def __init__(self, app: HttpApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.traffic = Traffic("http")
        self.buffer = bytearray(READ_BYTES)
        self.buffer_view = memoryview(self.buffer)
        self._loop = asyncio.get_running_loop()
        self._connections: set[HttpConnection | Handshake] = set()
        self._bodies_bytes = 0
        self._listening: asyncio.Server | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        app.count_bodies(self)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def bodies_bytes(self) -> int:
        """How many bytes of bodies are on their way in, those apart that one read brings."""
        return self._bodies_bytes

    def now_s(self) -> float:
        """The event loop's time, in seconds."""
        return self._loop.time()

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Take connections from a listening socket."""
        if tls is None:
            self._listening = await self._loop.create_server(
                lambda: HttpConnection(self),
                sock=listener,
                backlog=BACKLOG,  # asyncio listens once more, for 100 unless told
            )
        else:
            self._accepting = self._loop.create_task(accept_encrypted(self, listener, tls))
        self._sweep()

    async def replied(self) -> None:
        """Wait until each request that waits for its reply now has one, or its client is gone."""
        waiting = [(each, each.replying) for each in self._connections if each.replying is not None]
        while any(connection.replying is request for connection, request in waiting):
            await asyncio.sleep(ASK_AGAIN_S)

    async def stop(self, take_limit_s: float) -> None:
        """Take no more connections; close each as soon as its client has its reply, or after so many seconds."""
        if self._listening is not None:
            self._listening.close()
        if self._accepting is not None:
            self._accepting.cancel()
        for connection in tuple(self._connections):
            connection.finish()
        limit_s = self.now_s() + take_limit_s
        while self.now_s() < limit_s and any(connection.waiting for connection in self._connections):
            await asyncio.sleep(ASK_AGAIN_S)
        for connection in tuple(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def opened(self, connection: HttpConnection | Handshake) -> bool:
        """Enter a connection; say whether there is room for it.

        Where there is none, one makes room that asks nothing: of those the one whose time is up first.
        """
        self._connections.add(connection)
        self.traffic.connections_opened += isinstance(connection, HttpConnection)
        if len(self._connections) <= self.limits.connections:
            return True
        idle = [
            each for each in self._connections if each.idle and not each.waiting and each is not connection
        ]
        if idle:
            first = min(idle, key=lambda each: each.deadline_s)
            self._connections.discard(first)
            first.abort()
            return True
        self.traffic.connections_refused += 1
        return False

    def closed(self, connection: HttpConnection | Handshake) -> None:
        """Strike a connection off."""
        self._connections.discard(connection)

    def take_body(self, size: int) -> bool:
        """Take so many bytes of what may be on its way in at once; say whether they were there."""
        if self._bodies_bytes + size > self.limits.bodies_bytes:
            return False
        self._bodies_bytes += size
        return True

    def give_body(self, size: int) -> None:
        """Give bytes back."""
        self._bodies_bytes -= size

    def _sweep(self) -> None:
        now_s = self.now_s()
        for connection in [each for each in self._connections if each.deadline_s <= now_s]:
            connection.expire()
        for connection in [each for each in self._connections if each.gone]:
            connection.abort()
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
