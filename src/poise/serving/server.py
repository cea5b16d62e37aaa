"""One server process from its start to its end: sockets, deployments, HTTP, signals and draining."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop
from msgspec.structs import replace

from poise.errors import ConfigError, ConflictError, NotReadyError
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.http_metrics import HttpMetrics
from poise.ingress.http_server import HttpServer
from poise.ingress.limits import Limits
from poise.ingress.repository import add_reload_route
from poise.serving.deployment import CellSettings
from poise.serving.deployments import Configure, Deployments
from poise.serving.metrics import metrics_text
from poise.telemetry.process import ProcessMetrics

if TYPE_CHECKING:
    from poise.ingress.grpc_server import GrpcServer

BACKLOG = 2048
TAKE_LIMIT_S = 5
"""How long clients may take to read their answers once all jobs have one and the server ends."""
GC_THRESHOLDS = (20_000, 50, 20)
"""Requests leave next to no cycles, and a full collection stops every job: collect seldom."""

log = logging.getLogger(__name__)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started. Units: ``grace_s`` in seconds. ``grpc_port`` None: not over gRPC."""

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    grace_s: float = 30.0
    limits: Limits = Limits()
    insecure: bool = False
    cells: CellSettings = CellSettings()


class Listening(msgspec.Struct, frozen=True):
    """Where a server can be asked once it takes jobs. ``grpc``: ``host:port``; None where it is not over gRPC."""

    url: str
    grpc: str | None = None


OnReady = Callable[[Listening], None]


def run_server(configure: Configure, settings: ServerSettings, on_ready: OnReady) -> int:
    """Serve until told to stop; return the exit status. ``on_ready`` is told once, when jobs are taken.

    ``configure`` reads what is to be served, now and at every reload; it is called in a thread.

    Status 0: everything accepted was answered. 1: some jobs were given up, or an invariant broke.

    Raises:
        ConfigError: an address that cannot be bound or is not allowed, or a service that cannot be served.
        WorkerError: a worker cannot start.
    """
    listener = bind(settings.host, settings.port, insecure=settings.insecure)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(configure, settings, listener, on_ready))


def bind(host: str, port: int, *, insecure: bool) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: an address beyond this machine without ``insecure``, an unknown one, or one in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host!r}: {error.strerror}", expected="an address of this machine"
        ) from None
    family, kind, protocol, _, address = found[0]
    if not insecure and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise ConfigError(
            f"got host {host!r}, which other machines can reach, and there is no authentication",
            expected="a loopback address, or --insecure",
        )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}", expected="a free port"
        ) from None
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{_address(host, port)}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _serve(
    configure: Configure, settings: ServerSettings, listener: socket.socket, on_ready: OnReady
) -> int:
    deployments = Deployments(configure, settings.cells, settings.grace_s)
    http: HttpServer | None = None
    grpc: GrpcServer | None = None
    signals = _Signals()
    try:
        await deployments.prepare()
        process = ProcessMetrics()
        app = HttpApp(
            deployments.gates,
            Guard(),
            settings.limits,
            lambda: metrics_text(deployments.metrics(), process, http_metrics),
        )
        add_reload_route(app, deployments)
        http = HttpServer(app, settings.limits)
        http_metrics = HttpMetrics(http)
        await http.start(listener)
        listening = Listening(url_of(listener))
        if settings.grpc_port is not None:
            from poise.ingress.grpc_server import start_grpc

            host = listener.getsockname()[0]
            grpc = await start_grpc(
                deployments.gates,
                app.guard,
                settings.limits,
                _address(host, settings.grpc_port),
                extensions=app.extensions,
            )
            listening = replace(listening, grpc=_address(host, grpc.port))
        return await _until_stopped(deployments, signals, settings, lambda: on_ready(listening))
    finally:
        await deployments.stop()
        if grpc is not None:
            await grpc.stop(TAKE_LIMIT_S)
        if http is not None:
            await http.stop(TAKE_LIMIT_S)
            await http.app.stop()
        signals.close()


async def _until_stopped(
    deployments: Deployments, signals: _Signals, settings: ServerSettings, on_ready: Callable[[], None]
) -> int:
    starting = asyncio.ensure_future(deployments.start())
    await _first([starting, signals.first])
    if not starting.done():
        starting.cancel()
        return 0
    starting.result()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    signals.on_hangup(lambda: _reload(deployments))
    on_ready()
    broken = deployments.broken
    await _first([signals.first, broken])
    if broken.done():
        log.critical("the server ends: %s", broken.result())
        return 1
    log.info("draining: what is accepted is answered")
    deployments.drain()
    drained = asyncio.ensure_future(deployments.drained())
    await _first([drained, signals.second, broken], settings.grace_s)
    if drained.done():
        return 0
    drained.cancel()
    log.error("stopping with jobs unanswered")
    return 1


async def _reload(deployments: Deployments) -> None:
    with contextlib.suppress(ConflictError, NotReadyError):  # the log has the reason
        await deployments.reload()


async def _first(futures: Sequence[asyncio.Future[Any]], timeout_s: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


class _Signals:
    """The first and the second SIGTERM or SIGINT, as futures; and SIGHUP, which is ignored until it means something."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = self._loop.create_future()
        self.second: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._got)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: None)

    def on_hangup(self, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something at every SIGHUP from now on."""

        def hung_up() -> None:
            task = self._loop.create_task(do())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.add_signal_handler(signal.SIGHUP, hung_up)

    def _got(self) -> None:
        future = self.second if self.first.done() else self.first
        if not future.done():
            future.set_result(None)

    def close(self) -> None:
        """Leave signals to whoever had them."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
