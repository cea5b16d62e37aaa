"""The live driver of the scheduler: owns the arena and the workers, stamps events, carries commands out.

One event loop holds everything here. The scheduler sees descriptors only; tensors go from a request's body into
the job's rows and, when the scheduler says ``Answer``, are copied out of them, after which the rows are free.
"""

from __future__ import annotations

import asyncio
import logging
import time

from poise.adapting.events import Observed
from poise.domain.allocation import Workers
from poise.domain.job import RefusalReason
from poise.domain.profile import Profile
from poise.errors import InternalError
from poise.files import FrontierCache, ServiceFolder
from poise.ingress.gate import Answered, Outcome, PendingJob, Refused
from poise.planning.default_allocation import initial_allocation
from poise.protocol.codec import InferRequest
from poise.protocol.model_config import ModelConfig, model_config
from poise.protocol.statistics import ModelStatistics
from poise.protocol.wire import ServiceWire, wire_of
from poise.runtimes.cores import usable_cores
from poise.scheduling.commands import Answer, Command, Refuse, RunBatch, WakeAt
from poise.scheduling.events import (
    BatchDone,
    BatchFailed,
    DrainStarted,
    Event,
    JobArrived,
    JobCancelled,
    Woke,
    WorkerLost,
    WorkerReady,
    WorkerRetiring,
)
from poise.scheduling.scheduler import Scheduler
from poise.serving.alarm import Alarm
from poise.serving.arena import DEFAULT_ARENA_BYTES, Arena, SharedRows, plan_layout
from poise.serving.batch_traces import BatchTraces
from poise.serving.batches import Dispatched, DispatchedBatches, batches_first
from poise.serving.cell_state import CellState
from poise.serving.intake import copied_out, copy_all_in, job_of, rows_for, slowly_copy_all_in
from poise.serving.keeper import Keeper, StaticKeeper
from poise.serving.messages import Done, Failed, Run, pack_runs
from poise.serving.metrics import CellMetrics
from poise.serving.monitor import Monitor
from poise.serving.pool import WorkerPool, check_kinds
from poise.serving.process import Worker
from poise.serving.recording import Recorder, Watcher
from poise.serving.statistics import StatisticsCount

log = logging.getLogger(__name__)


class Cell:
    """One machine's server for one service, but for the protocol. Everything runs on one event loop.

    Which workers it has, its ``keeper`` decides: the service's allocation as it stands, unless another is set before
    it starts.
    """

    def __init__(
        self,
        folder: ServiceFolder,
        profile: Profile,
        *,
        policy: str | None = None,
        arena_bytes: int = DEFAULT_ARENA_BYTES,
        shares: int = 1,
        recorder: Recorder | None = None,
        traced: bool = False,
        name: str = "",
        scheduler: Scheduler | None = None,
    ) -> None:
        """Make a cell; nothing is started yet. ``name`` is the service's, where one adapter serves several.

        ``scheduler``: one whose plans are made already; else it is made here, with ``policy``. ``traced``: whether
        front ends may ask which batches a job was in. ``shares``: so many processes put tensors into its arena.

        Raises:
            ConfigError: items larger than the arena, an unknown policy, workers that the profile lacks.
        """
        service = folder.service
        layout = plan_layout(service, arena_bytes, shares)
        if scheduler is None:
            cache = FrontierCache.beside_profile(folder, log.warning)
            scheduler = Scheduler(service, profile, policy, cache)
            scheduler.plan_for(initial_allocation(service, profile))
        self._scheduler = scheduler
        self.arena = Arena.create(layout)
        self.rows = SharedRows(layout.capacity, shares)
        self._watchers: list[Watcher] = [] if recorder is None else [recorder]
        self._index = service.modality_index
        self._padded = bool(service.buckets_of(service.modalities))
        self.folder = folder
        self.profile = profile
        self.monitor = Monitor(service.classes, time.monotonic(), name)
        self.keeper: Keeper = StaticKeeper(self, folder, profile, usable_cores())
        self._pool = WorkerPool(folder, profile, self.arena, self)
        self._jobs: dict[int, PendingJob] = {}
        if traced:
            self._watchers.append(BatchTraces(self._jobs, self.label))
        self._batches = DispatchedBatches()
        self._active: dict[int, Worker] = {}
        self._next_job = 0
        self._alarm = Alarm(lambda now_s: self._happened(Woke(now_s)))
        self._emptied: asyncio.Future[None] | None = None
        self.broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.wire: ServiceWire = wire_of(service, self.rows.capacity)
        self.metrics = CellMetrics(tuple(service.classes), self._state)
        self._counts = StatisticsCount()
        self.draining = False
        self.started = False
        self._stopped = False

    @property
    def ready(self) -> bool:
        """Whether a job would be taken now."""
        taken = bool(self._active) or self._scheduler.between_workers
        return self.started and not self.draining and taken

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler; it is told of what happens by the cell alone."""
        return self._scheduler

    def label(self, mask: int) -> str:
        """Return the label of a modality set."""
        return self._index.label(mask)

    def config(self) -> ModelConfig:
        """Return the service's configuration, with the workers that are in use."""
        return model_config(self.wire, self.folder.service, self._pool.kinds_of(self._active))

    def statistics(self) -> ModelStatistics:
        """Return the service's statistics."""
        return self._counts.value(self.wire.name)

    # The cell's life

    async def start(self) -> None:
        """Have the keeper start the workers, and wait until it says that they are there.

        Raises:
            WorkerError: they cannot start.
        """
        await self.keeper.start()
        self.started = True
        self._batches.watch()

    def drain(self) -> None:
        """Take no new jobs from now on; ``drained`` waits for those accepted."""
        if not self.draining:
            self.draining = True
            self._happened(DrainStarted(time.monotonic()))

    async def drained(self) -> None:
        """Wait until every accepted job has its outcome."""
        if self._jobs:
            if self._emptied is None or self._emptied.done():
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    async def stop(self) -> None:
        """Stop the workers, at once if jobs still wait; those are refused."""
        self._stopped = True
        self.keeper.stop()
        self._alarm.close()
        self._batches.close()
        waiting = list(self._jobs.values())
        for pending in waiting:
            self._settle(pending, Refused(RefusalReason.DRAINING, "the server has stopped"))
        self._active.clear()
        await self._pool.stop(at_once=bool(waiting))
        self.arena.close()
        for watcher in self._watchers:
            watcher.close()

    # Jobs

    def admit(self, request: InferRequest) -> PendingJob | Refused:
        """Put a request's tensors into rows and tell the scheduler; its outcome may already be there."""
        if isinstance(first := self._rows_for(request), Refused):
            return first
        copy_all_in(self.arena.inputs, self.rows, first, request)
        return self._enter(request, first)

    async def admit_in_slices(self, request: InferRequest) -> PendingJob | Refused:
        """Do as ``admit`` does; others have their turn while large tensors are copied."""
        if isinstance(first := self._rows_for(request), Refused):
            return first
        await slowly_copy_all_in(self.arena.inputs, self.rows, first, request)
        if not (self.draining or self._stopped):
            return self._enter(request, first)
        self.rows.give_back(first, request.items)
        return self.refused(request.slo_class, RefusalReason.DRAINING, "the service is draining")

    def _rows_for(self, request: InferRequest) -> int | Refused:
        self.monitor.arrived(request.slo_class, request.items)
        self.metrics.arrived(request.slo_class, request.items)
        if self.draining:
            return self.refused(request.slo_class, RefusalReason.DRAINING, "the service is draining")
        if not self.started:
            return self.refused(request.slo_class, RefusalReason.NO_WORKER, "the server is still loading")
        if (first := rows_for(self.rows, request)) is not None:
            return first
        return self.refused(request.slo_class, RefusalReason.QUEUE_FULL, "too many items wait")

    def _enter(self, request: InferRequest, first: int) -> PendingJob:
        self._next_job += 1
        job = job_of(request, self._next_job, time.monotonic(), padded=self._padded)
        pending = self._jobs[job.id] = PendingJob(job, first)
        self._happened(JobArrived(job.arrival_s, job))
        return pending

    def refused(self, slo_class: str, reason: RefusalReason, detail: str) -> Refused:
        """Count a refusal and return it."""
        self.metrics.jobs[slo_class, "refused"] += 1
        self.metrics.refused[reason.value] += 1
        self._counts.failed += 1
        if reason is not RefusalReason.CANCELLED:
            self.monitor.missed(slo_class)
        return Refused(reason, detail)

    def cancel(self, pending: PendingJob) -> None:
        """Give up a job whose client is gone."""
        if pending.outcome is None:
            self._happened(JobCancelled(time.monotonic(), pending.job.id))

    # What the keeper asks for

    def load_worker(
        self, worker_id: int, kind: Workers, cores: tuple[int, ...], *, at_idle: bool = False
    ) -> None:
        """Start a worker; the keeper hears that it is loaded or gone.

        Raises:
            ConfigError: the profile does not cover it.
        """
        check_kinds((kind,), self.profile)
        self._pool.load(worker_id, kind, cores, at_idle=at_idle)

    def activate_worker(self, worker_id: int, kind: Workers, cores: tuple[int, ...]) -> None:
        """Put a loaded worker on its cores and into use. Nothing happens to one that is gone."""
        worker = self._pool.settle(worker_id, cores)
        if worker is not None:
            self._active[worker_id] = worker
            variants, threads, device, cap_s = kind.variants, kind.threads, kind.device, kind.batch_cap_s
            self._happened(WorkerReady(time.monotonic(), worker_id, variants, threads, device, cap_s))

    def retire_worker(self, worker_id: int) -> None:
        """Give a worker no more batches; the keeper hears when it has none any more."""
        if worker_id in self._active:
            self._happened(WorkerRetiring(time.monotonic(), worker_id))

    def end_worker(self, worker_id: int) -> None:
        """End a worker that is loading or out of use; the keeper hears that it is gone."""
        self._pool.end(worker_id)

    def tell(self, event: Event) -> None:
        """Tell the scheduler of a plan's shares or of a forecast."""
        self._happened(event)

    def observed(self, epoch_s: float) -> Observed:
        """Return what happened since this was last asked."""
        now_s = time.monotonic()
        waiting = self.rows.used - self._batches.items
        return self.monitor.beat(now_s, epoch_s, self._batches.busy_s(now_s), max(0, waiting))

    # What the workers do (WorkerListener)

    def worker_loaded(self, worker: Worker, kind: Workers, load_s: float) -> None:
        """Tell the keeper of a worker that has loaded."""
        self.metrics.workers_started += 1
        self.keeper.loaded(worker.worker_id, kind, load_s)

    def batch_done(self, worker: Worker, done: Done) -> None:
        """Tell the scheduler of a finished batch."""
        now_s = time.monotonic()
        batch = self._batches.back(now_s, worker, done.batch_id)
        if batch is not None:
            self.keeper.answered(worker.worker_id)
            run_s = now_s - batch.sent_s
            self.metrics.batch_done(batch.variant, run_s)
            self._counts.ran(now_s, batch.items, done)
            self._happened(BatchDone(now_s, done.batch_id, worker.worker_id, run_s, done.stage_s))

    def batch_failed(self, worker: Worker, failed: Failed) -> None:
        """Tell the scheduler of a batch that the model could not answer; the text stays in the server's log."""
        now_s = time.monotonic()
        if self._batches.back(now_s, worker, failed.batch_id) is not None:
            self.metrics.failed_batches += 1
            self._happened(BatchFailed(now_s, failed.batch_id, worker.worker_id, "the model failed"))

    def worker_gone(self, worker_id: int, problem: str, *, loaded: bool) -> None:
        """Tell the scheduler, if the worker was in use, and the keeper."""
        if (worker := self._active.pop(worker_id, None)) is not None:
            self.metrics.workers_lost += 1
            now_s = time.monotonic()
            self._batches.lost(now_s, worker_id)
            self._happened(WorkerLost(now_s, worker_id, worker.untaken))
        self.keeper.gone(worker_id, problem, loaded=loaded)

    # Events in, commands out

    def _happened(self, event: Event) -> None:
        if self._stopped:
            return
        begin = time.perf_counter()
        try:
            commands = self._scheduler.handle(event)
        except Exception as error:
            self._scheduler_raised(event, error)
            return
        self.metrics.decision_s.observe(time.perf_counter() - begin)
        for watcher in self._watchers:
            watcher.record(event, commands)
        for command in batches_first(commands):
            try:
                self._carry_out(command)
            except Exception:
                # One job's trouble is not the rest of the batch's.
                log.exception("a command could not be carried out: %r", command)
                self._give_up(command)

    def _scheduler_raised(self, event: Event, error: Exception) -> None:
        log.critical("the scheduler raised on %r", event, exc_info=error)
        if isinstance(event, JobArrived):
            self._fail(event.job.id)
            return
        # Its state can no longer be trusted: better to end, and be started again, than to answer wrongly.
        if not self.broken.done():
            self.broken.set_result(InternalError(f"the scheduler raised: {error}"))

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, RunBatch):
            self._run(command)
        elif isinstance(command, Answer):
            self._answer(command)
        elif isinstance(command, Refuse):
            pending = self._jobs[command.job_id]
            self._settle(pending, self.refused(pending.job.slo_class, command.reason, command.detail))
        elif isinstance(command, WakeAt):
            self._alarm.set(command.at_s)
        elif self._active.pop(command.worker_id, None) is not None:
            self.keeper.released(command.worker_id)

    def _give_up(self, command: Command) -> None:
        if isinstance(command, Answer | Refuse):
            self._fail(command.job_id)
        elif isinstance(command, RunBatch) and command.worker_id in self._active:
            self._active[command.worker_id].kill()  # its loss gives the batch back

    def _run(self, command: RunBatch) -> None:
        runs = pack_runs(
            (self._jobs[part.job_id].first_row + part.first_item, part.items, part.modalities)
            for part in command.parts
        )
        worker = self._active[command.worker_id]
        items = sum(part.items for part in command.parts)
        batch = Dispatched(worker, time.monotonic(), command.expected_s, items, command.variant)
        self._batches.sent(command.batch_id, batch)
        worker.send(Run(command.batch_id, command.variant, runs))
        self.metrics.batch_items.observe(items)

    def _answer(self, command: Answer) -> None:
        pending = self._jobs[command.job_id]
        job = pending.job
        outputs = copied_out(self.arena.outputs, pending)
        self.metrics.answered(job.slo_class, job.items, command)
        met = not (command.late or command.below_floor)
        self.monitor.answered(job.slo_class, job.items, command.accuracy, met=met)
        self._settle(pending, Answered(command, outputs))

    def _fail(self, job_id: int) -> None:
        """End a job by a fault of ours."""
        pending = self._jobs.get(job_id)
        if pending is not None:
            self.metrics.jobs[pending.job.slo_class, "failed"] += 1
            self.monitor.missed(pending.job.slo_class)
            self._settle(pending, InternalError(f"job {job_id} met a fault of the server"))

    def _settle(self, pending: PendingJob, outcome: Outcome | InternalError) -> None:
        if pending.outcome is not None:
            return
        del self._jobs[pending.job.id]
        self.rows.give_back(pending.first_row, pending.job.items)
        self._counts.settled(pending.job, outcome)
        pending.settle(outcome)
        if not self._jobs and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _state(self) -> CellState:
        busy = len(self._batches)
        workers = {"busy": busy, "idle": max(0, len(self._active) - busy), **self.keeper.states()}
        held = (len(self._jobs), self.rows, self._scheduler, self.label)
        return CellState(workers, *held, self.ready, self.draining)
