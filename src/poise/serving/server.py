"""One server process from its start to its end: sockets, deployments, HTTP, signals and draining."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from msgspec.structs import replace
from prometheus_client.registry import Collector

from poise.errors import ConfigError, ConflictError, NotReadyError
from poise.ingress.feedback import add_feedback_route
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.http_metrics import HttpMetrics
from poise.ingress.http_server import BACKLOG, HttpServer
from poise.ingress.limits import Limits
from poise.ingress.repository import add_reload_route, add_repository_routes
from poise.ingress.tls import Tls
from poise.serving.access import Access, ReadTokens, Told
from poise.serving.changes import ServerChanges
from poise.serving.deployment import SWITCH_INTERVAL_S, CellSettings
from poise.serving.deployments import Configure, Deployments
from poise.serving.ending import Front, Signals, answered, first_of, see_off
from poise.serving.feedback import Feedback
from poise.serving.ingresses import Ingresses
from poise.serving.metrics import metrics_text
from poise.serving.server_file import TlsFiles
from poise.telemetry.process import ProcessMetrics
from poise.telemetry.tracing import Tracing, open_tracer

GC_THRESHOLDS = (20_000, 50, 20)
"""Requests leave next to no cycles, and a full collection stops every job: collect seldom."""

_INSTEAD = {
    errno.EADDRNOTAVAIL: "an address of this machine",
    errno.EACCES: "a port from 1024 on, or the right to a lower one",
}
"""What would do where an address cannot be bound for another reason than that somebody listens there."""

log = logging.getLogger(__name__)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started. Units: ``grace_s`` in seconds. ``grpc_port`` None: not over gRPC.

    ``insecure``: other machines may ask without a token. ``origins`` are web pages whose scripts may ask.
    ``repository``: clients may load and unload services; ``feedback``: they may send labels. ``tracing`` None: no
    request is traced. ``ingress``: so many processes take HTTP connections; 0: this one does.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_host: str = "127.0.0.1"
    grpc_port: int | None = None
    grace_s: float = 30.0
    limits: Limits = Limits()
    insecure: bool = False
    origins: tuple[str, ...] = ()
    tls: TlsFiles | None = None
    repository: bool = False
    feedback: bool = False
    ingress: int = 0
    tracing: Tracing | None = None
    cells: CellSettings = CellSettings()


class Listening(msgspec.Struct, frozen=True):
    """Where a server can be asked once it takes jobs. ``grpc``: ``host:port``; None where it is not over gRPC."""

    url: str
    grpc: str | None = None


OnReady = Callable[[Listening], None]


def run_server(
    configure: Configure, settings: ServerSettings, on_ready: OnReady, read_tokens: ReadTokens = Told
) -> int:
    """Serve until told to stop; return the exit status. ``on_ready`` is told once, when jobs are taken.

    ``configure`` reads what is to be served, and ``read_tokens`` who may ask, now and at every reload; both are called
    in a thread.

    Status 0: everything accepted was answered. 1: some jobs were given up, or an invariant broke. The process is to end
    then: it ignores signals.

    Raises:
        ConfigError: an address that cannot be bound or is not allowed, or a service that cannot be served.
        WorkerError: a worker cannot start.
    """
    if settings.ingress and settings.tracing is not None:
        raise ConfigError("got --ingress and a collector of spans", expected="one of them")
    tls = tls_of(settings)
    _raise_file_limit()
    tokens = read_tokens().tokens
    guarded = settings.insecure or tokens is not None
    if settings.grpc_port is not None:
        check_address(settings.grpc_host, settings.grpc_port, guarded=guarded)
    listener = bind(settings.host, settings.port, guarded=guarded, shared=settings.ingress > 1)
    if tls is None and tokens is not None and not is_loopback(listener.getsockname()[0]):
        log.warning("tokens travel in the clear: give --tls-cert and --tls-key")
    hosts = {"HTTP": str(listener.getsockname()[0])}
    if settings.grpc_port is not None:
        hosts["gRPC"] = str(check_address(settings.grpc_host, settings.grpc_port, guarded=True)[1][0])
    outside = [protocol for protocol, address in hosts.items() if not is_loopback(address)]
    if settings.repository and tokens is None and outside:
        log.warning(
            "--repository has no effect over %s: other machines reach the server, and clients need no token",
            " and ".join(outside),
        )
    access = Access(Guard(tokens, settings.origins), read_tokens, tls, bool(outside))
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(configure, settings, listener, access, on_ready))


def tls_of(settings: ServerSettings) -> Tls | None:
    """Return the certificate that a server shows; None where it speaks in the clear.

    Raises:
        ConfigError: files that cannot be used.
    """
    if settings.tls is None:
        return None
    ca = settings.tls.client_ca
    return Tls(Path(settings.tls.certificate), Path(settings.tls.key), None if ca is None else Path(ca))


def _raise_file_limit() -> None:
    """Take as many open files as the system lets this process have: each connection is one, each worker some."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check_address(host: str, port: int, *, guarded: bool) -> tuple[socket.AddressFamily, Any]:
    """Return what to bind a socket to, and its family.

    ``guarded``: whether clients need a token, or the operator said that none need one.

    Raises:
        ConfigError: an address beyond this machine without that, or an unknown one.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host!r}: {error.strerror}", expected="an address of this machine"
        ) from None
    family, _, _, _, address = found[0]
    if not guarded and not is_loopback(str(address[0])):
        raise ConfigError(
            f"got host {host!r}, which other machines can reach, and clients need no token",
            expected="a loopback address, --token-file FILE (or tokens in the server file), or --insecure",
        )
    return family, address


def is_loopback(address: str) -> bool:
    """Say whether an address is this machine's alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def bind(host: str, port: int, *, guarded: bool, shared: bool = False) -> socket.socket:
    """Return a listening socket; ``guarded`` as in ``check_address``, ``shared``: others may listen there too.

    Raises:
        ConfigError: as ``check_address``, or an address in use.
    """
    family, address = check_address(host, port, guarded=guarded)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        expected = _INSTEAD.get(error.errno or 0, "a free port")
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", expected=expected) from None
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, tls: Tls | None = None) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"{'http' if tls is None else 'https'}://{_address(host, port)}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _serve(
    configure: Configure,
    settings: ServerSettings,
    listener: socket.socket,
    access: Access,
    on_ready: OnReady,
) -> int:
    tracing = settings.tracing
    tracer = None if tracing is None else open_tracer(tracing)
    if tracer is not None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
    cells = replace(settings.cells, traced=tracer is not None, shares=settings.ingress + 1)
    feedback = Feedback() if settings.feedback else None
    guard, tls = access.guard, access.tls
    http: HttpServer | Ingresses | None = None

    def renewed() -> Callable[[], ServerChanges]:
        apply = access.renewed()

        def apply_everywhere() -> ServerChanges:
            changes = apply()
            if isinstance(http, Ingresses):
                http.renew()
            return changes

        return apply_everywhere

    deployments = Deployments(configure, cells, settings.grace_s, renewed, feedback)
    fronts: list[Front] = []
    signals = Signals()
    try:
        preparing = asyncio.ensure_future(deployments.prepare())
        await first_of([preparing, signals.first])
        if not preparing.done():
            preparing.cancel()
            await asyncio.wait([preparing])
            return 0
        preparing.result()
        collectors: list[Collector] = [ProcessMetrics()]
        app = HttpApp(
            deployments.gates,
            guard,
            settings.limits,
            lambda: metrics_text(deployments.metrics(), *collectors),
        )
        app.tracer = tracer
        app.outside = not is_loopback(listener.getsockname()[0])
        add_reload_route(app, deployments)
        if feedback is not None:
            add_feedback_route(app, feedback)
        if settings.repository:
            add_repository_routes(app, deployments)
        if settings.ingress:
            http = Ingresses(app, _listeners(listener, settings.ingress), settings.tls, settings.origins)
            fronts.append(http)
            await http.start()
        else:
            http = HttpServer(app, settings.limits)
            fronts.append(http)
            await http.start(listener, None if tls is None else tls.http)
        collectors.append(HttpMetrics(http))
        listening = Listening(url_of(listener, tls))
        if settings.grpc_port is not None:
            from poise.ingress.grpc_metrics import GrpcMetrics
            from poise.ingress.grpc_server import start_grpc

            _, (host, *_) = check_address(settings.grpc_host, settings.grpc_port, guarded=True)
            grpc = await start_grpc(
                deployments.gates,
                guard,
                settings.limits,
                _address(host, settings.grpc_port),
                None if tls is None else tls.grpc_credentials(),
                extensions=app.extensions,
                repository=deployments if settings.repository else None,
                tracer=tracer,
                outside=not is_loopback(host),
            )
            fronts.append(grpc)
            collectors.append(GrpcMetrics(grpc))
            listening = replace(listening, grpc=_address(host, grpc.port))
        return await _until_stopped(deployments, fronts, signals, settings, lambda: on_ready(listening))
    finally:
        await deployments.stop()
        if http is not None:
            await http.app.stop()  # what waits for it is refused, while there is somebody to tell
        await see_off(fronts, signals)
        if tracer is not None:
            await asyncio.to_thread(tracer.close)
        signals.close()


def _listeners(first: socket.socket, count: int) -> list[socket.socket]:
    """Return a listening socket for each of some processes, all of one address; the first is there already."""
    host, port = first.getsockname()[:2]
    return [first, *(bind(host, port, guarded=True, shared=True) for _ in range(count - 1))]


async def _until_stopped(
    deployments: Deployments,
    fronts: Sequence[Front],
    signals: Signals,
    settings: ServerSettings,
    on_ready: Callable[[], None],
) -> int:
    starting = asyncio.ensure_future(deployments.start())
    await first_of([starting, signals.first])
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
    await first_of([signals.first, broken])
    if broken.done():
        log.critical("the server ends: %s", broken.result())
        return 1
    log.info("draining: what is accepted is answered")
    deployments.drain()
    drained = asyncio.ensure_future(answered(deployments, fronts))
    await first_of([drained, signals.second, broken], settings.grace_s)
    if drained.done():
        return 0
    drained.cancel()
    log.error("stopping with jobs unanswered")
    return 1


async def _reload(deployments: Deployments) -> None:
    with contextlib.suppress(ConflictError, NotReadyError):  # the log has the reason
        await deployments.reload()
