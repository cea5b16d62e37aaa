"""The workers of a cell: started together, each started again with a growing pause when it dies."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import Protocol

from poise.domain.profile import Profile
from poise.domain.service import WorkerKind
from poise.errors import ConfigError, WorkerError
from poise.files import ServiceFolder
from poise.planning.default_allocation import initial_allocation
from poise.runtimes.cores import place_workers
from poise.serving.arena import Arena
from poise.serving.messages import CannotStart, Done, Failed, FromWorker, Ready, Start, Stop
from poise.serving.process import WorkerProcess

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STOP_LIMIT_S = 5.0

log = logging.getLogger(__name__)


class WorkerListener(Protocol):
    """Who is told what the workers do."""

    def worker_ready(self, worker: WorkerProcess, kind: WorkerKind) -> None:
        """Take a worker into use: it has loaded."""

    def batch_done(self, worker: WorkerProcess, done: Done) -> None:
        """Take up a finished batch: its outputs are in its rows."""

    def batch_failed(self, worker: WorkerProcess, failed: Failed) -> None:
        """Take up a batch that the model could not answer."""

    def worker_lost(self, worker: WorkerProcess) -> None:
        """Give up a worker that was ready: its process is gone, and with it the batch it had."""


class Seat:
    """A worker's place: what it holds and where it runs; outlives the processes that sit on it."""

    def __init__(self, kind: WorkerKind, cores: tuple[int, ...]) -> None:
        self.kind = kind
        self.cores = cores
        self.process: WorkerProcess | None = None
        self.ready = False
        self.pause_s = FIRST_PAUSE_S
        self.problem: str | None = None


class WorkerPool:
    """Owns the worker processes. All methods belong to the event loop's thread."""

    def __init__(
        self,
        folder: ServiceFolder,
        profile: Profile,
        arena: Arena,
        cores: Sequence[int],
        listener: WorkerListener,
    ) -> None:
        """Plan the workers; nothing is started yet.

        Raises:
            ConfigError: a kind of worker that the profile does not cover.
        """
        self._folder = folder
        self._profile = profile
        self._arena = arena
        self._listener = listener
        if folder.service.allocation is None and folder.service.budget.cores > len(cores):
            log.warning("the budget has %d cores, there are %d here", folder.service.budget.cores, len(cores))
        kinds = [
            k for kind in initial_allocation(folder.service, profile, len(cores)) for k in [kind] * kind.count
        ]
        check_kinds(kinds, profile)
        placed = place_workers([kind.threads for kind in kinds], cores)
        self.seats = [Seat(kind, own) for kind, own in zip(kinds, placed, strict=True)]
        self._seat_of: dict[WorkerProcess, Seat] = {}
        self._next_id = 0
        self._stopping = False
        self._started: asyncio.Future[None] | None = None
        self._emptied: asyncio.Future[None] | None = None

    @property
    def ready(self) -> int:
        """How many workers can be given batches."""
        return sum(seat.ready for seat in self.seats)

    async def start(self) -> None:
        """Start all workers and wait until each has loaded.

        Raises:
            WorkerError: one cannot start.
        """
        self._started = asyncio.get_running_loop().create_future()
        try:
            for seat in self.seats:
                self._spawn(seat)
            await self._started
        finally:
            self._started = None

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop all workers: after their present batch if that is soon done, or at once."""
        self._stopping = True
        if not self._seat_of:
            return
        self._emptied = asyncio.get_running_loop().create_future()
        for worker, seat in list(self._seat_of.items()):
            if seat.ready and not at_once:
                worker.send(Stop())
            else:
                worker.kill()
        done, _ = await asyncio.wait([self._emptied], timeout=STOP_LIMIT_S)
        if not done:
            for worker in list(self._seat_of):
                worker.kill()
            await self._emptied

    def praise(self, worker: WorkerProcess) -> None:
        """Note that a worker has answered: the next pause before a new start is the shortest again."""
        self._seat_of[worker].pause_s = FIRST_PAUSE_S

    def _spawn(self, seat: Seat) -> None:
        if self._stopping:
            return
        self._next_id += 1
        start = Start(
            folder=str(self._folder.file),
            service=self._folder.service,
            profile=self._profile,
            variants=seat.kind.variants,
            threads=seat.kind.threads,
            device=seat.kind.device,
            layout=self._arena.layout,
        )
        seat.problem = None
        try:
            seat.process = WorkerProcess(
                self._next_id,
                start,
                self._arena.fd,
                seat.cores,
                on_message=self._message,
                on_exit=self._exited,
            )
        except OSError as error:  # no memory, no more processes
            seat.problem = f"its process cannot be started: {error.strerror}"
            self._again(seat)
            return
        self._seat_of[seat.process] = seat

    def _message(self, worker: WorkerProcess, message: FromWorker) -> None:
        seat = self._seat_of[worker]
        if isinstance(message, Done):
            self._listener.batch_done(worker, message)
        elif isinstance(message, Failed):
            log.error("worker %d: %s", worker.worker_id, message.message)
            self._listener.batch_failed(worker, message)
        elif isinstance(message, CannotStart):
            seat.problem = message.message
        elif isinstance(message, Ready):
            seat.ready = True
            log.info(
                "worker %d ready on cores %s: loaded %s in %.2f s, %d MB resident",
                worker.worker_id,
                ",".join(str(core) for core in worker.cores),
                ", ".join(seat.kind.variants),
                message.load_s,
                message.memory_bytes // 1_000_000,
            )
            self._listener.worker_ready(worker, seat.kind)
            if self._started is not None and not self._started.done() and self.ready == len(self.seats):
                self._started.set_result(None)

    def _exited(self, worker: WorkerProcess, status: int) -> None:
        seat = self._seat_of.pop(worker)
        was_ready, seat.ready, seat.process = seat.ready, False, None
        if was_ready:
            self._listener.worker_lost(worker)
        if self._stopping:
            if not self._seat_of and self._emptied is not None and not self._emptied.done():
                self._emptied.set_result(None)
            return
        if seat.problem is None:
            seat.problem = f"its process ended with {_status_words(status)}"
        self._again(seat)

    def _again(self, seat: Seat) -> None:
        if self._started is not None:
            if not self._started.done():
                self._started.set_exception(WorkerError(f"a worker cannot start: {seat.problem}"))
            return
        log.warning("a worker was lost (%s); starting it again in %.1f s", seat.problem, seat.pause_s)
        asyncio.get_running_loop().call_later(seat.pause_s, self._spawn, seat)
        seat.pause_s = min(2 * seat.pause_s, LONGEST_PAUSE_S)


def check_kinds(kinds: Sequence[WorkerKind], profile: Profile) -> None:
    """Hold an allocation against the profile before any process is started.

    Raises:
        ConfigError: a worker of threads or of a device that some variant was not profiled with.
    """
    for kind in kinds:
        for name in kind.variants:
            for stage in profile.variant(name).stages:
                if not any((p.device, p.threads) == (kind.device, kind.threads) for p in stage.latency):
                    raise ConfigError(
                        f"variant {name!r}, stage {stage.name!r} has no latency with {kind.threads} threads "
                        f"on {kind.device}",
                        field="allocation",
                        expected="threads and a device that the profile has",
                    )


def _status_words(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
