"""The workers of a cell: processes that load, are put on their cores, answer and end. Who is wanted, a keeper says."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import msgspec

from poise.domain.allocation import Workers
from poise.domain.profile import Profile
from poise.errors import ConfigError
from poise.files import ServiceFolder
from poise.serving.arena import Arena
from poise.serving.hosting import EmulatedHosts
from poise.serving.messages import CannotStart, Done, Failed, FromWorker, Start, Stop
from poise.serving.process import Worker, WorkerProcess

STOP_LIMIT_S = 5.0
LOAD_LIMIT_S = 60.0
LOAD_LIMIT_TIMES = 20.0
"""A worker that has not loaded after ``LOAD_LIMIT_S``, and so many times what its resident set took to load when it was
profiled, is ended: most likely it never will. Much is left for libraries to be read, and for cores that are busy."""

IDLE_LIMIT_S = 2.0
IDLE_LIMIT_TIMES = 4.0
"""One that loads at idle priority goes on at normal priority after ``IDLE_LIMIT_S``, and so many times that: cores that
are never idle would leave it no time, and when they are so busy is when it is wanted."""

State = Literal["loading", "loaded", "ending"]

log = logging.getLogger(__name__)


class WorkerListener(Protocol):
    """Who is told what the workers do."""

    def worker_loaded(self, worker: Worker, kind: Workers, load_s: float) -> None:
        """Take up that a worker has loaded its resident set."""

    def batch_done(self, worker: Worker, done: Done) -> None:
        """Take up a finished batch: its outputs are in its rows."""

    def batch_failed(self, worker: Worker, failed: Failed) -> None:
        """Take up a batch that the model could not answer."""

    def worker_gone(self, worker_id: int, problem: str, *, loaded: bool) -> None:
        """Give up a worker: it could not be loaded, or its process is gone, and with it the batch it had.

        ``problem`` is for the operator; empty where it was told to end.
        """


class _Member:
    """A worker and what is known of it."""

    def __init__(self, kind: Workers) -> None:
        self.kind = kind
        self.worker: Worker | None = None
        self.state: State = "loading"
        self.loaded = False
        self.problem = ""
        self.again = False  # it is to be started again, once its process is gone
        self.limit: asyncio.TimerHandle | None = None
        self.idle_limit: asyncio.TimerHandle | None = None

    def forget_limits(self) -> None:
        """Watch no longer how long it loads."""
        for limit in (self.limit, self.idle_limit):
            if limit is not None:
                limit.cancel()


class WorkerPool:
    """Owns the worker processes. All methods belong to the event loop's thread."""

    def __init__(
        self, folder: ServiceFolder, profile: Profile, arena: Arena, listener: WorkerListener
    ) -> None:
        """Make a pool without workers."""
        self._folder = folder
        self._profile = profile
        self._arena = arena
        self._listener = listener
        self._members: dict[int, _Member] = {}
        self._hosts = EmulatedHosts(folder.service, profile, arena)
        self._stopping = False
        self._emptied: asyncio.Future[None] | None = None

    @property
    def loading(self) -> int:
        """How many workers are loading."""
        return sum(member.state == "loading" for member in self._members.values())

    def kinds_of(self, worker_ids: Iterable[int]) -> tuple[Workers, ...]:
        """Return the kinds of some workers, each with how many of them there are."""
        alike: dict[Workers, int] = {}
        for worker_id in worker_ids:
            kind = msgspec.structs.replace(self._members[worker_id].kind, count=1)
            alike[kind] = alike.get(kind, 0) + 1
        return tuple(msgspec.structs.replace(kind, count=count) for kind, count in alike.items())

    def load(self, worker_id: int, kind: Workers, cores: Sequence[int], *, at_idle: bool = False) -> None:
        """Start a worker on some cores; the listener hears that it is loaded, or gone.

        ``at_idle``: it loads at idle priority, because others answer on those cores meanwhile.
        """
        if self._stopping:
            return
        member = self._members[worker_id] = _Member(kind)
        try:
            if is_emulated(self._folder, kind):
                member.worker = self._hosts.host().take(
                    worker_id,
                    kind.variants,
                    kind.threads,
                    kind.device,
                    on_message=self._message,
                    on_exit=self._exited,
                )
            else:
                member.worker = self._process(worker_id, kind, cores, at_idle=at_idle)
        except OSError as error:  # no memory, no more processes
            problem = f"its process cannot be started: {error.strerror}"
            asyncio.get_running_loop().call_soon(self._never_was, worker_id, problem)
            return
        limit_s = load_limit_s(kind, self._profile)
        member.limit = asyncio.get_running_loop().call_later(
            limit_s, self._too_slow, worker_id, member, limit_s
        )
        if at_idle and isinstance(member.worker, WorkerProcess):
            self._watch_idle(worker_id, member)

    def settle(self, worker_id: int, cores: Sequence[int]) -> Worker | None:
        """Pin a loaded worker to its cores at normal priority and return it; None where it is gone."""
        member = self._members.get(worker_id)
        if member is None or member.worker is None or member.state != "loaded":
            return None
        member.worker.settle(cores)
        return member.worker

    def end(self, worker_id: int) -> None:
        """End a worker: after its present batch, or at once if it is still loading. The listener hears of it."""
        member = self._members.get(worker_id)
        if member is None or member.worker is None or member.state == "ending":
            return
        member.state = "ending"
        if member.loaded:
            member.worker.send(Stop())
            member.forget_limits()
            member.limit = asyncio.get_running_loop().call_later(STOP_LIMIT_S, self._kill, worker_id, member)
        else:
            member.worker.kill()

    async def stop(self, *, at_once: bool = False) -> None:
        """Stop all workers: after their present batch if that is soon done, or at once."""
        self._stopping = True
        if any(member.worker is not None for member in self._members.values()):
            self._emptied = asyncio.get_running_loop().create_future()
            for worker_id, member in list(self._members.items()):
                if at_once and member.worker is not None:
                    member.worker.kill()
                else:
                    self.end(worker_id)
            done, _ = await asyncio.wait([self._emptied], timeout=STOP_LIMIT_S)
            if not done:
                for member in list(self._members.values()):
                    if member.worker is not None:
                        member.worker.kill()
                await self._emptied
        await self._hosts.end()

    def _process(
        self, worker_id: int, kind: Workers, cores: Sequence[int], *, at_idle: bool = False
    ) -> WorkerProcess:
        start = Start(
            folder=str(self._folder.file),
            service=self._folder.service,
            profile=self._profile,
            variants=kind.variants,
            threads=kind.threads,
            device=kind.device,
            layout=self._arena.layout,
        )
        return WorkerProcess(
            worker_id,
            start,
            self._arena.fd,
            cores,
            on_message=self._message,
            on_exit=self._exited,
            at_idle=at_idle,
        )

    def _watch_idle(self, worker_id: int, member: _Member) -> None:
        limit_s = IDLE_LIMIT_S + IDLE_LIMIT_TIMES * _load_s(member.kind, self._profile)
        member.idle_limit = asyncio.get_running_loop().call_later(
            limit_s, self._starved, worker_id, member, limit_s
        )

    def _starved(self, worker_id: int, member: _Member, limit_s: float) -> None:
        """Have a worker that is still loading do so at normal priority, anew if it may not come back to it."""
        old = member.worker
        if self._stopping or member.state != "loading" or not isinstance(old, WorkerProcess):
            return
        words = "it goes on at normal priority"
        try:
            left = old.leave_idle_priority()
            self._watch_idle(worker_id, member)  # it may not have been there yet, or start more there
            if not left:
                return
        except PermissionError:
            words = "it is started again, at normal priority"
            member.again = True
            old.kill()
        log.info(
            "worker %d had not loaded after %.1f s at idle priority, since its cores are busy: %s",
            worker_id,
            limit_s,
            words,
            extra={"event": "worker_starved", "worker": worker_id, "limit_s": limit_s},
        )

    def _message(self, worker: Worker, message: FromWorker) -> None:
        member = self._members[worker.worker_id]
        if isinstance(message, Done):
            self._listener.batch_done(worker, message)
        elif isinstance(message, Failed):
            fields = {"event": "batch_failed", "worker": worker.worker_id, "batch": message.batch_id}
            log.error("worker %d: %s", worker.worker_id, message.message, extra=fields)
            self._listener.batch_failed(worker, message)
        elif isinstance(message, CannotStart):
            member.problem = message.message
        elif member.state == "loading" and not member.again:
            member.state, member.loaded = "loaded", True
            member.forget_limits()
            log.info(
                "worker %d has loaded %s in %.2f s: %d MB resident",
                worker.worker_id,
                ", ".join(member.kind.variants),
                message.load_s,
                message.memory_bytes // 1_000_000,
                extra={
                    "event": "worker_loaded",
                    "worker": worker.worker_id,
                    "variants": member.kind.variants,
                    "threads": member.kind.threads,
                    "load_s": message.load_s,
                    "memory_bytes": message.memory_bytes,
                },
            )
            self._listener.worker_loaded(worker, member.kind, message.load_s)

    def _exited(self, worker: Worker, status: int) -> None:
        member = self._members[worker.worker_id]
        if self._started_again(worker, member):
            return
        del self._members[worker.worker_id]
        member.forget_limits()
        problem = member.problem
        if not problem and member.state != "ending":
            problem = f"its process ended with {_status_words(status)}"
        if not self._stopping:
            self._listener.worker_gone(worker.worker_id, problem, loaded=member.loaded)
        elif not self._members and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _started_again(self, worker: Worker, member: _Member) -> bool:
        """Start a worker's process again, if that is what its end was for; say whether it was."""
        if not member.again or member.state != "loading" or self._stopping:
            return False
        member.again, member.problem = False, ""
        try:
            member.worker = self._process(worker.worker_id, member.kind, worker.cores)
        except OSError as error:
            member.problem = f"its process cannot be started again: {error.strerror}"
            return False
        return True

    def _never_was(self, worker_id: int, problem: str) -> None:
        if self._members.pop(worker_id, None) is not None and not self._stopping:
            self._listener.worker_gone(worker_id, problem, loaded=False)

    def _too_slow(self, worker_id: int, member: _Member, limit_s: float) -> None:
        if member.state == "loading" and member.worker is not None:
            member.problem = (
                f"it had not loaded {', '.join(member.kind.variants)} after {limit_s:.0f} s, which is as long as "
                "a worker may take"
            )
            fields = {"event": "worker_too_slow", "worker": worker_id, "limit_s": limit_s}
            log.error("worker %d: %s; it is ended", worker_id, member.problem, extra=fields)
            member.state = "ending"
            member.worker.kill()

    def _kill(self, worker_id: int, member: _Member) -> None:
        if self._members.get(worker_id) is member and member.worker is not None:
            log.error("worker %d did not end when it was told to; it is ended", worker_id)
            member.worker.kill()


def load_limit_s(kind: Workers, profile: Profile) -> float:
    """Return how long a worker may take to load its resident set. Units: seconds."""
    return LOAD_LIMIT_S + LOAD_LIMIT_TIMES * _load_s(kind, profile)


def _load_s(kind: Workers, profile: Profile) -> float:
    return sum(profile.variant(name).load_time_s for name in kind.variants)


def is_emulated(folder: ServiceFolder, kind: Workers) -> bool:
    """Say whether a worker holds emulated variants only, and so needs no core and no process of its own."""
    variants = folder.service.variants
    return all(name in variants and variants[name].runtime == "emulated" for name in kind.variants)


def check_kinds(kinds: Sequence[Workers], profile: Profile) -> None:
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
