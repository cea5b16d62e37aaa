"""The event heap that drives a scheduler through virtual time.

The scheduler cannot tell it from a live server: it gets the same events and its commands are carried out.
Time is the time of the next event. Two things at one time happen in a fixed order: arrivals first, then
what was planned, in the order in which it was planned, then a wake-up. So the same jobs, service times and
faults give the same events and commands.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from time import perf_counter
from typing import Any, Protocol

from poise.domain.job import Job
from poise.domain.modalities import ModalityIndex
from poise.domain.service import Device
from poise.errors import ConfigError, InternalError
from poise.scheduling.commands import Answer, BatchPart, Command, Refuse, ReleaseWorker, RunBatch, WakeAt
from poise.scheduling.events import BatchDone, Event, JobArrived, Woke, WorkerLost, WorkerReady
from poise.simulation.faults import NO_FAULTS, Faults, LostWorker, SlowWorker
from poise.simulation.ledger import Ledger
from poise.simulation.workers import SimulatedWorker
from poise.workload.outcomes import Outcomes

MAX_WAKES_AT_ONCE = 1000
"""A scheduler that asks to be woken at the same time more often than this would never get any further."""

Observer = Callable[[Event, Sequence[Command]], None]
"""Is shown every event with its commands, before they are carried out."""


class EventHandler(Protocol):
    """What is driven: the scheduler, or a stand-in."""

    def handle(self, event: Event) -> Sequence[Command]:
        """Take one event and return what is to be done now, in order."""
        ...


class BatchTimes(Protocol):
    """Says how long batches take: ``ServiceTimes``, or a stand-in."""

    def prepare(self, variant: str, threads: int, device: Device) -> None:
        """Make ready for batches of a variant on one kind of worker."""
        ...

    def draw(
        self, variant: str, threads: int, device: Device, parts: Sequence[BatchPart]
    ) -> tuple[float, tuple[tuple[str, float], ...]]:
        """Return how long a batch takes in seconds, and (stage, time) of what the worker measures."""
        ...


class SimulatedState:
    """What the driver knows of a worker: whether it is up, which batch it has, how slow it is.

    Units: seconds. ``busy_s``: the time of all batches that are done; ``begun_s`` when the present one began.
    """

    __slots__ = ("batch_id", "begun_s", "busy_s", "factor", "kind", "up")

    def __init__(self, kind: SimulatedWorker) -> None:
        self.kind = kind
        self.up = False
        self.batch_id: int | None = None
        self.factor = 1.0
        self.busy_s = self.begun_s = 0.0

    def busy_until_s(self, now_s: float) -> float:
        """Return for how long it was busy until now."""
        return self.busy_s if self.batch_id is None else self.busy_s + now_s - self.begun_s


class Driver:
    """Drives one scheduler through one run; used once.

    ``decision_s`` holds how long each call of the scheduler took on the real clock, the only real time here.
    ``now_s`` is virtual.

    Raises:
        ConfigError: a worker's variant is not profiled there, or a fault of a worker that there is not.
    """

    def __init__(
        self,
        scheduler: EventHandler,
        times: BatchTimes,
        workers: Sequence[SimulatedWorker],
        index: ModalityIndex,
        *,
        faults: Faults = NO_FAULTS,
        observe: Observer | None = None,
    ) -> None:
        self.decision_s = array("d")
        self.now_s = 0.0
        self._counts_arrivals = False
        self._handle = scheduler.handle
        self._decided = self.decision_s.append
        self._draw = times.draw
        self._ledger = Ledger(index.label)
        self._answered = self._ledger.answered
        self._refused = self._ledger.refused
        self._observe = observe
        self._workers = {worker.id: SimulatedState(worker) for worker in workers}
        self._waiting: dict[int, Job] = {}
        self._wake_s = math.inf
        self._sequence = 0
        # (time, sequence, what happens, to what): a sequence stands once, so comparisons end there.
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        for worker in workers:
            for variant in worker.variants:
                times.prepare(variant, worker.threads, worker.device)
        for lost in faults.lost:
            self._check_worker(lost.worker_id)
            self._plan(lost.at_s, self._lose, lost)
        for slow in faults.slow:
            self._check_worker(slow.worker_id)
            self._plan(slow.from_s, self._slow, slow)

    @property
    def outcomes(self) -> Outcomes:
        """What became of each job, in the order in which they left."""
        return self._ledger.outcomes()

    def run(self, jobs: Iterable[tuple[float, Job]]) -> None:
        """Drive until every job has its outcome; ``jobs`` are (when the scheduler sees it, job), sorted by
        time.

        Raises:
            InternalError: the scheduler asked for something impossible, or left a job without an outcome.
        """
        self.begin()
        heap, waiting, step = self._heap, self._waiting, self._step
        arrivals = iter(jobs)
        nothing: tuple[float, Job | None] = (math.inf, None)
        arrive_s, job = next(arrivals, nothing)
        idle_wakes = 0
        counts = self._counts_arrivals
        while job is not None or waiting:
            planned_s = heap[0][0] if heap else math.inf
            wake_s = self._wake_s
            if job is not None and arrive_s <= planned_s and arrive_s <= wake_s:
                self.now_s = arrive_s
                waiting[job.id] = job
                if counts:
                    self.arrived(job)
                step(JobArrived(arrive_s, job))
                arrive_s, job = next(arrivals, nothing)
            elif heap and planned_s <= wake_s:
                self.now_s, _, happen, detail = heappop(heap)
                happen(detail)
            elif wake_s < math.inf:
                idle_wakes = idle_wakes + 1 if wake_s <= self.now_s else 0
                if idle_wakes > MAX_WAKES_AT_ONCE:
                    raise InternalError(
                        f"the scheduler asked {idle_wakes} times to be woken at {self.now_s} s"
                    )
                self.now_s = max(wake_s, self.now_s)
                self._wake_s = math.inf
                step(Woke(self.now_s))
            else:
                left = list(waiting.values())[:10]
                story = tuple(f"job {job.id} arrived at {job.arrival_s} s" for job in left)
                raise InternalError(f"{len(waiting)} jobs wait for what will never happen", story=story)

    def begin(self) -> None:
        """Make the first workers ready."""
        for worker in self._workers.values():
            self._ready(worker)

    def arrived(self, job: Job) -> None:
        """Take note of an arrival; called where ``_counts_arrivals`` is set."""

    def _plan(self, at_s: float, happen: Callable[[Any], None], detail: object) -> None:
        self._sequence += 1
        heappush(self._heap, (at_s, self._sequence, happen, detail))

    def _step(self, event: Event) -> None:
        """Show the scheduler an event and carry out its commands."""
        start = perf_counter()
        commands = self._handle(event)
        self._decided(perf_counter() - start)
        if self._observe is not None:
            self._observe(event, commands)
        for command in commands:
            if type(command) is Answer:
                job = self._waiting.pop(command.job_id, None)
                if job is None:
                    raise _nobodys(command)
                self._answered(job, self.now_s, command.parts, command.accuracy)
            elif type(command) is RunBatch:
                self._run_batch(command)
            elif type(command) is WakeAt:
                self._wake_s = command.at_s
            elif type(command) is Refuse:
                job = self._waiting.pop(command.job_id, None)
                if job is None:
                    raise _nobodys(command)
                self._refused(job, self.now_s, command.reason)
            elif type(command) is ReleaseWorker:
                self._released(command.worker_id)
            else:
                raise InternalError(f"no driver knows the command {command!r}")

    # Commands

    def _run_batch(self, command: RunBatch) -> None:
        worker = self._workers.get(command.worker_id)
        if worker is None or not worker.up or worker.batch_id is not None:
            state = "unknown" if worker is None else "busy" if worker.up else "lost"
            raise InternalError(
                f"batch {command.batch_id} is for worker {command.worker_id}, which is {state}"
            )
        kind, variant = worker.kind, command.variant
        if variant not in kind.variants:
            raise InternalError(f"batch {command.batch_id} is for worker {kind.id}, without {variant!r}")
        run_s, stage_s = self._draw(variant, kind.threads, kind.device, command.parts)
        if worker.factor != 1.0:
            run_s *= worker.factor
            stage_s = tuple((name, time_s * worker.factor) for name, time_s in stage_s)
        worker.batch_id = command.batch_id
        worker.begun_s = self.now_s
        done_s = self.now_s + run_s
        done = BatchDone(done_s, command.batch_id, kind.id, run_s, stage_s)
        self._sequence += 1
        heappush(self._heap, (done_s, self._sequence, self._batch_done, done))

    # What happens

    def _released(self, worker_id: int) -> None:
        """Take a worker out of use that has no batch any more."""
        self._workers[worker_id].up = False

    def _batch_done(self, done: BatchDone) -> None:
        worker = self._workers.get(done.worker_id)
        if worker is not None and worker.batch_id == done.batch_id:  # else it was lost with its worker
            worker.batch_id = None
            worker.busy_s += done.run_s
            self._step(done)

    def _ready(self, worker: SimulatedState) -> None:
        worker.up = True
        kind = worker.kind
        cap_s = kind.batch_cap_s
        self._step(WorkerReady(self.now_s, kind.id, kind.variants, kind.threads, kind.device, cap_s))

    def _lose(self, lost: LostWorker) -> None:
        worker = self._workers[lost.worker_id]
        if worker.up:
            worker.up = False
            worker.batch_id = None
            if lost.back_s is not None:
                self._plan(self.now_s + lost.back_s, self._ready, worker)
            self._step(WorkerLost(self.now_s, lost.worker_id))

    def _slow(self, slow: SlowWorker) -> None:
        self._workers[slow.worker_id].factor *= slow.factor

    def _check_worker(self, worker_id: int) -> None:
        if worker_id not in self._workers:
            raise ConfigError(f"there is no worker {worker_id}", expected=f"one of {sorted(self._workers)}")


def _nobodys(outcome: Answer | Refuse) -> InternalError:
    return InternalError(f"job {outcome.job_id} got an outcome that it did not wait for")
