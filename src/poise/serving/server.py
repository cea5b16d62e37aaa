"""One server process from its start to its end: socket, cell, HTTP, signals and draining."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

import poise
from poise.adapting.adapter import Adapter
from poise.domain.allocation import Workers
from poise.domain.profile import Profile
from poise.errors import ConfigError
from poise.files import ServiceFolder
from poise.forecasting.base import RateHistory
from poise.ingress.gate import Gates
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.http_metrics import HttpMetrics
from poise.ingress.http_server import HttpServer
from poise.ingress.limits import Limits
from poise.runtimes.cores import usable_cores
from poise.scheduling.log import LogHeader
from poise.serving.adaptation import Adaptation, AdapterCore
from poise.serving.arena import DEFAULT_ARENA_BYTES
from poise.serving.cell import Cell
from poise.serving.chronicle import Chronicle, FileChronicle, past_rates
from poise.serving.keeper import StaticKeeper, profiled_kinds
from poise.serving.metrics import CellMetrics, metrics_text
from poise.serving.recording import Recorder
from poise.serving.retraining import Retraining
from poise.telemetry.process import ProcessMetrics

BACKLOG = 2048
TAKE_LIMIT_S = 5
"""How long clients may take to read their answers once all jobs have one and the server ends."""
GC_THRESHOLDS = (20_000, 50, 20)
"""Requests leave next to no cycles, and a full collection stops every job: collect seldom."""

SWITCH_INTERVAL_S = 0.0005
"""How long a thread beside the event loop's may keep the interpreter to itself: the solver has one, the history too."""
PAST_LIMIT_S = 10.0
"""A history that takes longer to read is done without."""

log = logging.getLogger(__name__)


class Adapting(msgspec.Struct, frozen=True):
    """How the cells are adapted. ``make`` is given what is known of the load from before, by service.

    Where there is only one service it is under the empty name. ``initial`` are the workers to begin with, ``history``
    the file that is kept. ``retrains``: whether the forecasters are trained anew from it.
    """

    make: Callable[[Mapping[str, RateHistory]], AdapterCore]
    initial: tuple[Workers, ...]
    history: Path
    retrains: bool = False


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started. Units: ``grace_s`` in seconds.

    ``record``: where the scheduler's log goes; of several services each has its own, with its name added.
    ``adapting`` is None where each service's allocation is kept as it stands.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    policy: str | None = None
    record: Path | None = None
    grace_s: float = 30.0
    limits: Limits = Limits()
    arena_bytes: int = DEFAULT_ARENA_BYTES
    insecure: bool = False
    adapting: Adapting | None = None


class Opened(msgspec.Struct, frozen=True):
    """A service to be served."""

    folder: ServiceFolder
    profile: Profile


def run_server(services: Sequence[Opened], settings: ServerSettings, on_ready: Callable[[str], None]) -> int:
    """Serve until told to stop; return the exit status. ``on_ready`` is given the URL once, when jobs are taken.

    Status 0: everything accepted was answered. 1: some jobs were given up, or an invariant broke.

    Raises:
        ConfigError: an address that cannot be bound or is not allowed, or a service that cannot be served.
        WorkerError: a worker cannot start.
    """
    names = [opened.folder.service.service for opened in services]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"got service {name!r} twice", expected="services of different names")
    listener = bind(settings.host, settings.port, insecure=settings.insecure)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(services, settings, listener, on_ready))


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
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _serve(
    services: Sequence[Opened],
    settings: ServerSettings,
    listener: socket.socket,
    on_ready: Callable[[str], None],
) -> int:
    cells = _cells(services, settings)
    chronicle = retraining = None
    if settings.adapting is not None:
        past = await _past(settings.adapting.history, list(cells))
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        chronicle = FileChronicle(settings.adapting.history)
        adapter = settings.adapting.make(past)
        adapt(cells, adapter, chronicle, settings.adapting.initial)
        if settings.adapting.retrains and isinstance(adapter, Adapter):
            names = {key: key or cell.wire.name for key, cell in cells.items()}
            retraining = Retraining(settings.adapting.history, names, adapter.forecast_with)
            retraining.start()
    served = list(cells.values())
    gates = Gates({cell.wire.name: cell for cell in served})
    process = ProcessMetrics()
    app = HttpApp(
        gates, Guard(), settings.limits, lambda: metrics_text(_metrics_of(served), process, http_metrics)
    )
    http = HttpServer(app, settings.limits)
    http_metrics = HttpMetrics(http)
    signals = _Signals()
    await http.start(listener)
    try:
        return await _until_stopped(served, signals, settings, lambda: on_ready(url_of(listener)))
    finally:
        if retraining is not None:
            await retraining.stop()
        for cell in served:
            await cell.stop()
        await http.stop(TAKE_LIMIT_S)
        signals.close()
        if chronicle is not None:
            await asyncio.to_thread(chronicle.close)


def _metrics_of(cells: Sequence[Cell]) -> dict[str, CellMetrics]:
    return {cell.wire.name: cell.metrics for cell in cells}


def _cells(services: Sequence[Opened], settings: ServerSettings) -> dict[str, Cell]:
    """Return a cell for each service, by name; one alone is under the empty name."""
    cores = usable_cores()
    cells: dict[str, Cell] = {}
    for number, opened in enumerate(services):
        folder, profile = opened.folder, opened.profile
        name = folder.service.service if len(services) > 1 else ""
        recorder = None
        if settings.record is not None:
            policy = settings.policy or folder.service.scheduler.policy
            header = LogHeader(
                poise=poise.__version__, service=folder.service, profile=profile, policy=policy
            )
            path = settings.record.with_name(f"{settings.record.name}.{name}") if name else settings.record
            recorder = Recorder(path, header)
        cell = cells[name] = Cell(
            folder,
            profile,
            policy=settings.policy,
            arena_bytes=settings.arena_bytes,
            recorder=recorder,
            name=name,
        )
        if name and settings.adapting is None:
            first, end = (at * len(cores) // len(services) for at in (number, number + 1))
            cell.keeper = StaticKeeper(cell, folder, profile, cores[first:end] or cores)
    return cells


def adapt(
    cells: Mapping[str, Cell], adapter: AdapterCore, chronicle: Chronicle, initial: tuple[Workers, ...]
) -> Adaptation:
    """Have an adapter decide which workers some cells have; nothing is started yet."""
    for cell in cells.values():
        cell.scheduler.plan_for(profiled_kinds(cell.profile))
    adaptation = Adaptation(adapter, cells, usable_cores(), chronicle, initial)
    for cell in cells.values():
        cell.keeper = adaptation
    next(iter(cells.values())).metrics.add(adaptation.metrics)
    return adaptation


async def _past(history: Path, names: Sequence[str]) -> dict[str, RateHistory]:
    """Return what an earlier server observed, if it can be read soon."""

    def read() -> dict[str, RateHistory]:
        found = {name: past_rates(history, name) for name in names}
        return {name: rates for name, rates in found.items() if rates is not None}

    try:
        return await asyncio.wait_for(asyncio.to_thread(read), PAST_LIMIT_S)
    except TimeoutError:
        log.error("the history %s takes too long to read; the forecast begins without it", history)
        return {}


async def _until_stopped(
    cells: Sequence[Cell], signals: _Signals, settings: ServerSettings, on_ready: Callable[[], None]
) -> int:
    starting = asyncio.gather(*(cell.start() for cell in cells))
    await _first([starting, signals.first])
    if not starting.done():
        starting.cancel()
        return 0
    starting.result()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    on_ready()
    broken = [cell.broken for cell in cells]
    await _first([signals.first, *broken])
    for future in broken:
        if future.done():
            log.critical("the server ends: %s", future.result())
            return 1
    log.info("draining: what is accepted is answered")
    for cell in cells:
        cell.drain()
    drained = asyncio.gather(*(cell.drained() for cell in cells))
    await _first([drained, signals.second, *broken], settings.grace_s)
    if drained.done():
        return 0
    drained.cancel()
    log.error("stopping with jobs unanswered")
    return 1


async def _first(futures: Sequence[asyncio.Future[Any]], timeout_s: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


class _Signals:
    """The first and the second SIGTERM or SIGINT, as futures."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = self._loop.create_future()
        self.second: asyncio.Future[None] = self._loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._got)

    def _got(self) -> None:
        future = self.second if self.first.done() else self.first
        if not future.done():
            future.set_result(None)

    def close(self) -> None:
        """Leave signals to whoever had them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)
