"""The deployments of a server: which one answers, which one comes, and which one still answers what it had.

A new one is read, checked and started beside the one that answers, which knows nothing of it. Then the gates are
changed, all at once; the one before answers what it was given, and is stopped. Whatever goes wrong before the change
leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from poise.errors import ConfigError, ConflictError, InternalError, NotReadyError, WorkerError
from poise.ingress.gate import Gates, unknown_model
from poise.ingress.repository import ModelState, Reloaded
from poise.serving.aside import aside
from poise.serving.cell import Cell
from poise.serving.changes import ServerChanges, changed_services, words_for_clients, words_of
from poise.serving.chronicle import NoChronicle
from poise.serving.deployment import (
    SWITCH_INTERVAL_S,
    CellSettings,
    Chronicles,
    Configuration,
    Deployment,
    Place,
    check_memory,
    shares_of,
)
from poise.serving.feedback import Feedback
from poise.serving.metrics import CellMetrics
from poise.serving.starting import all_or_none

COLLECT_S = 0.5
"""So long after the end of a deployment, what is left of it is collected."""
LINGER_S = 0.5
"""So long a deployment still takes jobs once the gates lead past it: of requests that were being read meanwhile."""

Configure = Callable[[Collection[str]], Configuration]
"""Reads all files anew; the services of these names are read and checked, and not to be served."""

Renew = Callable[[], Callable[[], ServerChanges]]
"""Reads what else a reload takes up, in a thread; what it returns puts that into use, on the event loop."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Deployments:
    """Everything that a server serves; it is the server's ``Repository`` too.

    ``broken`` is set if what answers can no longer be trusted. ``grace_s``: how long a change waits until the
    deployment before the present one is gone, for there are never more than two.
    """

    def __init__(
        self,
        configure: Configure,
        settings: CellSettings,
        grace_s: float,
        renew: Renew | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.gates = Gates({})
        self.broken: asyncio.Future[BaseException] = loop.create_future()
        self._configure = configure
        self._renew = renew
        self._feedback = feedback
        self._settings = settings
        self._grace_s = grace_s
        self._chronicles = Chronicles()
        self._configuration = Configuration(())
        self._serving: dict[str, Deployment] = {}
        self._closed: dict[str, Cell | None] = {}  # unloaded services; None once their last job is answered
        self._retiring: dict[Deployment, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._number = 0
        self._ending = False

    # Life

    async def prepare(self) -> None:
        """Read the files and plan everything, so that the gates are there; nothing is started yet.

        Raises:
            ConfigError: something that cannot be served.
        """
        configuration = await aside(lambda: self._configure(()))
        configuration.check()
        self._serve(configuration, await self._made(configuration, None, beside=False))

    async def start(self) -> None:
        """Start what was prepared, and wait until the workers are there.

        Raises:
            WorkerError: they cannot start.
        """
        await _started(self._current())

    def drain(self) -> None:
        """Take no new jobs, and begin no change, from now on."""
        self._ending = True
        for change in self._changes:
            change.cancel()
        for deployment in self._all():
            deployment.drain()

    async def drained(self) -> None:
        """Wait until every accepted job has its outcome."""
        await asyncio.gather(*(deployment.drained() for deployment in self._all()))

    async def stop(self) -> None:
        """Stop everything; jobs that still wait are refused."""
        self._ending = True
        there = [*self._all()]  # those that are on their way out have jobs and recordings too
        tasks = (*self._changes, *self._retiring.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for deployment in dict.fromkeys((*there, *self._all())):
            await deployment.stop()
        await self._chronicles.close()

    def cells(self) -> dict[str, Cell]:
        """Return the cells that clients are led to, by service."""
        return {
            name: self._serving[name].cells[name]
            for name in self._configuration.names
            if name in self._serving
        }

    def metrics(self) -> dict[str, CellMetrics]:
        """Return what those cells count."""
        return {name: cell.metrics for name, cell in self.cells().items()}

    # The repository

    def index(self) -> tuple[ModelState, ...]:
        """Return all services that the server was started with."""
        return tuple(self._state(name) for name in self._configuration.names)

    async def load(self, name: str) -> None:
        """Read a service anew and serve it, in the place of what is served under that name."""
        await self._change(lambda: self._load(name))

    async def unload(self, name: str) -> None:
        """Take no more jobs for a service, and stop its workers once those accepted are answered."""
        await self._change(lambda: self._unload(name))

    async def reload(self) -> Reloaded:
        """Read all service files anew, and serve what they say."""
        return await self._change(self._reload)

    def _state(self, name: str) -> ModelState:
        if name in self._closed:
            if self._closed[name] is not None:
                return ModelState(name, "UNLOADING")
            return ModelState(name, "UNAVAILABLE", "unloaded")
        cell = self._serving[name].cells[name]
        if cell.ready:
            return ModelState(name, "READY")
        if not cell.started:
            return ModelState(name, "LOADING")
        return ModelState(name, "UNAVAILABLE", "draining" if cell.draining else "no worker is ready")

    # Changes, one after another

    async def _change(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a change in its turn. It goes on if whoever asked for it leaves."""
        if self._ending:
            raise NotReadyError("the server is draining")
        task = asyncio.get_running_loop().create_task(self._in_turn(change))
        self._changes.add(task)
        task.add_done_callback(self._change_done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise NotReadyError("the server is draining") from None
            raise

    def _change_done(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # it is in the log, and whoever asked may be gone

    async def _in_turn(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._changing:
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            try:
                return await change()
            except (ConfigError, ConflictError, WorkerError) as error:
                log.error("refused, and everything stays as it is: %s", error)
                raise ConflictError(words_for_clients(error)) from None
            except (OSError, MemoryError, InternalError) as error:
                log.exception("refused, and everything stays as it is")
                raise ConflictError(f"it failed: {type(error).__name__}; the log says more") from None

    async def _reload(self) -> Reloaded:
        began_s = time.monotonic()
        before = self._configuration.services
        renew = await aside(self._renew) if self._renew is not None else None
        await self._replace(None, [*self._closed])
        server = ServerChanges() if renew is None else renew()
        changes = changed_services(before, self._configuration.services)
        all_changes = {"the server": server.taken, **changes} if server.taken else changes
        log.info("reloaded; changed: %s", words_of(all_changes) or "nothing")
        return Reloaded(changes, time.monotonic() - began_s, server.taken, server.next_start)

    async def _load(self, name: str) -> None:
        await self._replace(name, [other for other in self._closed if other != name])
        log.info("loaded service %s", name)

    async def _unload(self, name: str) -> None:
        if name not in self._serving:
            self._check_known(name)
            return  # it is unloaded already
        old = self._serving[name]
        if len(old.cells) > 1:  # one adapter for several: it plans anew for the rest
            await self._replace(None, [*self._closed, name])
        else:
            await self._room_for_another()
            self._closed[name] = old.cells[name]
            del self._serving[name]
            self._retire(old, linger_s=0.0)
        log.info("unloaded service %s", name)

    def _check_known(self, name: str) -> None:
        if name not in self._configuration.names:
            raise unknown_model(name, self._configuration.names)

    async def _replace(self, only: str | None, closed: Sequence[str]) -> None:
        """Serve what the files say, all or one service of it, in the place of what is served; some are closed."""
        await self._room_for_another()
        configuration = await aside(lambda: self._configure(closed))
        configuration.check()
        if only is not None and only not in configuration.names:
            self._check_known(only)
            raise ConflictError(f"no service {only!r} any more, found {' and '.join(configuration.names)}")
        if configuration.adapting is not None or self._configuration.adapting is not None:
            only = None
        if only is not None:
            configuration = _with_one_new(self._configuration, configuration, only)
        news = await self._made(configuration, only, beside=True)
        try:
            await _started(news)
        except BaseException:
            for deployment in news:
                await deployment.stop()
            _collect_soon()
            raise
        self._serve(configuration, news)

    async def _room_for_another(self) -> None:
        """Wait until the deployment before the present one is gone.

        Raises:
            ConflictError: it still has jobs to answer.
        """
        if self._retiring:
            _, pending = await asyncio.wait(self._retiring.values(), timeout=self._grace_s)
            if pending:
                raise ConflictError("what was served before the last change still has jobs to answer")

    async def _made(
        self, configuration: Configuration, only: str | None, *, beside: bool
    ) -> list[Deployment]:
        """Plan the deployments of what is to be served: one for all that an adapter adapts, else one for each."""
        wanted = [
            opened
            for opened in configuration.services
            if opened.name not in configuration.closed and only in (None, opened.name)
        ]
        adapting = configuration.adapting
        if beside:
            check_memory(wanted, adapting)
        self._number += 1
        names = configuration.names
        place = Place(self._number, shares_of(names), several=len(names) > 1, beside=beside)
        chronicle = NoChronicle() if adapting is None else self._chronicles.at(adapting.history)
        made: list[Deployment] = []
        try:
            for group in [wanted] if adapting is not None else [[opened] for opened in wanted]:
                made.append(
                    await Deployment.make(group, adapting, self._settings, place, chronicle, self._feedback)
                )
        except BaseException:
            for deployment in made:
                await deployment.stop()
            raise
        return made

    def _serve(self, configuration: Configuration, news: Sequence[Deployment]) -> None:
        """Lead clients to new deployments; those that nobody is led to any more end once they have answered."""
        before = self._serving
        fresh = {name: deployment for deployment in news for name in deployment.cells}
        kept = {name: held for name, held in before.items() if name not in configuration.closed}
        either = {**kept, **fresh}
        served = {name: either[name] for name in configuration.names if name in either}
        for name in configuration.closed:
            if name in before:
                cell = self._closed[name] = before[name].cells[name]
                cell.drain()
        self._closed = {name: cell for name, cell in self._closed.items() if name in configuration.closed}
        self._serving = served
        self._configuration = configuration
        self._lead()
        for deployment in news:
            deployment.answers(True)
            for cell in deployment.cells.values():
                cell.broken.add_done_callback(partial(self._broke, deployment))
        for deployment in dict.fromkeys(before.values()):
            if deployment not in self._current():
                self._retire(deployment, LINGER_S)

    def _lead(self) -> None:
        """Lead clients to what is served. What is unloaded says that it is, and nothing more once it has answered."""
        cells = {**self.cells(), **{name: cell for name, cell in self._closed.items() if cell is not None}}
        self.gates.replace({name: cells[name] for name in self._configuration.names if name in cells})

    def _broke(self, deployment: Deployment, why: asyncio.Future[BaseException]) -> None:
        if deployment in self._current() and not self.broken.done():
            self.broken.set_result(why.result())

    def _retire(self, deployment: Deployment, linger_s: float) -> None:
        deployment.answers(False)
        if not linger_s:
            deployment.drain()
        task = asyncio.get_running_loop().create_task(self._retired(deployment, linger_s))
        self._retiring[deployment] = task
        task.add_done_callback(lambda _: self._retiring.pop(deployment, None))

    async def _retired(self, deployment: Deployment, linger_s: float) -> None:
        """Stop a deployment that clients are no longer led to, once it has answered what it was given."""
        await asyncio.sleep(linger_s)
        deployment.drain()
        drained = asyncio.ensure_future(deployment.drained())
        ends: list[asyncio.Future[Any]] = [drained]
        ends += [cell.broken for cell in deployment.cells.values()]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
        for name, cell in self._closed.items():
            if cell is not None and cell is deployment.cells.get(name):
                self._closed[name] = None
                self._lead()
        await deployment.stop()
        _collect_soon()

    def _current(self) -> list[Deployment]:
        return list(dict.fromkeys(self._serving.values()))

    def _all(self) -> list[Deployment]:
        return [*self._current(), *self._retiring]


async def _started(deployments: Sequence[Deployment]) -> None:
    await all_or_none(deployment.start() for deployment in deployments)


def _collect_soon() -> None:
    """Have what was stopped collected, once nobody who stopped it refers to it any more."""
    asyncio.get_running_loop().call_later(COLLECT_S, _collect)


def _collect() -> None:
    # It was put beyond the collector's reach when it began.
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _with_one_new(before: Configuration, after: Configuration, name: str) -> Configuration:
    """Return a configuration that takes only one service from another, and which are closed."""
    found = {opened.name: opened for opened in after.services}
    known = {opened.name for opened in before.services}
    services = tuple(found[name] if opened.name == name else opened for opened in before.services)
    if name not in known:
        services = (*services, found[name])
    return Configuration(services, None, after.closed)
