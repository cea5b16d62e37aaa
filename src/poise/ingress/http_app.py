"""What HTTP requests mean: who may ask, which route answers, and the pages that need no job."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

import poise
from poise.errors import NotFoundError, NotReadyError, TooLargeError
from poise.ingress.decoding import LARGE_JSON_BYTES, LargeJson
from poise.ingress.gate import Gate, Gates, unknown_model, why_not_ready
from poise.ingress.guard import Guard, check_admin
from poise.ingress.http_infer import Inference
from poise.ingress.inflating import Bodies
from poise.ingress.limits import Limits
from poise.ingress.pages import kept_while, seldom_written
from poise.ingress.routes import (
    MODEL,
    Handler,
    HttpRequest,
    Later,
    Reply,
    Route,
    Routes,
    error_reply,
    json_reply,
)
from poise.protocol import openapi, status
from poise.protocol.codec import shown
from poise.protocol.statistics import Statistics
from poise.protocol.wire import VERSION, metadata
from poise.telemetry.tracing import Tracer

EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters", "schedule_policy", "statistics"]
"""The protocol's extensions that are always there."""
REPOSITORY = "model_repository"
"""That for whoever may change the server's state."""

_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class HttpApp:
    """All routes, behind one guard. ``metrics`` returns what Prometheus scrapes; ``tracer`` None: nothing is traced.

    ``outside``: other machines reach it. Then nobody changes the server's state who did not need a token.
    """

    def __init__(
        self, gates: Gates, guard: Guard, limits: Limits, metrics: Callable[[], bytes] | None = None
    ) -> None:
        self.gates = gates
        self.guard = guard
        self.limits = limits
        self.routes = Routes()
        self.tracer: Tracer | None = None
        self.extensions: list[str] = list(EXTENSIONS)
        self.outside = False
        self._inference = Inference(gates, limits, LargeJson())
        self._infer: dict[bytes, dict[str, Route]] = {}
        add = self.routes.add
        add("GET", "/v2", self._server_metadata)
        add("GET", "/v2/health/live", lambda _: json_reply({"live": True}))
        add("GET", "/v2/health/ready", lambda _: self._ready())
        add("GET", MODEL, lambda request: json_reply(metadata(self.gate_of(request).wire)))
        add("GET", f"{MODEL}/config", lambda request: json_reply(self.gate_of(request).config()))
        add("GET", f"{MODEL}/stats", lambda request: _statistics((self.gate_of(request),)))
        add("GET", "/v2/models/stats", lambda _: _statistics(gates.values()))
        add("GET", f"{MODEL}/ready", lambda request: _model_ready(self.gate_of(request)))
        add(
            "POST",
            f"{MODEL}/infer",
            lambda request: self._inference.infer(request, self.gate_of(request)),
            traced=True,
        )
        add("GET", openapi.PATH, kept_while(self._told_by_openapi, self._openapi))
        if metrics is not None:
            add("GET", "/metrics", seldom_written(lambda _: Reply(status.OK, (metrics(),), (_TEXT,))))
        gates.watch(self._find_infer_routes)
        self._find_infer_routes()

    def route(self, request: HttpRequest, length: int) -> Route | Reply:
        """Decide on a request from its head alone. ``length``: its body's, in bytes, as far as the head says.

        Raises:
            RequestError: no token, not allowed, no such path, or too much.
        """
        headers = request.headers
        guard = self.guard
        if not guard.open:
            given = headers.get(b"authorization")
            request.identity = guard.identify(None if given is None else given.decode("latin-1"))
        methods = self._infer.get(request.target)
        if methods is None:
            methods, request.parameters = self.routes.find(request.target)
        route = methods.get(request.method)
        if route is None and request.method == "HEAD":
            route = methods.get("GET")
        if route is not None and route.admin and self._admins_kept_out:
            raise NotFoundError(f"no route {shown(request.target.decode('latin-1'))}")
        if route is None:
            expected = ", ".join(sorted(methods))
            words = f"got method {shown(request.method)}, expected {expected}"
            return error_reply(status.METHOD_NOT_ALLOWED, words, None, (b"allow", expected.encode()))
        if route.changes_state:
            origin = headers.get(b"origin")
            guard.check_origin(None if origin is None else origin.decode("latin-1"))
        if route.admin:
            check_admin(request.identity)
        if length > self.limits.body_bytes:
            raise TooLargeError(
                f"got a body of {length} bytes or more, expected at most {self.limits.body_bytes}"
            )
        return route

    def room_for(self, request: HttpRequest, length: int) -> memoryview:
        """Return where the body of a request is to be received; nothing is written to it yet."""
        if length > LARGE_JSON_BYTES and _is_json(request):
            room = self._inference.large_json.room_for(length)
            if room is not None:
                return room
        return np.empty(length, np.uint8).data

    async def stop(self) -> None:
        """End what runs beside the event loop."""
        await self._inference.large_json.stop()

    def count_bodies(self, bodies: Bodies) -> None:
        """Have what bodies inflate to counted with those that are on their way in."""
        self._inference.bodies = bodies

    def gate_of(self, request: HttpRequest) -> Gate:
        """Return the gate that a request's path names.

        Raises:
            NotFoundError: no such model, or version.
        """
        name = request.parameters["model"]
        gate = self.gates.get(name)
        if gate is None:
            raise unknown_model(name, self.gates)
        version = request.parameters.get("version", VERSION)
        if version != VERSION:
            raise NotFoundError(f"no version {shown(version)}, expected {VERSION}")
        return gate

    @property
    def _admins_kept_out(self) -> bool:
        return self.outside and self.guard.open

    def _find_infer_routes(self) -> None:
        """Know the paths of inference as they are mostly written, without looking for a pattern."""
        self._infer = {}
        for name in self.gates:
            for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/{VERSION}/infer"):
                route = Route(
                    _infer_at(self._inference, self.gates, name), True, False, f"{MODEL}/infer", True
                )
                self._infer[path.encode()] = {"POST": route}

    def _server_metadata(self, request: HttpRequest) -> Reply:
        return json_reply(
            {
                "name": "poise",
                "version": poise.__version__,
                "extensions": [
                    name for name in self.extensions if name != REPOSITORY or not self._admins_kept_out
                ],
                "models": list(self.gates),
            }
        )

    def _told_by_openapi(self) -> object:
        return len(self.routes), self._admins_kept_out, [gate.wire for gate in self.gates.values()]

    def _openapi(self, request: HttpRequest) -> Reply:
        wires = [gate.wire for gate in self.gates.values()]
        kept_out = self._admins_kept_out
        there = (
            (pattern, [method for method, route in methods.items() if not (kept_out and route.admin)])
            for pattern, methods in self.routes
        )
        return json_reply(openapi.document(there, wires, poise.__version__))

    def _ready(self) -> Reply:
        why = why_not_ready(self.gates.values())
        if why is not None:
            raise NotReadyError(f"the server is not ready: {why}")
        return json_reply({"ready": True})


def _model_ready(gate: Gate) -> Reply:
    if not gate.ready:
        words = "draining" if gate.draining else "loading, or no worker is ready"
        raise NotReadyError(f"service {gate.wire.name!r} is not ready: {words}")
    return json_reply({"name": gate.wire.name, "ready": True})


def _statistics(gates: Sequence[Gate]) -> Reply:
    return json_reply(Statistics(tuple(gate.statistics() for gate in gates)))


def _infer_at(inference: Inference, gates: Gates, name: str) -> Handler:
    """Return the handler of one service, at whichever gate it has once a request's body is there."""

    def handler(request: HttpRequest) -> Reply | Later | Coroutine[Any, Any, Reply]:
        gate = gates.get(name)
        if gate is None:
            raise unknown_model(name, gates)
        return inference.infer(request, gate)

    return handler


def _is_json(request: HttpRequest) -> bool:
    """Say whether a body will go to the JSON process as it comes."""
    headers = request.headers
    return b"inference-header-content-length" not in headers and b"content-encoding" not in headers
