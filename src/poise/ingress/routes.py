"""Requests, replies and the one table of routes that HTTP knows."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import msgspec

from poise.domain.job import RefusalReason
from poise.errors import NotFoundError, RequestError, UnauthorizedError, UnknownEncodingError
from poise.ingress.guard import EVERYBODY, Identity
from poise.protocol import status
from poise.protocol.answers import encode_error, encode_json
from poise.protocol.codec import shown
from poise.protocol.compression import ENCODINGS
from poise.protocol.layouts import Layouts

if TYPE_CHECKING:
    from poise.ingress.trace import RequestTrace

Header = tuple[bytes, bytes]
Bytes = bytes | bytearray | memoryview

JSON: Header = (b"content-type", b"application/json")
BINARY: Header = (b"content-type", b"application/octet-stream")

MODEL = "/v2/models/{model}"
VERSIONED = "/v2/models/{model}/versions/{version}"


class Reply:
    """What goes back. The connection adds the length of ``body``, whose parts are sent one after another."""

    __slots__ = ("body", "close", "headers", "status")

    def __init__(
        self,
        code: int,
        body: tuple[Bytes, ...] = (),
        headers: tuple[Header, ...] = (),
        *,
        close: bool = False,
    ) -> None:
        self.status = code
        self.body = body
        self.headers = headers
        self.close = close


class Later(Protocol):
    """A reply that is still to come. Whoever gets one sets ``when_ready``, and may cancel it before it is called."""

    when_ready: Callable[[Reply], None] | None

    def cancel(self) -> None:
        """Give it up; ``when_ready`` is never called."""


class HttpRequest:
    """One request. ``headers`` have lower-case names; ``parameters`` are those of the route's pattern.

    ``body`` may be read until the handler returns, by a coroutine too only if it is ``owned``: others lie in the buffer
    that the next read goes to. ``trace`` is None where it is not traced. ``layouts`` are its client's.
    """

    __slots__ = (
        "body",
        "headers",
        "identity",
        "layouts",
        "method",
        "owned",
        "parameters",
        "query",
        "target",
        "trace",
    )

    def __init__(
        self, method: str, target: bytes, headers: Mapping[bytes, bytes], layouts: Layouts | None = None
    ) -> None:
        self.method = method
        self.target, _, self.query = target.partition(b"?")
        self.headers = headers
        self.layouts = layouts or Layouts()
        self.body: Bytes = b""
        self.owned = False
        self.identity: Identity = EVERYBODY
        self.parameters: Mapping[str, str] = {}
        self.trace: RequestTrace | None = None


Handler = Callable[[HttpRequest], Reply | Later | Coroutine[Any, Any, Reply]]


class Route(msgspec.Struct, frozen=True):
    """How one method of a path is answered.

    ``changes_state``: not for web pages of others; ``admin``: only for whoever may change the server's state.
    ``pattern``: of its path, as metrics and spans name it. ``traced``: its requests are, where any are.
    """

    handler: Handler
    changes_state: bool
    admin: bool
    pattern: str = ""
    traced: bool = False


LONGEST_PATH_BYTES = 2 * 2**10
"""Of a path that is looked for: one with names of the longest allowed, written in per cents, is shorter."""


class Routes:
    """Routes by path and method. A part of a pattern in braces stands for any one part of a path."""

    def __init__(self) -> None:
        self._most_parts = 0
        self._exact: dict[tuple[str, ...], dict[str, Route]] = {}
        self._patterns: dict[tuple[str, ...], dict[str, Route]] = {}

    def add(
        self,
        method: str,
        pattern: str,
        handler: Handler,
        *,
        changes_state: bool | None = None,
        admin: bool = False,
        traced: bool = False,
    ) -> None:
        """Add a route; those of a model have the same for its version. All but GET change a state, unless said."""
        changes = method != "GET" if changes_state is None else changes_state
        route = Route(handler, changes, admin, pattern, traced)
        self._add(method, pattern, route)
        if pattern == MODEL or pattern.startswith(f"{MODEL}/"):
            self._add(method, VERSIONED + pattern.removeprefix(MODEL), route)

    def _add(self, method: str, pattern: str, route: Route) -> None:
        parts = tuple(pattern.split("/"))
        self._most_parts = max(self._most_parts, len(parts))
        table = self._patterns if "{" in pattern else self._exact
        table.setdefault(parts, {})[method] = route

    def __len__(self) -> int:
        """How many there are."""
        return sum(len(methods) for table in (self._exact, self._patterns) for methods in table.values())

    def __iter__(self) -> Iterator[tuple[str, dict[str, Route]]]:
        """Yield each pattern with its routes by method."""
        for table in (self._exact, self._patterns):
            for parts, methods in table.items():
                yield "/".join(parts), methods

    def find(self, target: bytes) -> tuple[dict[str, Route], dict[str, str]]:
        """Return the routes of a path by method, and the parts that its pattern leaves open.

        Raises:
            NotFoundError: no such path.
        """
        path = target.decode("latin-1")
        # Before any work on it that grows with its length; one part more, for a slash at the end.
        if len(path) > LONGEST_PATH_BYTES or path.count("/") > self._most_parts:
            raise NotFoundError(f"no route {shown(path)}")
        parts = tuple(unquote(part) for part in path.split("/"))
        if parts[-1] == "" and len(parts) > 2:
            parts = parts[:-1]
        found = self._exact.get(parts)
        if found is not None:
            return found, {}
        for pattern, methods in self._patterns.items():
            if len(pattern) == len(parts):
                names = {
                    wanted[1:-1]: part
                    for wanted, part in zip(pattern, parts, strict=True)
                    if wanted[:1] == "{"
                }
                if all(names.values()) and all(
                    wanted[:1] == "{" or wanted == part for wanted, part in zip(pattern, parts, strict=True)
                ):
                    return methods, names
        raise NotFoundError(f"no route {shown(path)}")


def json_reply(value: Any, code: int = status.OK) -> Reply:
    """Return a reply of JSON."""
    return Reply(code, (encode_json(value),), (JSON,))


def error_reply(
    code: int, message: str, reason: RefusalReason | None = None, *headers: Header, close: bool = False
) -> Reply:
    """Return an error as the protocol writes it."""
    return Reply(code, (encode_error(message, reason),), (JSON, *headers), close=close)


def reply_to(error: RequestError, *, close: bool = False) -> Reply:
    """Return the reply to a request that a RequestError ended, with the headers that HTTP wants beside its status."""
    headers = _BESIDE.get(type(error), ())
    return error_reply(status.status_of_error(error), error.message, None, *headers, close=close)


_BESIDE: dict[type[RequestError], tuple[Header, ...]] = {
    UnauthorizedError: ((b"www-authenticate", b"Bearer"),),
    UnknownEncodingError: ((b"accept-encoding", ", ".join(ENCODINGS).encode()),),
}
