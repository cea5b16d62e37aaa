"""The gRPC server: a port, and the calls of it, on the event loop that everything else runs on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import TypeAlias

import grpc

from poise.errors import ConfigError, DeadlineError, InternalError, MalformedRequestError, RequestError
from poise.ingress.gate import Gates
from poise.ingress.grpc_methods import REPOSITORY_METHODS, SERVICE, CallError, GrpcMethods, Method
from poise.ingress.guard import Guard, Identity
from poise.ingress.http_app import REPOSITORY
from poise.ingress.limits import Limits
from poise.ingress.repository import Repository
from poise.ingress.trace import grpc_trace
from poise.protocol import status
from poise.telemetry.tracing import Tracer
from poise.telemetry.traffic import Traffic

PING_INTERVAL_S = 10.0
"""Clients may ask whether the server is there as often as this; more often is taken for abuse."""
ASK_AGAIN_S = 0.01
QUIET_S, TAKE_UP_LIMIT_S = 0.05, 1.0
"""All calls that were received have been handed over once none came for so long; it is waited for no longer than."""
INFER = "ModelInfer"
HEALTH = "grpc.health.v1.Health"

_REASON = "poise-reason"
_CODES = {code.name: code for code in grpc.StatusCode}

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

log = logging.getLogger(__name__)


class GrpcServer:
    """A running server. ``port`` is the one that it listens on, ``traffic`` what it counts."""

    def __init__(
        self,
        server: grpc.aio.Server,
        port: int,
        traffic: Traffic,
        calls: Set[Context],
        came: Callable[[], int] = lambda: 0,
    ) -> None:
        """``calls``: those whose message is there and whose answer is not; as they come and go. ``came``: how many."""
        self.port = port
        self.traffic = traffic
        self._server = server
        self._calls = calls
        self._came = came

    async def replied(self) -> None:
        """Wait until each call that waits for its answer now has one, or its client is gone."""
        waiting = set(self._calls)
        while not waiting.isdisjoint(self._calls):
            await asyncio.sleep(ASK_AGAIN_S)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end those that are not answered after so many seconds.

        What grpcio has received and not handed over yet, it would cancel without a word: that is taken up before, for
        a moment, and so is what comes meanwhile.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + min(grace_s, TAKE_UP_LIMIT_S)
        came = -1
        while came != self._came() and loop.time() < end_s:
            came = self._came()
            await asyncio.sleep(QUIET_S)
        await self._server.stop(grace_s)


async def start_grpc(
    gates: Gates,
    guard: Guard,
    limits: Limits,
    address: str,
    credentials: grpc.ServerCredentials | None = None,
    *,
    extensions: Sequence[str] = (),
    repository: Repository | None = None,
    tracer: Tracer | None = None,
    outside: bool = False,
) -> GrpcServer:
    """Listen on an address, ``host:port``; port 0 takes a free one. Without credentials there is no TLS.

    ``extensions``: what the metadata tells of; ``repository`` None: there is none; ``tracer`` None: nothing is traced.
    ``outside``: other machines reach it; then nobody changes the server's state who did not need a token.

    Raises:
        ConfigError: nobody can listen there.
    """
    if outside and guard.open:
        extensions = [name for name in extensions if name != REPOSITORY]
    methods = GrpcMethods(gates, limits, extensions, repository)
    traffic = Traffic("grpc")
    door = _Door(methods, guard, limits, traffic, tracer, outside)
    server = grpc.aio.server(
        handlers=(door,),
        options=_options(limits),
        maximum_concurrent_rpcs=limits.connections,
    )
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ConfigError(
            f"cannot listen on {address} for gRPC", expected="an address of this machine and a free port"
        ) from None
    await server.start()
    return GrpcServer(server, port, traffic, door.calls, lambda: door.came)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.head_bytes),
        ("grpc.absolute_max_metadata_size", limits.head_bytes),
        ("grpc.server_handshake_timeout_ms", round(limits.head_s * 1e3)),
        ("grpc.max_connection_idle_ms", round(limits.idle_s * 1e3)),
        # a client that is gone without a word is found out, and its jobs are taken off the queue
        ("grpc.keepalive_time_ms", round(limits.idle_s * 1e3)),
        ("grpc.keepalive_timeout_ms", round(limits.head_s * 1e3)),
        ("grpc.http2.min_ping_interval_without_data_ms", round(PING_INTERVAL_S * 1e3)),
        ("grpc.http2.max_ping_strikes", 2),
    ]


class _Door(grpc.GenericRpcHandler):
    """What every call of every method comes through, known or not: who asks is found out here, and nowhere else."""

    def __init__(
        self,
        methods: GrpcMethods,
        guard: Guard,
        limits: Limits,
        traffic: Traffic,
        tracer: Tracer | None,
        outside: bool,
    ) -> None:
        self._methods = {f"/{SERVICE}/{name}": (name, method) for name, method in methods.table().items()}
        self._methods[f"/{HEALTH}/Check"] = ("Check", methods.health_check())
        self._guard = guard
        self._limits = limits
        self._traffic = traffic
        self._tracer = tracer
        self._outside = outside
        self.calls: set[Context] = set()
        self.came = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return how a call is answered; None where there is no such method."""
        self.came += 1
        given = dict(handler_call_details.invocation_metadata or ())
        try:
            identity = self._guard.identify(_text(given.get("authorization")))
            self._guard.check_origin(_text(given.get("origin")))
        except RequestError as error:
            refused = CallError.of(error)
            self._count("", refused.status)
            return _refusal(refused)
        name, method = self._methods.get(handler_call_details.method, ("", None))
        if method is None or (name in REPOSITORY_METHODS and self._outside and self._guard.open):
            self._traffic.requests["", "UNIMPLEMENTED"] += 1
            return None

        async def behave(_: object, context: Context) -> bytes:
            trace = None
            if self._tracer is not None and name == INFER:
                trace = grpc_trace(self._tracer, _text(given.get("traceparent")), SERVICE, name)
            code = status.CLIENT_GONE  # unless the call comes to an end of its own
            try:
                answer = await (await self._taken_in(method, identity, context))
                code = status.OK
                return answer
            except Exception as error:
                told = _told(error, name)
                code = told.status
                await _abort(context, told)
            finally:
                self.calls.discard(context)
                self._count(name, code)
                if trace is not None:
                    trace.end(code, **{"rpc.grpc.status_code": _CODES[status.grpc_status(code)].value[0]})
            raise AssertionError("a call goes on after its end")

        # One message is all that comes, but so its bytes are ours alone, and gone before the job waits.
        return grpc.stream_unary_rpc_method_handler(behave)

    def _count(self, name: str, code: int) -> None:
        self._traffic.requests[name, status.grpc_status(code)] += 1

    async def _taken_in(self, method: Method, identity: Identity, context: Context) -> Awaitable[bytes]:
        try:
            async with asyncio.timeout(self._limits.idle_s):
                message = await context.read()
        except TimeoutError:
            raise DeadlineError("the message did not come in time") from None
        if not isinstance(message, bytes):
            raise MalformedRequestError("got a call without a message, expected one")
        self.calls.add(context)
        return await method(identity, message, context.time_remaining())


def _told(error: Exception, name: str) -> CallError:
    """Return how an error is told; what is a fault of ours goes to the log."""
    if isinstance(error, CallError):
        return error
    if isinstance(error, RequestError):
        return CallError.of(error)
    if not isinstance(error, InternalError):  # whoever raises that has logged it
        log.error("a call of %s failed", name, exc_info=error)
    return CallError(status.INTERNAL, status.GENERIC)


def _refusal(error: CallError) -> Handler:
    async def refuse(_: object, context: Context) -> None:
        await _abort(context, error)

    # whatever the client wanted to send, nothing of it is waited for
    return grpc.stream_stream_rpc_method_handler(refuse)


async def _abort(context: Context, error: CallError) -> None:
    trailing = () if error.reason is None else ((_REASON, error.reason.value),)
    await context.abort(_CODES[status.grpc_status(error.status)], error.words, trailing)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("latin-1") if isinstance(value, bytes) else value
