"""The client for programs that wait."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from poise.client import calls
from poise.client.address import head_of, parse_url, tls_of
from poise.client.calls import Bytes, Call
from poise.client.errors import NoAnswerError, reason_of
from poise.client.plain import seconds
from poise.client.response import BrokenResponseError, Response, ResponseReader, hint_at
from poise.client.values import Answer, ServerMetadata, ServiceMetadata

READ_BYTES = 256 * 2**10
TIMEOUT_S = 60.0

T = TypeVar("T")


class Client:
    """A server's client. It may be used by several threads at once; connections are kept and used again.

    Nothing is ever sent twice. ``timeout_s`` bounds each call from its beginning to its end; a call that it ends raises
    ``NoAnswerError``. ``tls`` is for an https URL, where the system's own certificates will not do.
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

    def infer(
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
        """Return the answer of one job. Shapes: ``inputs[name]`` is [items, *shape]; ``outputs``: all, unless named.

        A modality is left out by leaving its inputs out. ``parameters`` are sent as they are, beside those named here.

        Raises:
            RequestError: the request gets no answer; ``RefusedError`` where it became a job and was refused.
            ServerFailedError: the server's fault.
            NoAnswerError: nothing came back, or not in time.
        """
        return self._do(
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

    def label(self, service: str, request_id: str, labels: Iterable[Any]) -> None:
        """Say what would have been right for each item of an answered request: that which ``infer`` gave this id."""
        self._do(calls.label(service, request_id, labels))

    def live(self) -> bool:
        """Return whether the server is there. It raises where nobody answers, as every call does."""
        return self._do(calls.live())

    def ready(self, service: str | None = None) -> bool:
        """Return whether a service, or all of the server's, would take a job now."""
        return self._do(calls.ready(service))

    def server(self) -> ServerMetadata:
        """Return what the server says of itself."""
        return self._do(calls.server())

    def metadata(self, service: str) -> ServiceMetadata:
        """Return a service's tensors."""
        return self._do(calls.metadata(service))

    def config(self, service: str) -> dict[str, Any]:
        """Return a service's configuration in Triton's words."""
        return self._do(calls.config(service))

    def statistics(self, service: str) -> dict[str, Any]:
        """Return a service's statistics in Triton's words."""
        return self._do(calls.statistics(service))

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        """Return what any other route says: JSON out, if there is a value, and JSON back."""
        return self._do(calls.ask(method, path, value))

    def close(self) -> None:
        """Close all connections that no call uses."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _do(self, call: Call[T]) -> T:
        parts = call.parts(self._endpoint.root, self._head)
        limit_s = time.monotonic() + self._timeout_s
        connection = self._connection(limit_s)
        try:
            response = connection.exchange(parts, limit_s)
        except BaseException:
            connection.close()
            raise
        if response.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return call.read(response)

    def _connection(self, limit_s: float) -> _Connection:
        """Return a connection that nobody uses: one that the server has not closed meanwhile, or a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.quiet():
                return connection
            connection.close()
        endpoint = self._endpoint
        try:
            left_s = max(1e-3, limit_s - time.monotonic())
            plain = socket.create_connection((endpoint.host, endpoint.port), timeout=left_s)
        except OSError as error:
            raise NoAnswerError(f"cannot connect to {endpoint.url}: {reason_of(error)}") from None
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return _Connection(plain, endpoint.url)
            return _Connection(self._tls.wrap_socket(plain, server_hostname=endpoint.host), endpoint.url)
        except OSError as error:
            plain.close()
            raise NoAnswerError(f"cannot connect to {endpoint.url}: {reason_of(error)}") from None


class _Connection:
    """One connection, which one call at a time uses."""

    def __init__(self, given: socket.socket, url: str) -> None:
        self._socket = given
        self._url = url
        self._answered = False

    def quiet(self) -> bool:
        """Whether nothing has come since the last response, not even the connection's end."""
        return is_quiet(self._socket)

    def exchange(self, parts: Sequence[Bytes], limit_s: float) -> Response:
        """Send a request and return its response."""
        reader = ResponseReader()
        unsent: OSError | None = None
        try:
            try:
                self._send(parts, limit_s)
            except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
                unsent = error  # a server may answer and close before it has read everything
            while True:
                self._wait_until(limit_s)
                data = self._socket.recv(READ_BYTES)
                response = reader.feed(data) if data else reader.end()
                if response is not None:
                    self._answered = True
                    return response
        except TimeoutError:
            raise NoAnswerError(f"no answer from {self._url} in time", sent=True) from None
        except (OSError, BrokenResponseError) as error:
            words = reason_of(error if isinstance(error, ssl.SSLError) else unsent or error)
            if not (reader.begun or self._answered):
                words += hint_at(error, tls=isinstance(self._socket, ssl.SSLSocket))
            raise NoAnswerError(f"no usable answer from {self._url}: {words}", sent=True) from None

    def close(self) -> None:
        """Close it; a job that waits for its answer is given up by the server."""
        self._socket.close()

    def _send(self, parts: Sequence[Bytes], limit_s: float) -> None:
        self._wait_until(limit_s)
        if isinstance(self._socket, ssl.SSLSocket):
            for part in parts:
                self._socket.sendall(part)
            return
        left = list(parts)
        while left:
            sent = self._socket.sendmsg(left)
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = memoryview(left[0])[sent:]
                self._wait_until(limit_s)

    def _wait_until(self, limit_s: float) -> None:
        left_s = limit_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


def is_quiet(connection: socket.socket) -> bool:
    """Return whether nothing waits to be read, not even the connection's end."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return not waiting.poll(0)
