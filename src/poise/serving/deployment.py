"""One configuration at work: the cells of some services, with what keeps and adapts their workers.

A deployment is started and stopped as a whole. A reload starts another beside it, and stops it once its jobs are
answered.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

import poise
from poise.adapting.adapter import Adapter
from poise.adapting.decision import Decision
from poise.adapting.events import Observed
from poise.domain.allocation import Workers
from poise.domain.profile import Profile
from poise.errors import ConfigError, ConflictError
from poise.files import FrontierCache, ServiceFolder
from poise.files.history import WorkerChange
from poise.forecasting.base import RateHistory
from poise.planning.default_allocation import initial_allocation
from poise.runtimes.cores import usable_cores
from poise.runtimes.memory import memory_left_bytes
from poise.scheduling.log import LogHeader
from poise.scheduling.scheduler import Scheduler
from poise.serving.adaptation import Adaptation, AdapterCore
from poise.serving.arena import DEFAULT_ARENA_BYTES
from poise.serving.aside import Aside, aside
from poise.serving.cell import Cell
from poise.serving.chronicle import Chronicle, FileChronicle, past_rates
from poise.serving.feedback import Feedback
from poise.serving.keeper import StaticKeeper, first_workers, profiled_kinds
from poise.serving.pool import is_emulated
from poise.serving.recording import Recorder
from poise.serving.retraining import Retraining
from poise.serving.starting import all_or_none

SWITCH_INTERVAL_S = 0.0005
"""How long a thread beside the event loop's may keep the interpreter to itself: the solver has one, the history too."""
PAST_LIMIT_S = 10.0
"""A history that takes longer to read is done without."""

log = logging.getLogger(__name__)


class Opened(msgspec.Struct, frozen=True):
    """A service to be served. ``files``: the digest of each of its model files, as it was opened."""

    folder: ServiceFolder
    profile: Profile
    files: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        """The service's name."""
        return self.folder.service.service


class Adapting(msgspec.Struct, frozen=True):
    """How the cells are adapted. ``make`` is given what is known of the load from before, by service.

    Where there is only one service it is under the empty name. ``initial`` are the workers to begin with, ``history``
    the file that is kept. ``retrains``: whether the forecasters are trained anew from it.
    """

    make: Callable[[Mapping[str, RateHistory]], AdapterCore]
    initial: tuple[Workers, ...]
    history: Path
    retrains: bool = False


class Configuration(msgspec.Struct, frozen=True):
    """What a server serves, as its files said when they were read. ``adapting`` is None where allocations stand.

    ``closed``: the services that are not to be served for now.
    """

    services: tuple[Opened, ...]
    adapting: Adapting | None = None
    closed: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The names of all services, in order."""
        return [opened.name for opened in self.services]

    def check(self) -> None:
        """Hold the services against each other.

        Raises:
            ConfigError: two of one name.
        """
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"got service {name!r} twice", expected="services of different names")


class CellSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What all cells of a server have in common.

    ``record``: where the scheduler's log goes; of several services each has its own, with its name added. ``cache``:
    the folder of what is kept to start sooner; None: beside each profile. ``traced``: whether any jobs are.
    ``shares``: so many processes put tensors into the arenas.
    """

    policy: str | None = None
    record: Path | None = None
    arena_bytes: int = DEFAULT_ARENA_BYTES
    shares: int = 1
    cache: Path | None = None
    traced: bool = False


class Place(msgspec.Struct, frozen=True):
    """Where a deployment stands: the ``number``-th of its server, beside one that answers meanwhile or not.

    ``shares`` are the cores of each service, by name, where allocations stand as they are. ``several``: whether the
    server has several services, of which this deployment may hold only one.
    """

    number: int
    shares: Mapping[str, tuple[int, ...]]
    several: bool = False
    beside: bool = False


class Relay:
    """Hands a deployment's records to the server's history, as long as it is the one that answers.

    ``alone`` is the name of its only service where the server has others too: the adapter knows it without a name.
    """

    def __init__(self, chronicle: Chronicle, alone: str = "") -> None:
        self._chronicle = chronicle
        self._alone = alone
        self.answers = False

    def observed(self, beat: Observed) -> None:
        """Keep a beat: of one second there is one, whoever answered."""
        if self.answers:
            self._chronicle.observed(
                msgspec.structs.replace(beat, service=self._alone) if self._alone else beat
            )

    def decided(self, decision: Decision) -> None:
        """Keep a decision."""
        self._chronicle.decided(decision)

    def changed(self, change: WorkerChange) -> None:
        """Keep what became of a worker."""
        self._chronicle.changed(change)


class Deployment:
    """The cells of some services, by name. ``make`` makes one; nothing is started before ``start``."""

    def __init__(
        self,
        services: Sequence[Opened],
        cells: Mapping[str, Cell],
        relay: Relay,
        retraining: Retraining | None,
        feedback: Feedback | None = None,
    ) -> None:
        self._feedback = feedback
        self.services = {opened.name: opened for opened in services}
        self.cells = dict(cells)
        self._relay = relay
        self._retraining = retraining
        self._stopped: asyncio.Future[None] | None = None

    @classmethod
    async def make(
        cls,
        services: Sequence[Opened],
        adapting: Adapting | None,
        settings: CellSettings,
        place: Place,
        chronicle: Chronicle,
        feedback: Feedback | None = None,
    ) -> Deployment:
        """Plan a deployment: arenas, schedulers and keepers; what takes long is left to a thread.

        Raises:
            ConfigError: a service that cannot be served, or a recording that cannot be written.
        """
        schedulers = await aside(lambda: _schedulers(services, adapting, settings))
        several = len(services) > 1
        past: dict[str, RateHistory] = {}
        if adapting is not None:
            past = await _past(adapting.history, services, several=several, named=place.several)
        cells: dict[str, Cell] = {}
        try:
            for opened, scheduler in zip(services, schedulers, strict=True):
                cells[opened.name] = _cell(opened, scheduler, settings, place, name=several)
            relay = Relay(chronicle, services[0].name if place.several and not several else "")
            retraining = None
            if adapting is not None:
                sys.setswitchinterval(SWITCH_INTERVAL_S)
                keyed = {name if several else "": cell for name, cell in cells.items()}
                adapter = await aside(lambda: adapting.make(past))
                adapt(keyed, adapter, relay, adapting.initial)
                if adapting.retrains and isinstance(adapter, Adapter):
                    names = {key: key or cell.wire.name for key, cell in keyed.items()}
                    retraining = Retraining(adapting.history, names, adapter.forecast_with)
            else:
                for opened in services:
                    _keep(cells[opened.name], opened, place)
            if feedback is not None:
                for opened in services:
                    await feedback.open(cells[opened.name], opened.folder, opened.profile)
                    cells[opened.name].metrics.add(feedback.counts_of(opened.name))
        except BaseException:
            for cell in cells.values():
                if feedback is not None:
                    feedback.remove(cell)
                await cell.stop()
            raise
        return cls(services, cells, relay, retraining, feedback)

    async def start(self) -> None:
        """Start the workers, and wait until they are there.

        Raises:
            WorkerError: they cannot start.
        """
        await all_or_none(cell.start() for cell in self.cells.values())
        if self._retraining is not None:
            self._retraining.start()

    def answers(self, whether: bool) -> None:
        """Take up whether this is the deployment that clients are led to."""
        self._relay.answers = whether

    def drain(self) -> None:
        """Take no new jobs from now on; ``drained`` waits for those accepted."""
        for cell in self.cells.values():
            cell.drain()

    async def drained(self) -> None:
        """Wait until every accepted job has its outcome."""
        await asyncio.gather(*(cell.drained() for cell in self.cells.values()))

    async def stop(self) -> None:
        """Stop everything; jobs that still wait are refused. Who comes second waits for the first."""
        if self._stopped is None:
            self._stopped = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopped)

    async def _stop(self) -> None:
        if self._retraining is not None:
            await self._retraining.stop()
        for cell in self.cells.values():
            await cell.stop()
            if self._feedback is not None:
                self._feedback.remove(cell)


class Chronicles:
    """The histories of a server, one for each file: deployments come and go, and write the same one."""

    def __init__(self) -> None:
        self._open: dict[Path, FileChronicle] = {}

    def at(self, path: Path) -> FileChronicle:
        """Return the history kept in a file."""
        if path not in self._open:
            self._open[path] = FileChronicle(path)
        return self._open[path]

    async def close(self) -> None:
        """Write what waits, and close them."""
        for chronicle in self._open.values():
            await asyncio.to_thread(chronicle.close)


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


def shares_of(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the cores of each service where each keeps its allocation: an equal part, or all where there are few."""
    cores = usable_cores()
    shares = {}
    for number, name in enumerate(names):
        first, end = (at * len(cores) // len(names) for at in (number, number + 1))
        shares[name] = cores[first:end] or cores
    return shares


def _schedulers(
    services: Sequence[Opened], adapting: Adapting | None, settings: CellSettings
) -> list[Scheduler]:
    """Return a scheduler for each service, its frontiers worked out."""
    schedulers = []
    for opened in services:
        service, profile = opened.folder.service, opened.profile
        cache = FrontierCache.of(opened.folder, log.warning, settings.cache)
        scheduler = Scheduler(service, profile, settings.policy, cache)
        scheduler.plan_for(initial_allocation(service, profile))
        if adapting is not None:
            scheduler.plan_for(profiled_kinds(profile))
        schedulers.append(scheduler)
    return schedulers


def _cell(opened: Opened, scheduler: Scheduler, settings: CellSettings, place: Place, *, name: bool) -> Cell:
    folder, profile = opened.folder, opened.profile
    recorder = None
    if settings.record is not None:
        policy = settings.policy or folder.service.scheduler.policy
        header = LogHeader(poise=poise.__version__, service=folder.service, profile=profile, policy=policy)
        parts = [opened.name] * place.several + [str(place.number)] * (place.number > 1)
        recorder = Recorder(settings.record.with_name(".".join([settings.record.name, *parts])), header)
    return Cell(
        folder,
        profile,
        arena_bytes=settings.arena_bytes,
        shares=settings.shares,
        recorder=recorder,
        traced=settings.traced,
        name=opened.name if name else "",
        scheduler=scheduler,
    )


def _keep(cell: Cell, opened: Opened, place: Place) -> None:
    """Have a cell keep its allocation as it stands, on its own cores."""
    cores = place.shares[opened.name]
    cell.keeper = StaticKeeper(cell, opened.folder, opened.profile, cores, at_idle=place.beside)


async def _past(
    history: Path, services: Sequence[Opened], *, several: bool, named: bool
) -> dict[str, RateHistory]:
    """Return what was observed before, by the names that the adapter knows, if it can be read soon.

    ``named``: the history holds the names of services.
    """

    def read() -> dict[str, RateHistory]:
        found = {
            opened.name if several else "": past_rates(history, opened.name if named else "")
            for opened in services
        }
        return {name: rates for name, rates in found.items() if rates is not None}

    try:
        return await Aside().call(read, PAST_LIMIT_S)
    except TimeoutError:
        log.error("the history %s takes too long to read; the forecast begins without it", history)
        return {}


def check_memory(services: Sequence[Opened], adapting: Adapting | None) -> None:
    """Make sure that the first workers of some services find memory beside those that answer.

    Raises:
        ConflictError: this machine, or this process's cgroup, has too little left.
    """
    needed = 0
    for opened in services:
        if adapting is None:
            kinds = first_workers(opened.folder, opened.profile, len(usable_cores()))
        else:
            kinds = tuple(kind for kind in adapting.initial if kind.service in ("", opened.name))
        needed += sum(
            kind.count * sum(opened.profile.variant(name).memory_bytes for name in kind.variants)
            for kind in kinds
            if not is_emulated(opened.folder, kind)
        )
    left = memory_left_bytes()
    if needed > left:
        raise ConflictError(
            f"the new workers need {needed / 1e6:.0f} MB beside those that answer, and {left / 1e6:.0f} MB are left"
        )
