"""The scheduler and the adapter in virtual time: beats of the monitor, loads that take time, workers that come and go.

The adapter cannot tell it from a live server either. Loading takes a worker the sum of its variants' load times,
solving ``solve_s``; what a load at idle priority takes from the workers beside it is not simulated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from poise.adapting import commands as asks
from poise.adapting import events as happenings
from poise.adapting.adapter import Adapter
from poise.adapting.decision import Decision
from poise.domain.allocation import Workers
from poise.domain.job import Job, RefusalReason
from poise.domain.modalities import ModalityIndex
from poise.domain.service import Service
from poise.errors import InternalError
from poise.scheduling.commands import AnswerPart
from poise.scheduling.events import AllocationAdopted, WorkerLost, WorkerReady, WorkerRetiring
from poise.simulation.driver import BatchTimes, Driver, EventHandler, Observer, SimulatedState
from poise.simulation.faults import NO_FAULTS, Faults, LostWorker
from poise.simulation.workers import SimulatedWorker

BEAT_S = 1.0
SOLVE_S = 0.02
"""How long a decision is on its way: what the programmes take on a machine of today."""


class Beat(msgspec.Struct, frozen=True):
    """What one beat looked like. Units: seconds, jobs/s, cores; ``cores`` and ``surge_cores`` are means over it."""

    at_s: float
    jobs: int
    met: int
    missed: int
    answered_items: int
    accuracy_sum: float
    cores: float
    surge_cores: float
    resident_bytes: float
    variants: dict[str, int]


class _Counts:
    """What one class did within a beat."""

    __slots__ = ("done", "items", "jobs", "met", "missed", "sum")

    def __init__(self) -> None:
        self.jobs = self.items = self.met = self.missed = self.done = 0
        self.sum = 0.0


class AdaptedDriver(Driver):
    """Drives a scheduler and an adapter through one run; used once.

    ``load_time_s`` is what loading a worker takes; ``memory_of`` what it needs. ``epoch_s`` is the time of day at which
    the run begins. ``beats`` and ``decisions`` are the run's history.
    """

    def __init__(
        self,
        scheduler: EventHandler,
        times: BatchTimes,
        index: ModalityIndex,
        adapter: Adapter,
        service: Service,
        *,
        load_time_s: Callable[[Workers], float],
        memory_of: Callable[[Workers], int],
        initial: tuple[Workers, ...] = (),
        epoch_s: float = 0.0,
        solve_s: float = SOLVE_S,
        faults: Faults = NO_FAULTS,
        observe: Observer | None = None,
    ) -> None:
        super().__init__(scheduler, times, (), index, faults=faults, observe=observe)
        self.beats: list[Beat] = []
        self.decisions: list[Decision] = []
        self.loads = 0
        self._adapter = adapter
        self._times = times
        self._service = service
        self._load_time_s = load_time_s
        self._memory_of = memory_of
        self._initial = initial
        self._epoch_s = epoch_s
        self._solve_s = solve_s
        self._beginning = True
        self._kinds: dict[int, Workers] = {}
        self._leaving: dict[int, type[happenings.WorkerParked] | type[happenings.WorkerStopped]] = {}
        self._loading: set[int] = set()
        self._holding: dict[int, int] = {}
        self._inbox: deque[happenings.Event] = deque()
        self._handling = False
        self._by_class = {name: _Counts() for name in service.classes}
        self._variants: dict[str, int] = {}
        self._busy: dict[int, float] = {}
        self._counts_arrivals = True
        self._last_beat_s = 0.0
        self._accounted_s = 0.0
        self._core_s = self._surge_core_s = self._byte_s = 0.0
        self._inner_answered, self._inner_refused = self._answered, self._refused
        self._answered, self._refused = self._count_answered, self._count_refused

    def begin(self) -> None:
        """Load the first workers at once: nobody waits for them in a simulation."""
        self._carry(self._adapter.start(self.now_s, self._epoch_s, self._initial))
        self._deliver()
        self._beginning = False
        self._plan(BEAT_S, self._beat, None)

    def arrived(self, job: Job) -> None:
        """Count an arrival."""
        counts = self._by_class[job.slo_class]
        counts.jobs += 1
        counts.items += job.items

    # What the monitor counts

    def _count_answered(self, job: Job, now_s: float, parts: tuple[AnswerPart, ...], accuracy: float) -> None:
        counts = self._by_class[job.slo_class]
        in_time = now_s <= job.deadline_s + 1e-9
        by_job = self._service.guarantee.scope == "job"
        if in_time and (not by_job or accuracy >= job.accuracy_floor - 1e-9):
            counts.met += 1
        else:
            counts.missed += 1
        counts.done += job.items
        counts.sum += accuracy * job.items
        for part in parts:
            self._variants[part.variant] = self._variants.get(part.variant, 0) + part.items
        self._inner_answered(job, now_s, parts, accuracy)

    def _count_refused(self, job: Job, now_s: float, reason: RefusalReason) -> None:
        if reason is not RefusalReason.CANCELLED:
            self._by_class[job.slo_class].missed += 1
        self._inner_refused(job, now_s, reason)

    def _beat(self, _: None) -> None:
        self._account()
        span_s = self.now_s - self._last_beat_s
        busy = {worker_id: worker.busy_until_s(self.now_s) for worker_id, worker in self._workers.items()}
        busy_s = sum(until_s - self._busy.get(worker_id, 0.0) for worker_id, until_s in busy.items())
        self._busy = busy
        classes = tuple(
            happenings.ClassCounts(
                name, counts.jobs, counts.items, counts.met, counts.missed, counts.done, counts.sum
            )
            for name, counts in self._by_class.items()
        )
        self.beats.append(
            Beat(
                at_s=self.now_s,
                jobs=sum(c.jobs for c in classes),
                met=sum(c.met for c in classes),
                missed=sum(c.missed for c in classes),
                answered_items=sum(c.answered_items for c in classes),
                accuracy_sum=sum(c.accuracy_sum for c in classes),
                cores=self._core_s / span_s,
                surge_cores=self._surge_core_s / span_s,
                resident_bytes=self._byte_s / span_s,
                variants=self._variants,
            )
        )
        self._core_s = self._surge_core_s = self._byte_s = 0.0
        self._variants = {}
        self._by_class = {name: _Counts() for name in self._by_class}
        self._last_beat_s = self.now_s
        waiting = sum(job.items for job in self._waiting.values())
        epoch_s = self._epoch_s + self.now_s
        self._tell(happenings.Observed(self.now_s, span_s, classes, busy_s, waiting, epoch_s))
        self._plan(self.now_s + BEAT_S, self._beat, None)

    def _account(self) -> None:
        """Add up what was used since the last change."""
        passed_s = self.now_s - self._accounted_s
        if passed_s > 0:
            self._core_s += passed_s * sum(self._holding.values())
            self._surge_core_s += passed_s * sum(self._kinds[w].cores for w in self._loading)
            self._byte_s += passed_s * sum(self._memory_of(kind) for kind in self._kinds.values())
            self._accounted_s = self.now_s

    # The adapter's events and commands

    def _tell(self, event: happenings.Event) -> None:
        self._inbox.append(event)
        self._deliver()

    def _deliver(self) -> None:
        """Hand the adapter what waits for it, one after the other: its commands may cause further events."""
        if self._handling:
            return
        self._handling = True
        while self._inbox:
            self._carry(self._adapter.handle(self._inbox.popleft()))
        self._handling = False

    def _carry(self, commands: Sequence[asks.Command]) -> None:
        for command in commands:
            if isinstance(command, asks.SolveAllocation):
                self._solve(command)
            elif isinstance(command, asks.LoadWorker):
                self._load(command)
            elif isinstance(command, asks.ActivateWorker):
                self._activate(command)
            elif isinstance(command, asks.ParkWorker):
                self._leave(command.worker_id, happenings.WorkerParked)
            elif isinstance(command, asks.StopWorker):
                self._stop(command.worker_id)
            elif isinstance(command, asks.AdoptShares):
                self._step(AllocationAdopted(self.now_s, command.shares))
            else:
                self.decisions.append(command.decision)

    def _solve(self, command: asks.SolveAllocation) -> None:
        trouble, found = "", None
        try:
            found = command.solve()
        except Exception as error:  # as a live server would take it
            trouble = f"{type(error).__name__}: {error}"
        delay_s = 0.0 if self._beginning else self._solve_s
        solved = happenings.AllocationSolved(self.now_s + delay_s, command.solve_id, found, delay_s, trouble)
        if self._beginning:
            self._inbox.append(solved)
        else:
            self._plan(solved.now_s, self._tell, solved)

    def _load(self, command: asks.LoadWorker) -> None:
        self._account()
        self.loads += not self._beginning
        self._kinds[command.worker_id] = command.kind
        for variant in command.kind.variants:
            self._times.prepare(variant, command.kind.threads, command.kind.device)
        if self._beginning:
            self._inbox.append(happenings.WorkerLoaded(self.now_s, command.worker_id, command.kind))
            return
        self._loading.add(command.worker_id)
        load_s = self._load_time_s(command.kind)
        loaded = happenings.WorkerLoaded(self.now_s + load_s, command.worker_id, command.kind, load_s)
        self._plan(loaded.now_s, self._loaded, loaded)

    def _loaded(self, loaded: happenings.WorkerLoaded) -> None:
        if loaded.worker_id in self._loading:
            self._account()
            self._loading.discard(loaded.worker_id)
            self._tell(loaded)

    def _activate(self, command: asks.ActivateWorker) -> None:
        self._account()
        kind, worker_id = command.kind, command.worker_id
        self._holding[worker_id] = kind.cores
        simulated = SimulatedWorker(worker_id, kind.variants, kind.threads, kind.device, kind.batch_cap_s)
        state = self._workers.get(worker_id)
        if state is None:
            self._workers[worker_id] = state = SimulatedState(simulated)
        state.up = True
        self._step(
            WorkerReady(self.now_s, worker_id, kind.variants, kind.threads, kind.device, kind.batch_cap_s)
        )

    def _leave(
        self, worker_id: int, then: type[happenings.WorkerParked] | type[happenings.WorkerStopped]
    ) -> None:
        self._leaving[worker_id] = then
        self._step(WorkerRetiring(self.now_s, worker_id))

    def _stop(self, worker_id: int) -> None:
        if worker_id in self._holding:
            self._leave(worker_id, happenings.WorkerStopped)
            return
        self._account()
        self._loading.discard(worker_id)
        self._forget(worker_id)
        self._inbox.append(happenings.WorkerStopped(self.now_s, worker_id))
        self._deliver()

    def _released(self, worker_id: int) -> None:
        """Take a worker that has no batch any more out of use, as the adapter asked."""
        super()._released(worker_id)
        then = self._leaving.pop(worker_id, None)
        if then is None:
            raise InternalError(f"the scheduler released worker {worker_id}, which nobody asked for")
        self._account()
        del self._holding[worker_id]
        if then is happenings.WorkerStopped:
            self._forget(worker_id)
        self._tell(then(self.now_s, worker_id))

    def _forget(self, worker_id: int) -> None:
        self._kinds.pop(worker_id, None)
        self._workers.pop(worker_id, None)

    def _check_worker(self, worker_id: int) -> None:
        """Let any worker be named: which there will be is not known beforehand."""

    def _lose(self, lost: LostWorker) -> None:
        worker = self._workers.get(lost.worker_id)
        if worker is None or not worker.up:
            return
        self._account()
        self._leaving.pop(lost.worker_id, None)
        self._holding.pop(lost.worker_id, None)
        self._forget(lost.worker_id)
        self._step(WorkerLost(self.now_s, lost.worker_id))
        self._tell(happenings.WorkerLost(self.now_s, lost.worker_id))
