"""The live driver of the scheduler: owns the arena and the workers, stamps events, carries commands out.

One event loop holds everything here. The scheduler sees descriptors only; tensors go from a request's body into
the job's rows and, when the scheduler says ``Answer``, are copied out of them, after which the rows are free.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from poise.domain.job import Job, RefusalReason
from poise.domain.profile import Profile
from poise.domain.service import WorkerKind
from poise.errors import InternalError
from poise.files import FrontierCache, ServiceFolder
from poise.planning.default_allocation import initial_allocation
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
)
from poise.scheduling.scheduler import Scheduler
from poise.serving.arena import DEFAULT_ARENA_BYTES, Arena, Array, RowAllocator, plan_layout
from poise.serving.codec import InferRequest, InferTensor
from poise.serving.jobs import Answered, Outcome, PendingJob, Refused
from poise.serving.messages import Done, Failed, Run, pack_runs
from poise.serving.metrics import CellGauges, CellMetrics
from poise.serving.pool import WorkerPool
from poise.serving.process import WorkerProcess
from poise.serving.recording import Recorder
from poise.serving.wire import ServiceWire, wire_of

HUNG_AFTER_S = 30.0
HUNG_AFTER_EXPECTED = 20.0
"""A worker is taken for hung this long after a batch, plus so many times what the batch should take."""
HUNG_CHECK_S = 1.0

log = logging.getLogger(__name__)


class _Dispatched(msgspec.Struct, frozen=True):
    worker: WorkerProcess
    sent_s: float
    expected_s: float

    @property
    def given_up_s(self) -> float:
        """When its worker counts as hung."""
        return self.sent_s + HUNG_AFTER_S + HUNG_AFTER_EXPECTED * self.expected_s


class Cell:
    """One machine's server for one service, but for the protocol. Everything runs on one event loop."""

    def __init__(
        self,
        folder: ServiceFolder,
        profile: Profile,
        *,
        policy: str | None = None,
        arena_bytes: int = DEFAULT_ARENA_BYTES,
        recorder: Recorder | None = None,
    ) -> None:
        """Make a cell; nothing is started yet.

        Raises:
            ConfigError: items larger than the arena, an unknown policy, workers that the profile lacks.
        """
        service = folder.service
        layout = plan_layout(service, arena_bytes)
        cache = FrontierCache.beside_profile(folder, log.warning)
        self._scheduler = Scheduler(service, profile, policy, cache)
        self._scheduler.plan_for(initial_allocation(service, profile))
        self._arena = Arena.create(layout)
        self._rows = RowAllocator(layout.capacity)
        self._recorder = recorder
        self._index = service.modality_index
        self._padded = bool(service.buckets_of(service.modalities))
        self._pool = WorkerPool(folder, profile, self._arena, usable_cores(), self)
        self._jobs: dict[int, PendingJob] = {}
        self._batches: dict[int, _Dispatched] = {}
        self._processes: dict[int, WorkerProcess] = {}
        self._next_job = 0
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self.broken: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.wire: ServiceWire = wire_of(service, layout.capacity)
        self.metrics = CellMetrics(self._gauges)
        self.draining = False
        self.started = False
        self._stopped = False

    @property
    def ready(self) -> bool:
        """Whether a job would be taken now."""
        return self.started and not self.draining and self._pool.ready > 0

    @property
    def pool(self) -> WorkerPool:
        """The workers."""
        return self._pool

    def label(self, mask: int) -> str:
        """Return the label of a modality set."""
        return self._index.label(mask)

    # The cell's life

    async def start(self) -> None:
        """Start the workers and wait until all have loaded.

        Raises:
            WorkerError: one cannot start.
        """
        await self._pool.start()
        self.started = True
        self._end_hung_workers()

    def drain(self) -> None:
        """Take no new jobs from now on; ``drained`` waits for those accepted."""
        if not self.draining:
            self.draining = True
            self._happened(DrainStarted(time.monotonic()))

    async def drained(self) -> None:
        """Wait until every accepted job has its outcome."""
        if self._jobs:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    async def stop(self) -> None:
        """Stop the workers, at once if jobs still wait; those are refused."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        waiting = list(self._jobs.values())
        for pending in waiting:
            self._settle(pending, Refused(RefusalReason.DRAINING, "the server has stopped"))
        await self._pool.stop(at_once=bool(waiting))
        self._arena.close()
        if self._recorder is not None:
            self._recorder.close()

    # Jobs

    def admit(self, request: InferRequest) -> PendingJob | Refused:
        """Put a request's tensors into rows and tell the scheduler; its outcome may already be there."""
        if self.draining:
            return self.refused(request.slo_class, RefusalReason.DRAINING, "the server is draining")
        if not self.started:
            return self.refused(request.slo_class, RefusalReason.NO_WORKER, "the server is still loading")
        first = self._rows.take(request.items)
        if first is None:
            return self.refused(
                request.slo_class, RefusalReason.QUEUE_FULL, "too many items wait for an answer"
            )
        try:
            for tensor in request.tensors:
                _copy_in(self._arena.inputs[tensor.wire.name], first, tensor)
        except BaseException:
            self._rows.give_back(first, request.items)
            raise
        self._next_job += 1
        now_s = time.monotonic()
        job = Job(
            id=self._next_job,
            slo_class=request.slo_class,
            items=request.items,
            arrival_s=now_s,
            deadline_s=now_s + request.deadline_s,
            accuracy_floor=request.accuracy_floor,
            available=request.available,
            priority=request.priority,
            bucket=_rung(request.tensors) if self._padded else 0,
        )
        pending = PendingJob(job, first, asyncio.get_running_loop().create_future())
        self._jobs[job.id] = pending
        self._happened(JobArrived(now_s, job))
        return pending

    def refused(self, slo_class: str, reason: RefusalReason, detail: str) -> Refused:
        """Count a refusal and return it."""
        self.metrics.jobs[slo_class, "refused"] += 1
        self.metrics.refused[reason.value] += 1
        return Refused(reason, detail)

    def cancel(self, pending: PendingJob) -> None:
        """Give up a job whose client is gone."""
        if not pending.settled:
            self._happened(JobCancelled(time.monotonic(), pending.job.id))

    # What the workers do (WorkerListener)

    def worker_ready(self, worker: WorkerProcess, kind: WorkerKind) -> None:
        """Tell the scheduler of a worker that has loaded."""
        self._processes[worker.worker_id] = worker
        self._happened(
            WorkerReady(time.monotonic(), worker.worker_id, kind.variants, kind.threads, kind.device)
        )

    def batch_done(self, worker: WorkerProcess, done: Done) -> None:
        """Tell the scheduler of a finished batch."""
        now_s = time.monotonic()
        batch = self._batch_of(worker, done.batch_id)
        if batch is not None:
            self._pool.praise(worker)
            run_s = now_s - batch.sent_s
            self._happened(BatchDone(now_s, done.batch_id, worker.worker_id, run_s, done.stage_s))

    def batch_failed(self, worker: WorkerProcess, failed: Failed) -> None:
        """Tell the scheduler of a batch that the model could not answer; the text stays in the server's log."""
        if self._batch_of(worker, failed.batch_id) is not None:
            event = BatchFailed(time.monotonic(), failed.batch_id, worker.worker_id, "the model failed")
            self._happened(event)

    def worker_lost(self, worker: WorkerProcess) -> None:
        """Tell the scheduler of a worker whose process is gone."""
        self._processes.pop(worker.worker_id, None)
        for batch_id in [i for i, batch in self._batches.items() if batch.worker is worker]:
            del self._batches[batch_id]
        self._happened(WorkerLost(time.monotonic(), worker.worker_id))

    def _batch_of(self, worker: WorkerProcess, batch_id: int) -> _Dispatched | None:
        batch = self._batches.pop(batch_id, None)
        if batch is None or batch.worker is not worker:
            log.error(
                "worker %d spoke of batch %d, which it was not given; it is ended", worker.worker_id, batch_id
            )
            worker.kill()
            return None
        return batch

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
        if self._recorder is not None:
            self._recorder.record(event, commands)
        for command in commands:
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
        else:
            self._wake_at(command)

    def _give_up(self, command: Command) -> None:
        if isinstance(command, Answer | Refuse):
            self._fail(command.job_id)
        elif isinstance(command, RunBatch) and command.worker_id in self._processes:
            self._processes[command.worker_id].kill()  # its loss gives the batch back

    def _run(self, command: RunBatch) -> None:
        runs = pack_runs(
            (self._jobs[part.job_id].first_row + part.first_item, part.items, part.modalities)
            for part in command.parts
        )
        worker = self._processes[command.worker_id]
        self._batches[command.batch_id] = _Dispatched(worker, time.monotonic(), command.expected_s)
        worker.send(Run(command.batch_id, command.variant, runs))
        self.metrics.batch_items.observe(sum(part.items for part in command.parts))

    def _answer(self, command: Answer) -> None:
        pending = self._jobs[command.job_id]
        job, first = pending.job, pending.first_row
        outputs = {name: slot[first : first + job.items].copy() for name, slot in self._arena.outputs.items()}
        metrics = self.metrics
        metrics.jobs[job.slo_class, "late" if command.late else "answered"] += 1
        metrics.late_jobs += command.late
        metrics.expected_items += command.accuracy * job.items
        metrics.queue_s.observe(command.queue_s)
        metrics.compute_s.observe(command.compute_s)
        for part in command.parts:
            metrics.items[part.variant, part.modalities] += part.items
        self._settle(pending, Answered(command, outputs))

    def _fail(self, job_id: int) -> None:
        """End a job by a fault of ours."""
        pending = self._jobs.get(job_id)
        if pending is not None:
            self.metrics.jobs[pending.job.slo_class, "failed"] += 1
            self._settle(pending, InternalError(f"job {job_id} met a fault of the server"))

    def _settle(self, pending: PendingJob, outcome: Outcome | InternalError) -> None:
        if pending.settled:
            return
        pending.settled = True
        del self._jobs[pending.job.id]
        self._rows.give_back(pending.first_row, pending.job.items)
        if pending.outcome.done():
            pass  # its client did not wait
        elif isinstance(outcome, InternalError):
            pending.outcome.set_exception(outcome)
        else:
            pending.outcome.set_result(outcome)
        if not self._jobs and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _wake_at(self, command: WakeAt) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Whole milliseconds, rounded up: the loop's timers have no finer grain and may not be early.
        delay_s = max(0, math.ceil((command.at_s - time.monotonic()) * 1e3)) / 1e3
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._woke, command)

    def _woke(self, command: WakeAt) -> None:
        self._timer = None
        now_s = time.monotonic()
        if now_s < command.at_s:
            self._wake_at(command)
        else:
            self._happened(Woke(now_s))

    def _end_hung_workers(self) -> None:
        if self._stopped:
            return
        now_s = time.monotonic()
        for batch_id, batch in self._batches.items():
            if now_s > batch.given_up_s:
                log.error("worker %d hangs on batch %d; it is ended", batch.worker.worker_id, batch_id)
                batch.worker.kill()
        asyncio.get_running_loop().call_later(HUNG_CHECK_S, self._end_hung_workers)

    def _gauges(self) -> CellGauges:
        busy = len(self._batches)
        ready = self._pool.ready
        workers = {"busy": busy, "idle": max(0, ready - busy), "starting": len(self._pool.seats) - ready}
        return CellGauges(workers, len(self._jobs), self.label)


def _rung(tensors: Sequence[InferTensor]) -> int:
    """Return the rung of the longest bucket that some inputs need."""
    return max(
        (
            bisect_left(tensor.wire.buckets, tensor.array.shape[tensor.wire.free + 1])
            for tensor in tensors
            if tensor.wire.free is not None
        ),
        default=0,
    )


def _copy_in(slot: Array, first: int, tensor: InferTensor) -> None:
    """Copy a tensor into its rows; what a shorter free axis leaves over is zeros, as padding is."""
    rows = slot[first : first + len(tensor.array)]
    free = tensor.wire.free
    if free is None:
        rows[...] = tensor.array
        return
    length = tensor.array.shape[free + 1]
    before = (slice(None),) * (free + 1)
    rows[(*before, slice(length))] = tensor.array
    rows[(*before, slice(length, None))] = 0
