"""The client for programs that run an event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

from numpy.typing import ArrayLike

from poise.client import calls
from poise.client.address import head_of, parse_url, tls_of
from poise.client.blocking import TIMEOUT_S, is_quiet
from poise.client.calls import Bytes, Call
from poise.client.errors import NoAnswerError, reason_of
from poise.client.plain import seconds
from poise.client.response import BrokenResponseError, ClosedError, Response, ResponseReader, hint_at
from poise.client.values import Answer, ServerMetadata, ServiceMetadata

T = TypeVar("T")


class AsyncClient:
    """A server's client on an event loop; all that ``Client`` can do, with as many calls at once as are awaited.

    A call that is cancelled closes its connection, and the server takes the job out of its queue.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Make a client; nothing is connected yet.

        Raises:
            ConfigError: no http or https URL, a token that no header can carry, or no time to wait.
        """
        self._endpoint = parse_url(url)
        self._head = head_of(self._endpoint, token)
        self._tls = tls_of(self._endpoint, tls)
        self._timeout_s = seconds("timeout_s", timeout_s)
        self._idle: list[_Connection] = []

    async def infer(
        self,
        service: str,
        inputs: Mapping[str, ArrayLike],
        *,
        slo_class: str | None = None,
        deadline_ms: float | None = None,
        floor: float | None = None,
        priority: int | None = None,
        outputs: Iterable[str] | None = None,
        request_id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Return the answer of one job, as ``Client.infer`` does."""
        return await self._do(
            calls.infer(
                service,
                inputs,
                slo_class=slo_class,
                deadline_ms=deadline_ms,
                floor=floor,
                priority=priority,
                outputs=outputs,
                request_id=request_id,
                parameters=parameters,
            )
        )

    async def label(self, service: str, request_id: str, labels: Iterable[Any]) -> None:
        """Say what would have been right for each item of an answered request: that which ``infer`` gave this id."""
        await self._do(calls.label(service, request_id, labels))

    async def live(self) -> bool:
        """Return whether the server is there. It raises where nobody answers, as every call does."""
        return await self._do(calls.live())

    async def ready(self, service: str | None = None) -> bool:
        """Return whether a service, or all of the server's, would take a job now."""
        return await self._do(calls.ready(service))

    async def server(self) -> ServerMetadata:
        """Return what the server says of itself."""
        return await self._do(calls.server())

    async def metadata(self, service: str) -> ServiceMetadata:
        """Return a service's tensors."""
        return await self._do(calls.metadata(service))

    async def config(self, service: str) -> dict[str, Any]:
        """Return a service's configuration in Triton's words."""
        return await self._do(calls.config(service))

    async def statistics(self, service: str) -> dict[str, Any]:
        """Return a service's statistics in Triton's words."""
        return await self._do(calls.statistics(service))

    async def ask(self, method: str, path: str, value: Any = None) -> Any:
        """Return what any other route says: JSON out, if there is a value, and JSON back."""
        return await self._do(calls.ask(method, path, value))

    async def close(self) -> None:
        """Close all connections that no call uses."""
        while self._idle:
            connection = self._idle.pop()
            connection.close()
            await connection.closed.wait()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _do(self, call: Call[T]) -> T:
        parts = call.parts(self._endpoint.root, self._head)
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connection()
                response = await connection.exchange(parts)
        except BaseException as error:
            if connection is not None:
                connection.close()
            url = self._endpoint.url
            sent = connection is not None
            if isinstance(error, TimeoutError):
                raise NoAnswerError(f"no answer from {url} in time", sent=sent) from None
            if isinstance(error, OSError | BrokenResponseError):
                words = "no usable answer from" if sent else "cannot connect to"
                why = reason_of(error)
                if connection is not None and not connection.begun:
                    why += hint_at(error, tls=self._tls is not None)
                raise NoAnswerError(f"{words} {url}: {why}", sent=sent) from None
            raise
        if response.reusable and not connection.closed.is_set():
            self._idle.append(connection)
        else:
            connection.close()
        return call.read(response)

    async def _connection(self) -> _Connection:
        """Return a connection that nobody uses: one that the server has not closed meanwhile, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.quiet():
                return connection
            connection.close()
        endpoint = self._endpoint
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection,
            endpoint.host,
            endpoint.port,
            ssl=self._tls,
            server_hostname=endpoint.host if self._tls is not None else None,
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection, which one call at a time uses."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.begun = False  # something has come
        self._lost: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None
        self._response: asyncio.Future[Response] | None = None

    def quiet(self) -> bool:
        """Whether nothing has come since the last response, though the event loop may not have looked meanwhile."""
        assert self._transport is not None
        return not self.closed.is_set() and is_quiet(self._transport.get_extra_info("socket"))

    async def exchange(self, parts: Sequence[Bytes]) -> Response:
        """Send a request and return its response."""
        assert self._transport is not None
        if self.closed.is_set():
            raise self._lost or ClosedError()
        self._reader = ResponseReader()
        self._response = asyncio.get_running_loop().create_future()
        self._transport.writelines(parts)
        return await self._response

    def close(self) -> None:
        """Close it; a job that waits for its answer is given up by the server."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection up."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses of it

    def data_received(self, data: bytes) -> None:
        """Take up a piece of the response; what nobody asked for ends the connection."""
        self.begun = True
        reader = self._reader
        if reader is None:
            self.close()
            return
        try:
            response = reader.feed(data)
        except BrokenResponseError as error:
            self._fail(error)
            return
        if response is not None:
            self._settle(response)

    def connection_lost(self, error: Exception | None) -> None:
        """Take up the connection's end."""
        self.closed.set()
        self._lost = error
        if self._reader is None:
            return
        if error is not None:
            self._fail(error)
            return
        try:
            response = self._reader.end()
        except BrokenResponseError as broken:
            self._fail(broken)
        else:
            self._settle(response)

    def _settle(self, response: Response) -> None:
        self._reader = None
        if self._response is not None and not self._response.done():
            self._response.set_result(response)

    def _fail(self, error: Exception) -> None:
        self._reader = None
        if self._response is not None and not self._response.done():
            self._response.set_exception(error)
