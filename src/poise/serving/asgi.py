"""The HTTP front end: a bare ASGI application that speaks the Open Inference Protocol for one cell or several."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import partial
from typing import Any

import poise
from poise.domain.job import RefusalReason
from poise.errors import MalformedRequestError, NotFoundError, NotReadyError, RequestError, TooLargeError
from poise.serving import status
from poise.serving.answers import NotFiniteError, encode_answer, encode_error, encode_json
from poise.serving.cell import Cell
from poise.serving.codec import ReplyTerms, decode_infer, shown
from poise.serving.jobs import Outcome, PendingJob, Refused
from poise.serving.metrics import metrics_text
from poise.serving.wire import VERSION, metadata

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

DEFAULT_BODY_BYTES = 64 * 2**20
WATCH_AFTER_S = 0.02
"""A client is watched for leaving only once its job has waited this long: most are answered before."""

_JSON: Header = (b"content-type", b"application/json")
_BINARY: Header = (b"content-type", b"application/octet-stream")
_TEXT: Header = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")

log = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


class Reply:
    """What goes back: a status, a body and its headers."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: list[Header]) -> None:
        self.status = status
        self.body = body
        self.headers = headers


class App:
    """The ASGI application. ``cells``: one for each service, all of different names."""

    def __init__(self, cells: Sequence[Cell], max_body_bytes: int = DEFAULT_BODY_BYTES) -> None:
        self._cells = {cell.wire.name: cell for cell in cells}
        self._max_body_bytes = max_body_bytes
        self._infer_cells: dict[str, Cell] = {}
        self._pages: dict[str, Callable[[], Reply]] = {
            "/v2": self._server_metadata,
            "/v2/health/live": lambda: _json(status.OK, {"live": True}),
            "/v2/health/ready": partial(self._ready, tuple(cells)),
            "/metrics": self._metrics,
        }
        for cell in cells:
            model = f"/v2/models/{cell.wire.name}"
            for base in (model, f"{model}/versions/{VERSION}"):
                self._infer_cells[f"{base}/infer"] = cell
                self._pages[base] = partial(_metadata, cell)
                self._pages[f"{base}/ready"] = partial(self._ready, (cell,))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"got a connection of type {scope['type']!r}, expected http")
        try:
            reply = await self._reply(scope, receive)
        except RequestError as error:
            reply = _error(status.status_of_error(error), error.message)
        except ClientGoneError:
            return
        except Exception:
            log.exception("a request to %s failed", scope["path"])
            reply = _error(status.INTERNAL, status.GENERIC)
        reply.headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path: str = scope["path"]
        cell = self._infer_cells.get(path)
        page = None if cell is not None else self._pages.get(path) or self._pages.get(path.rstrip("/"))
        if cell is None and page is None:
            raise NotFoundError(self._not_here(path))
        expected = "GET" if cell is None else "POST"
        if scope["method"] != expected:
            reply = _error(status.METHOD_NOT_ALLOWED, f"got method {scope['method']}, expected {expected}")
            reply.headers.append((b"allow", expected.encode()))
            return reply
        if cell is not None:
            return await self._infer(cell, scope, receive)
        assert page is not None
        return page()

    def _not_here(self, path: str) -> str:
        words = path.split("/")
        if words[1:3] == ["v2", "models"] and len(words) > 3 and words[3]:
            if words[3] not in self._cells:
                return f"no model {shown(words[3])}, expected {' or '.join(self._cells)}"
            if len(words) > 5 and words[4] == "versions" and words[5] != VERSION:
                return f"no version {shown(words[5])}, expected {VERSION}"
        return f"no route {shown(path)}"

    # Pages

    def _server_metadata(self) -> Reply:
        return _json(
            status.OK,
            {
                "name": "poise",
                "version": poise.__version__,
                "extensions": ["binary_tensor_data"],
                "models": list(self._cells),
            },
        )

    def _ready(self, cells: Sequence[Cell]) -> Reply:
        for cell in cells:
            if not cell.ready:
                words = "draining" if cell.draining else "loading, or no worker is ready"
                raise NotReadyError(f"the server is not ready: {words}")
        return _json(status.OK, {"name": cells[0].wire.name, "ready": True})

    def _metrics(self) -> Reply:
        cells = {name: cell.metrics for name, cell in self._cells.items()}
        return Reply(status.OK, metrics_text(cells), [_TEXT])

    # Inference

    async def _infer(self, cell: Cell, scope: Scope, receive: Receive) -> Reply:
        length, header_length = _lengths(scope["headers"])
        if length is not None and length > self._max_body_bytes:
            raise self._too_large(length)
        pending, terms = _admit(cell, await self._body(receive), header_length)
        outcome = pending if isinstance(pending, Refused) else await _outcome(cell, pending, receive)
        if isinstance(outcome, Refused):
            return _refusal(outcome, terms)
        try:
            body, json_length = encode_answer(terms, outcome.answer, outcome.outputs, cell.wire, cell.label)
        except NotFiniteError as error:
            return _error(status.HTTP_OF_REASON[error.reason], str(error))
        if json_length is None:
            return Reply(status.OK, body, [_JSON])
        return Reply(
            status.OK, body, [_BINARY, (b"inference-header-content-length", str(json_length).encode())]
        )

    async def _body(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                raise self._too_large(size)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, size: int) -> TooLargeError:
        return TooLargeError(f"got a body of {size} bytes or more, expected at most {self._max_body_bytes}")


def _metadata(cell: Cell) -> Reply:
    return _json(status.OK, metadata(cell.wire))


def _admit(cell: Cell, body: bytes, header_length: int | None) -> tuple[PendingJob | Refused, ReplyTerms]:
    """Take a job in. A function of its own so that a waiting job holds nothing of its body any more."""
    request = decode_infer(body, header_length, cell.wire)
    return cell.admit(request), request.reply


async def _outcome(cell: Cell, pending: PendingJob, receive: Receive) -> Outcome:
    """Wait for a job's outcome; cancel it if its client leaves first."""
    if pending.outcome.done():
        return pending.outcome.result()
    watches: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()

    def watch() -> None:
        watches.append(loop.create_task(_watch(cell, pending, receive)))

    timer = loop.call_later(WATCH_AFTER_S, watch)
    try:
        return await pending.outcome
    finally:
        timer.cancel()
        for task in watches:
            task.cancel()
        cell.cancel(pending)  # nothing to do where it has its outcome


async def _watch(cell: Cell, pending: PendingJob, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cell.cancel(pending)


def _lengths(headers: Iterable[Header]) -> tuple[int | None, int | None]:
    """Return the body's length and the length of its JSON, where the headers say so.

    Raises:
        MalformedRequestError: a length that is no number, or a compressed body.
    """
    length = header_length = None
    for name, value in headers:
        if name == b"content-length":
            length = _number(value, "Content-Length")
        elif name == b"inference-header-content-length":
            header_length = _number(value, "Inference-Header-Content-Length")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise MalformedRequestError("got a Content-Encoding, expected a body that is not compressed")
    return length, header_length


def _number(value: bytes, header: str) -> int:
    if not (value.isdigit() and len(value) <= 18):
        raise MalformedRequestError(
            f"{header}: got {shown(value.decode('latin-1'))}, expected a number of bytes"
        )
    return int(value)


def _refusal(refused: Refused, terms: ReplyTerms) -> Reply:
    code = status.status_of_refusal(refused.reason, own_terms=terms.own_terms)
    return _error(code, status.words_of_refusal(refused.reason, refused.detail), refused.reason)


def _error(code: int, message: str, reason: RefusalReason | None = None) -> Reply:
    return Reply(code, encode_error(message, reason), [_JSON])


def _json(code: int, value: Any) -> Reply:
    return Reply(code, encode_json(value), [_JSON])
