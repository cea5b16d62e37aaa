"""Connections that are being encrypted: from the beginning they have their place among the others, and their time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

from poise.ingress.http_connection import HttpConnection

if TYPE_CHECKING:
    from poise.ingress.http_server import HttpServer

TRY_AGAIN_S = 0.1
"""How long to wait where the system has no file descriptor for another connection."""


class _Encrypted(HttpConnection):
    """A connection that takes the place of its handshake."""

    __slots__ = ("_handshake",)

    def __init__(self, server: HttpServer, handshake: Handshake) -> None:
        super().__init__(server)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.closed(self._handshake)
        super().connection_made(transport)


class Handshake:
    """What a connection is until its TLS handshake is done. To make room for others, it is the first to go."""

    waiting = gone = False
    replying = None

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._connection = _Encrypted(server, self)
        self._task: asyncio.Task[None] | None = None
        self.deadline_s = server.now_s() + server.limits.head_s

    def begin(self, client: socket.socket, tls: ssl.SSLContext) -> None:
        """Begin the handshake, if there is room for another connection."""
        if self._server.opened(self):
            self._task = asyncio.get_running_loop().create_task(self._encrypt(client, tls))
            self._task.add_done_callback(lambda _: self._server.closed(self))
        else:
            client.close()

    async def _encrypt(self, client: socket.socket, tls: ssl.SSLContext) -> None:
        # Errors: no TLS, another version, or too slow; the client's doing, and its end.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection, client, ssl=tls, ssl_handshake_timeout=self._server.limits.head_s
            )

    @property
    def idle(self) -> bool:
        """Whether it may go: it is no connection yet."""
        return not self._connection.connected

    def expire(self) -> None:
        """End a handshake that takes too long."""
        self.abort()

    def finish(self) -> None:
        """End it: nothing is under way."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._task is not None and self.idle:
            self._task.cancel()


async def accept_encrypted(server: HttpServer, listener: socket.socket, tls: ssl.SSLContext) -> None:
    """Take connections from a listening socket, and encrypt them, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            client, _ = await loop.sock_accept(listener)
        except OSError:
            await asyncio.sleep(TRY_AGAIN_S)
        else:
            Handshake(server).begin(client, tls)
