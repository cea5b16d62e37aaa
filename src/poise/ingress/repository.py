"""The protocol's repository extension, and what it drives: which of a server's services are there, and their reload.

Both protocols ask the one ``Repository`` of the server.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar

import msgspec

from poise.errors import MalformedRequestError, TooLargeError
from poise.ingress.http_app import REPOSITORY, HttpApp
from poise.ingress.routes import JSON, HttpRequest, Reply, json_reply
from poise.protocol import status
from poise.protocol.json_tensors import body_problem
from poise.protocol.wire import VERSION

RELOAD_PATH = "/v2/poise/reload"
MAX_REQUEST_BYTES = 16 * 2**10
"""The longest request that brings no tensors, over both protocols: it is read on the event loop."""

T = TypeVar("T")
State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


class ModelState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A service in the repository's index. ``reason``: why it is unavailable."""

    name: str
    state: State
    reason: str = ""
    version: str = ""


class Reloaded(msgspec.Struct, frozen=True):
    """What a reload changed: fields of the service file, ``profile`` and model files, by service. Units: seconds.

    ``server`` are fields of the server file that hold from now on, ``next_start`` those that do from the next start.
    """

    services: dict[str, tuple[str, ...]]
    took_s: float
    server: tuple[str, ...] = ()
    next_start: tuple[str, ...] = ()


class Repository(Protocol):
    """What a server can be told to serve. All of it applies whole or not at all."""

    def index(self) -> tuple[ModelState, ...]:
        """Return all services that the server was started with."""

    async def load(self, name: str) -> None:
        """Read a service anew and serve it, in the place of what is served under that name.

        Raises:
            NotFoundError: no such service.
            ConflictError: it cannot be served as its files are; everything stays as it is.
        """

    async def unload(self, name: str) -> None:
        """Take no more jobs for a service, and stop its workers once those accepted are answered.

        Raises:
            NotFoundError: no such service.
            ConflictError: the others cannot be served without it; everything stays as it is.
        """

    async def reload(self) -> Reloaded:
        """Read all service files anew, and serve what they say in the place of what is served.

        Raises:
            ConflictError: they cannot be served as they are; everything stays as it is.
        """


class _IndexRequest(msgspec.Struct, frozen=True):
    ready: bool = False


_index_decoder = msgspec.json.Decoder(_IndexRequest)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def add_reload_route(app: HttpApp, repository: Repository) -> None:
    """Add the route that has the server read its files anew."""

    async def reload(request: HttpRequest) -> Reply:
        return json_reply(await repository.reload())

    app.routes.add("POST", RELOAD_PATH, reload, admin=True)


def add_repository_routes(app: HttpApp, repository: Repository) -> None:
    """Add the routes of the repository extension."""

    def index(request: HttpRequest) -> Reply:
        wanted = _decoded(_index_decoder, request)
        return json_reply(models_in(repository, ready=wanted is not None and wanted.ready))

    async def load(request: HttpRequest) -> Reply:
        await repository.load(request.parameters["model"])
        return Reply(status.OK, (), (JSON,))

    async def unload(request: HttpRequest) -> Reply:
        await repository.unload(request.parameters["model"])
        return Reply(status.OK, (), (JSON,))

    def checked(request: HttpRequest) -> HttpRequest:
        _decoded(_object_decoder, request)
        return request

    app.extensions.append(REPOSITORY)
    app.routes.add("POST", "/v2/repository/index", index, changes_state=False, admin=True)
    app.routes.add("POST", "/v2/repository/models/{model}/load", lambda r: load(checked(r)), admin=True)
    app.routes.add("POST", "/v2/repository/models/{model}/unload", lambda r: unload(checked(r)), admin=True)


def models_in(repository: Repository, *, ready: bool) -> tuple[ModelState, ...]:
    """Return the repository's index; ``ready``: only what is ready. Whatever was loaded once has a version."""
    return tuple(
        msgspec.structs.replace(model, version=VERSION)
        for model in repository.index()
        if not ready or model.state == "READY"
    )


def check_length(length: int) -> None:
    """Refuse a request that brings no tensors and is so long all the same.

    Raises:
        TooLargeError: it is longer than ``MAX_REQUEST_BYTES``.
    """
    if length > MAX_REQUEST_BYTES:
        raise TooLargeError(
            f"got a request of {length} bytes, expected at most {MAX_REQUEST_BYTES}, as it brings no tensors"
        )


def _decoded(decoder: msgspec.json.Decoder[T], request: HttpRequest) -> T | None:
    """Return what a body says; None where there is none.

    Raises:
        MalformedRequestError: it is not JSON, or of another form.
        TooLargeError: it is longer than any that makes sense.
    """
    check_length(len(request.body))
    body = bytes(request.body)
    if not body.strip():
        return None
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequestError(body_problem(error, body)) from None
