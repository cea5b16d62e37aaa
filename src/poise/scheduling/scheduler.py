"""The scheduler: events in, commands out. It decides order, batch, variant, modality sets and worker.

One deadline-ordered queue for the service; an idle worker is given the policy's next batch (late binding).
Every accepted job ends in exactly one ``Answer`` or ``Refuse``, given only once none of its items is in flight,
so that a driver may free its tensors then.
"""

from __future__ import annotations

from collections.abc import Iterable

from poise.domain.job import Job, RefusalReason
from poise.domain.profile import WAY_STAGE, Profile
from poise.domain.service import Device, Service, WorkerKind
from poise.errors import InternalError
from poise.planning.service_model import FLOOR_TOLERANCE, ServiceModel
from poise.scheduling.admission import Admission
from poise.scheduling.arrival_rate import ArrivalRate
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.commands import Answer, AnswerPart, BatchPart, Command, Refuse, RunBatch, WakeAt
from poise.scheduling.costs import LeastCosts
from poise.scheduling.events import (
    BatchDone,
    BatchFailed,
    DrainStarted,
    Event,
    JobArrived,
    JobCancelled,
    WorkerLost,
    WorkerReady,
)
from poise.scheduling.policies import policy_named
from poise.scheduling.queue import DeadlineQueue, Waiting
from poise.scheduling.running import RunningBatch, RunningPart
from poise.scheduling.view import Choice, DispatchView, QueueView, WorkerState

RATE_WINDOW_OF_SLO = 4.0
MAX_PASSED_OVER = 3
"""How many jobs that an idle worker cannot hold are passed over at one event before it stays idle."""
MAX_TRIES = 2
"""A job whose batch was lost or failed is tried once more, alone."""


class Scheduler:
    """Owns the queue of one service. ``handle`` is the only mutator; it reads no clock.

    Raises:
        ConfigError: an unknown policy, or a profile without latencies for the workers' threads.
    """

    def __init__(self, service: Service, profile: Profile, policy: str | None = None) -> None:
        self.service = service
        self.policy = policy_named(policy or service.scheduler.policy)
        self.model = ServiceModel(service, profile)
        self.queue = DeadlineQueue(by_arrival=self.policy.order == "arrival")
        self.jobs: dict[int, Waiting] = {}
        self.workers: dict[int, WorkerState] = {}
        self.batches: dict[int, RunningBatch] = {}
        self.balances = {
            name: AccuracyBalance(service.guarantee.credit_items, slo.accuracy_floor)
            for name, slo in service.classes.items()
        }
        self.draining = False
        self._slo_s = min(slo.latency_slo_s for slo in service.classes.values())
        self._rate = ArrivalRate(max(1.0, RATE_WINDOW_OF_SLO * self._slo_s))
        self._costs = LeastCosts(self.policy.reach, ())
        self._alike = True
        self._admission = Admission(service, self.balances, by_deadline=self.policy.admits)
        self._now_s = float("-inf")
        self._next_batch = 1
        self._wake_s: float | None = None
        self._saved_s = 0.0
        self._out: list[Command] = []

    def handle(self, event: Event) -> list[Command]:
        """Take one event and return what is to be done now, in order.

        Raises:
            InternalError: an event that cannot be (a job id used twice, a batch that was never given).
        """
        self._out = []
        self._now_s = max(self._now_s, event.now_s)
        if isinstance(event, JobArrived):
            self._arrived(event.job)
        elif isinstance(event, BatchDone):
            self._done(event)
        elif isinstance(event, JobCancelled):
            self._cancelled(event.job_id)
        elif isinstance(event, BatchFailed):
            self._failed(event)
        elif isinstance(event, WorkerReady):
            self._ready(event)
        elif isinstance(event, WorkerLost):
            self._lost(event.worker_id)
        elif isinstance(event, DrainStarted):
            self.draining = True
        elif self._wake_s is not None and event.now_s >= self._wake_s:
            self._wake_s = None
        self._dispatch()
        self._ask_to_wake()
        return self._out

    def plan_for(self, kinds: Iterable[WorkerKind]) -> None:
        """Work out the plans of some kinds of workers before there are any.

        Raises:
            ConfigError: the profile does not cover them, or they cannot be planned.
        """
        for kind in kinds:
            for variant in kind.variants:
                self.model.plans(variant, kind.threads, kind.device)

    # Jobs

    def _arrived(self, job: Job) -> None:
        if job.id in self.jobs:
            raise InternalError(f"job {job.id} arrived twice", story=(repr(job),))
        self._rate.observe(self._now_s, job.items)
        refusal: Refuse | Waiting
        if self.draining:
            refusal = Refuse(job.id, RefusalReason.DRAINING, "the server is draining; no new jobs are taken")
        elif not self.workers:
            refusal = Refuse(job.id, RefusalReason.NO_WORKER, "no worker is ready")
        else:
            refusal = self._judge(job)
        if isinstance(refusal, Refuse):
            self._out.append(refusal)
            return
        self.jobs[job.id] = refusal
        self.queue.insert(refusal)
        if self.policy.plans_ahead:
            for lost in self.policy.arrived(self._queue_view(), refusal):
                self._doom(lost, RefusalReason.DEADLINE_UNREACHABLE, "the policy dropped it for its deadline")

    def _judge(self, job: Job) -> Refuse | Waiting:
        workers = list(self.workers.values())
        found = self._admission.judge(job, self._now_s, self.queue, workers, self._costs)
        if isinstance(found, Refuse) and found.reason is RefusalReason.DEADLINE_UNREACHABLE:
            idle = [worker for worker in workers if worker.batch_id is None]
            if [worker for worker in idle if worker.calibration.forget_if_stale(self._now_s)]:
                found = self._admission.judge(job, self._now_s, self.queue, workers, self._costs)
        return found

    def _cancelled(self, job_id: int) -> None:
        entry = self.jobs.get(job_id)
        if entry is not None:
            self._doom(entry, RefusalReason.CANCELLED, "the client went away")

    def _doom(self, entry: Waiting, reason: RefusalReason, detail: str) -> None:
        """Decide that a job is refused; said at once, or when its last running item is back."""
        if entry.doomed is not None:
            return
        if entry.queued:
            self.queue.remove(entry)
        entry.doomed = (reason, detail)
        balance = self.balances[entry.job.slo_class]
        balance.earn(entry.credit_drawn)
        if entry.banked > 0:
            balance.owe(entry.banked)
        else:
            balance.earn(-entry.banked)
        self._settle(entry)

    def _settle(self, entry: Waiting) -> None:
        """Give a job its outcome if none of its items waits or runs."""
        if entry.running:
            return
        job = entry.job
        if entry.doomed is not None:
            reason, detail = entry.doomed
            self._out.append(Refuse(job.id, reason, detail))
        elif entry.done == job.items:
            started_s = job.arrival_s if entry.dispatched_s is None else entry.dispatched_s
            self._out.append(
                Answer(
                    job_id=job.id,
                    parts=tuple(AnswerPart(*part) for part in sorted(entry.parts)),
                    accuracy=entry.expected_sum / job.items,
                    queue_s=max(0.0, started_s - job.arrival_s),
                    compute_s=max(0.0, self._now_s - started_s),
                    late=self._now_s > job.deadline_s,
                    below_floor=entry.below_floor,
                )
            )
        else:
            return
        del self.jobs[job.id]

    # Workers and batches

    def _ready(self, event: WorkerReady) -> None:
        if event.worker_id in self.workers:
            raise InternalError(f"worker {event.worker_id} became ready twice", story=(repr(event),))
        device: Device = "cuda" if event.device == "cuda" else "cpu"
        plans = tuple(self.model.plans(name, event.threads, device) for name in event.variants)
        self.workers[event.worker_id] = WorkerState(event.worker_id, plans, self._now_s)
        self._workers_changed()

    def _workers_changed(self) -> None:
        known = {id(plans): plans for worker in self.workers.values() for plans in worker.plans}
        self._alike = len({frozenset(map(id, worker.plans)) for worker in self.workers.values()}) <= 1
        if known:
            self._costs = LeastCosts(self.policy.reach, known.values())

    def _lost(self, worker_id: int) -> None:
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        self._workers_changed()
        if worker.batch_id is not None:
            batch = self.batches.pop(worker.batch_id)
            self._take_back(batch, killed=True)

    def _failed(self, event: BatchFailed) -> None:
        self._take_back(self._finished(event.batch_id, event.worker_id, event), killed=False)

    def _take_back(self, batch: RunningBatch, *, killed: bool) -> None:
        """Return a lost batch's items to the queue: each job is tried once more, alone."""
        batch.return_credit(self.balances)
        for entry, items, counts in batch.give_back():
            if entry.doomed is not None:
                self._settle(entry)
                continue
            self.queue.returned(entry, items)
            entry.alone = True
            if not counts:
                continue
            if killed:
                entry.deaths += 1
            else:
                entry.failures += 1
            if entry.deaths >= MAX_TRIES:
                self._doom(
                    entry, RefusalReason.WORKER_KILLER, "a worker died twice while it answered this job"
                )
            elif entry.deaths + entry.failures >= MAX_TRIES:
                self._doom(entry, RefusalReason.MODEL_FAILED, "the model failed on this job, twice")

    def _finished(self, batch_id: int, worker_id: int, event: Event) -> RunningBatch:
        batch, worker = self.batches.get(batch_id), self.workers.get(worker_id)
        if batch is None or worker is None or worker.batch_id != batch_id:
            raise InternalError(
                f"worker {worker_id} finished batch {batch_id}, which it was not given",
                story=(repr(event), f"its batch is {None if worker is None else worker.batch_id}"),
            )
        del self.batches[batch_id]
        worker.batch_id = None
        worker.free_at_s = self._now_s
        return batch

    def _done(self, event: BatchDone) -> None:
        batch = self._finished(event.batch_id, event.worker_id, event)
        if self.service.scheduler.calibrate:
            stages_s, way_s = batch.predicted()
            measured = [time_s for name, time_s in event.stage_s if name != WAY_STAGE]
            self.workers[event.worker_id].calibration.observe(
                now_s=self._now_s,
                run_s=event.run_s,
                stages_s=sum(measured) if measured else max(0.0, event.run_s - way_s),
                predicted_s=stages_s,
                way_s=way_s,
            )
        batch.settle_balances(self.balances)
        for entry in batch.complete():
            self._settle(entry)

    # Dispatch

    def _dispatch(self) -> None:
        """Give idle workers their batches; refuse jobs that every idle worker declined and no busy one can hold."""
        while (
            self.policy.admits and self.queue.entries and self.queue.entries[0].job.deadline_s <= self._now_s
        ):
            self._give_up(self.queue.entries[0], "its deadline passed while it waited")
        lost = True
        while lost and self.queue.entries:
            declined = self._feed_idle_workers()
            lost = False
            for entry, by in declined.values():
                if entry.queued and self._hopeless(entry, by):
                    self._give_up(entry, "its deadline can no longer be met")
                    lost = True

    def _feed_idle_workers(self) -> dict[int, tuple[Waiting, set[int]]]:
        """Give each idle worker its next batch. Returns the jobs that led one that could not be, by which workers."""
        declined: dict[int, tuple[Waiting, set[int]]] = {}
        idle = [worker for worker in self.workers.values() if worker.batch_id is None]
        idle.sort(key=lambda worker: (worker.calibration.factor, worker.worker_id))
        for worker in idle:
            passed_over: set[int] = set()
            while len(passed_over) <= MAX_PASSED_OVER and (entries := self._entries_for(worker, passed_over)):
                choice = self.policy.choose(self._view(worker, entries))
                if choice is not None:
                    self._run(worker, choice)
                    break
                first = entries[0]
                passed_over.add(first.job.id)
                declined.setdefault(first.job.id, (first, set()))[1].add(worker.worker_id)
        return declined

    def _entries_for(self, worker: WorkerState, passed_over: set[int]) -> list[Waiting]:
        """Waiting jobs that a worker may be given: all, where the workers are alike and none was passed over."""
        if self._alike and not passed_over:
            return self.queue.entries
        return [e for e in self.queue.entries if e.job.id not in passed_over and self._can_answer(worker, e)]

    def _can_answer(self, worker: WorkerState, entry: Waiting) -> bool:
        soft = self.service.classes[entry.job.slo_class].prefer == "deadline"
        least = 0.0 if soft else entry.floor - FLOOR_TOLERANCE
        return worker.highest_accuracy(self.policy, entry.job.available) >= least

    def _hopeless(self, entry: Waiting, declined_by: set[int]) -> bool:
        """Whether no worker could answer a job in time even if it were given nothing else."""
        job = entry.job
        soft = self.service.classes[job.slo_class].prefer == "deadline"
        least_s = self._costs.latency_s(job.available, 0.0 if soft else entry.floor, 1)
        return not any(
            (worker.batch_id is not None or worker.worker_id not in declined_by)
            and (
                not self.policy.admits
                or max(worker.free_at_s, self._now_s) + worker.calibration.real_s(least_s) <= job.deadline_s
            )
            and self._can_answer(worker, entry)
            for worker in self.workers.values()
        )

    def _give_up(self, entry: Waiting, why: str) -> None:
        reason = RefusalReason.WORKER_LOST if entry.deaths else RefusalReason.DEADLINE_PASSED
        self._doom(entry, reason, why)

    def _view(self, worker: WorkerState, entries: list[Waiting]) -> DispatchView:
        return DispatchView(
            now_s=self._now_s,
            worker=worker,
            workers=tuple(self.workers.values()),
            queue=self.queue,
            entries=entries,
            model=self.model,
            balances=self.balances,
            scope=self.service.guarantee.scope,
            arrival_rate=self._rate.items_per_s(self._now_s),
            max_batch=self.service.scheduler.max_batch,
            shortest_slo_s=self._slo_s,
            saved_s=self._saved_s,
            costs=self._costs,
        )

    def _queue_view(self) -> QueueView:
        return QueueView(
            now_s=self._now_s,
            workers=tuple(self.workers.values()),
            queue=self.queue,
            model=self.model,
            scope=self.service.guarantee.scope,
            costs=self._costs,
        )

    def _run(self, worker: WorkerState, choice: Choice) -> None:
        plans = choice.plans
        self._saved_s = choice.saved_s
        batch = RunningBatch(plans)
        for share in choice.shares:
            entry = share.entry
            counts = list(share.counts)
            total = sum(items for _, items in counts)
            entry.below_floor = entry.below_floor or share.below_floor
            if entry.dispatched_s is None:
                entry.dispatched_s = self._now_s
            for first, items in entry.take(total):
                start = first
                while start < first + items:
                    mask, left = counts[0]
                    used = min(left, first + items - start)
                    batch.add(RunningPart(entry, start, used, mask, entry.alone))
                    start += used
                    counts[0] = (mask, left - used)
                    if used == left:
                        counts.pop(0)
            self.queue.taken(entry, total)
        if self.service.guarantee.scope == "class":
            batch.spend_debts(self.balances)
        expected_s = worker.calibration.real_s(choice.latency_s)
        batch_id, self._next_batch = self._next_batch, self._next_batch + 1
        self.batches[batch_id] = batch
        worker.batch_id = batch_id
        worker.free_at_s = self._now_s + expected_s
        parts = tuple(BatchPart(p.entry.job.id, p.first_item, p.items, p.modalities) for p in batch.parts)
        self._out.append(RunBatch(batch_id, worker.worker_id, plans.name, parts, expected_s))

    def _ask_to_wake(self) -> None:
        """Make sure that the first job's deadline is noticed even if nothing else happens."""
        if not self.queue.entries or not self.policy.admits:
            return
        first_s = self.queue.entries[0].job.deadline_s
        if self._wake_s is None or first_s < self._wake_s:
            self._wake_s = first_s
            self._out.append(WakeAt(first_s))
