"""What HTTP requests mean in an ingress process: inference is its own, all else the cell's process answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from poise.errors import TooLargeError
from poise.ingress.gate import Gates
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.limits import Limits
from poise.ingress.routes import MODEL, VERSIONED, HttpRequest, Later, Reply, Routes
from poise.serving.ingress_messages import Asked, FromIngress, Replied, RouteTold

PASSED_ON_BYTES = 4 * 2**20
"""The longest body of a request that is passed on; they are labels, and names of services."""
INFER = f"{MODEL}/infer"


class ReplyToCome:
    """The reply of a request that was passed on."""

    __slots__ = ("when_ready",)

    def __init__(self) -> None:
        self.when_ready: Callable[[Reply], None] | None = None

    def cancel(self) -> None:
        """Give it up."""
        self.when_ready = None


class IngressApp(HttpApp):
    """The server's routes, behind the same guard."""

    def __init__(
        self,
        gates: Gates,
        guard: Guard,
        limits: Limits,
        routes: Sequence[RouteTold],
        tell: Callable[[FromIngress], None],
    ) -> None:
        super().__init__(gates, guard, limits)
        self._tell = tell
        self._replies: dict[int, ReplyToCome] = {}
        self._asked = 0
        self.routes = Routes()
        for told in routes:
            if told.pattern.startswith(VERSIONED):
                continue  # it is added with the model's own
            handler = self._infer_here if told.pattern == INFER else self._pass_on
            self.routes.add(
                told.method, told.pattern, handler, changes_state=told.changes_state, admin=told.admin
            )

    def replied(self, message: Replied) -> None:
        """Take up the reply to a request that was passed on."""
        reply = self._replies.pop(message.number, None)
        if reply is not None and reply.when_ready is not None:
            reply.when_ready(Reply(message.status, (message.body,), message.headers, close=message.close))

    def _infer_here(self, request: HttpRequest) -> Reply | Later:
        return self._inference.infer(request, self.gate_of(request))  # type: ignore[return-value]

    def _pass_on(self, request: HttpRequest) -> Later:
        if len(request.body) > PASSED_ON_BYTES:
            raise TooLargeError(
                f"got a body of {len(request.body)} bytes, expected at most {PASSED_ON_BYTES} for this route"
            )
        self._asked += 1
        reply = self._replies[self._asked] = ReplyToCome()
        target = request.target + (b"?" + request.query if request.query else b"")
        self._tell(Asked(self._asked, request.method, target, dict(request.headers), bytes(request.body)))
        return reply
