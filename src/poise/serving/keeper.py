"""Who decides which workers a cell has: by an allocation as it stands, or by an adapter (``adaptation``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from poise.domain.allocation import Workers
from poise.domain.profile import Profile
from poise.domain.service import WorkerKind
from poise.errors import WorkerError
from poise.files import ServiceFolder
from poise.planning.default_allocation import initial_allocation
from poise.runtimes.cores import place_workers
from poise.serving.pool import check_kinds, is_emulated

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Decides which workers a cell has."""

    async def start(self) -> None:
        """Have the first workers started, and wait until they are there.

        Raises:
            WorkerError: they cannot start.
        """

    def stop(self) -> None:
        """Ask for nothing any more: the cell stops its workers itself."""

    def loaded(self, worker_id: int, kind: Workers, load_s: float) -> None:
        """Take up that a worker has loaded."""

    def released(self, worker_id: int) -> None:
        """Take up that a retired worker has no batch any more."""

    def answered(self, worker_id: int) -> None:
        """Take up that a worker has answered a batch."""

    def gone(self, worker_id: int, problem: str, *, loaded: bool) -> None:
        """Take up that a worker is gone; ``problem`` says why, for the operator."""

    def states(self) -> Mapping[str, int]:
        """Return how many workers are in each state but in use."""


class KeptCell(Protocol):
    """What a keeper asks of its cell."""

    def load_worker(
        self, worker_id: int, kind: Workers, cores: tuple[int, ...], *, at_idle: bool = False
    ) -> None:
        """Start a worker; the keeper hears that it is loaded or gone."""

    def activate_worker(self, worker_id: int, kind: Workers, cores: tuple[int, ...]) -> None:
        """Put a loaded worker on its cores and into use."""

    def retire_worker(self, worker_id: int) -> None:
        """Give a worker no more batches; the keeper hears when it has none any more."""

    def end_worker(self, worker_id: int) -> None:
        """End a worker that is loading or out of use; the keeper hears that it is gone."""


class Seat:
    """A worker's place: what it holds and where it runs; outlives the workers that sit on it."""

    def __init__(self, kind: Workers, cores: tuple[int, ...]) -> None:
        self.kind = kind
        self.cores = cores
        self.ready = False
        self.pause_s = FIRST_PAUSE_S


class StaticKeeper:
    """Keeps an allocation as it stands: all start together, each is started again with a growing pause when it dies."""

    def __init__(
        self,
        cell: KeptCell,
        folder: ServiceFolder,
        profile: Profile,
        cores: Sequence[int],
        *,
        at_idle: bool = False,
    ) -> None:
        """Plan the workers; nothing is started yet.

        ``at_idle``: the first ones load at idle priority, because others answer on those cores meanwhile.

        Raises:
            ConfigError: a kind of worker that the profile does not cover.
        """
        self._cell = cell
        self._at_idle = at_idle
        kinds = first_workers(folder, profile, len(cores))
        check_kinds(kinds, profile)
        single = [msgspec.structs.replace(kind, count=1) for kind in kinds for _ in range(kind.count)]
        placed = place_workers([kind.threads for kind in single], cores)
        self.seats = [Seat(kind, own) for kind, own in zip(single, placed, strict=True)]
        self._seat_of: dict[int, Seat] = {}
        self._next_id = 0
        self._stopping = False
        self._started: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start all workers and wait until each has loaded.

        Raises:
            WorkerError: one cannot start.
        """
        self._started = asyncio.get_running_loop().create_future()
        try:
            for seat in self.seats:
                self._start(seat)
            await self._started
        finally:
            self._started = None

    def stop(self) -> None:
        """Start none again."""
        self._stopping = True

    def loaded(self, worker_id: int, kind: Workers, load_s: float) -> None:
        """Put a worker into use."""
        seat = self._seat_of[worker_id]
        seat.ready = True
        self._cell.activate_worker(worker_id, kind, seat.cores)
        if self._started is not None and not self._started.done() and all(seat.ready for seat in self.seats):
            self._started.set_result(None)

    def released(self, worker_id: int) -> None:
        """Nothing: none is ever retired."""

    def answered(self, worker_id: int) -> None:
        """Make the next pause before a new start the shortest again."""
        self._seat_of[worker_id].pause_s = FIRST_PAUSE_S

    def gone(self, worker_id: int, problem: str, *, loaded: bool) -> None:
        """Start another in its place, after a pause."""
        seat = self._seat_of.pop(worker_id)
        seat.ready = False
        if self._stopping:
            return
        if self._started is not None and not self._started.done():
            self._started.set_exception(WorkerError(f"a worker cannot start: {problem}"))
            return
        log.warning(
            "a worker was lost (%s); starting it again in %.1f s",
            problem,
            seat.pause_s,
            extra={
                "event": "worker_lost",
                "worker": worker_id,
                "problem": problem,
                "again_in_s": seat.pause_s,
            },
        )
        asyncio.get_running_loop().call_later(seat.pause_s, self._start, seat)
        seat.pause_s = min(2 * seat.pause_s, LONGEST_PAUSE_S)

    def states(self) -> Mapping[str, int]:
        """Return how many workers are starting."""
        return {"starting": sum(not seat.ready for seat in self.seats)}

    def _start(self, seat: Seat) -> None:
        if self._stopping:
            return
        self._next_id += 1
        self._seat_of[self._next_id] = seat
        at_idle = self._at_idle and self._started is not None
        self._cell.load_worker(self._next_id, seat.kind, seat.cores, at_idle=at_idle)


def first_workers(folder: ServiceFolder, profile: Profile, cores: int) -> tuple[Workers, ...]:
    """Return the workers that a service begins with on a machine of so many cores.

    Emulated workers need none of them: where all variants are emulated, the budget alone counts.
    """
    service = folder.service
    whole = initial_allocation(service, profile)
    if all(is_emulated(folder, workers_of(kind)) for kind in whole):
        return tuple(workers_of(kind) for kind in whole)
    if service.allocation is None and service.budget.cores > cores:
        log.warning("the budget has %d cores, there are %d here", service.budget.cores, cores)
    return tuple(workers_of(kind) for kind in initial_allocation(service, profile, cores))


def workers_of(kind: WorkerKind) -> Workers:
    """Return a kind of worker of a service file as part of an allocation."""
    return Workers(
        variants=kind.variants,
        count=kind.count,
        threads=kind.threads,
        device=kind.device,
        batch_cap_s=None if kind.batch_cap_ms is None else kind.batch_cap_ms / 1000.0,
    )


def profiled_kinds(profile: Profile) -> list[WorkerKind]:
    """Return every kind of worker that a profile covers, with one variant each."""
    found = []
    for variant in profile.variants:
        curves = [{(p.device, p.threads) for p in stage.latency} for stage in variant.stages]
        for device, threads in sorted(set.intersection(*curves)):
            found.append(WorkerKind(variants=(variant.name,), threads=threads, device=device))
    return found
