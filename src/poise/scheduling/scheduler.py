"""The scheduler: events in, commands out. It decides order, batch, variant, modality sets and worker.

One deadline-ordered queue for the service; an idle worker is given the policy's next batch (late binding).
Every accepted job ends in exactly one ``Answer`` or ``Refuse``, given only once none of its items is in flight,
so that a driver may free its tensors then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, isfinite
from typing import Any

from poise.domain.job import Job, RefusalReason
from poise.domain.profile import Profile
from poise.domain.service import Service, WorkerKind
from poise.errors import InternalError
from poise.planning.service_model import FrontierStore, ServiceModel
from poise.scheduling.admission import Admission, Taken, hopeless
from poise.scheduling.arrival_rate import Arrivals
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.boldness import Boldness
from poise.scheduling.commands import Command, Refuse, ReleaseWorker, RunBatch, WakeAt
from poise.scheduling.events import (
    AllocationAdopted,
    BatchDone,
    BatchFailed,
    DrainStarted,
    Event,
    JobArrived,
    JobCancelled,
    RateForecast,
    Woke,
    WorkerLost,
    WorkerReady,
    WorkerRetiring,
)
from poise.scheduling.policies import policy_named
from poise.scheduling.queue import Waiting
from poise.scheduling.running import RunningBatch, answer_of
from poise.scheduling.shares import ShareAccount, Shares, checked_shares
from poise.scheduling.view import Choice, Wait, WorkerState
from poise.scheduling.views import Views
from poise.scheduling.waiting_room import WaitingRoom
from poise.scheduling.worker_pool import WorkerPool

MAX_PASSED_OVER = 3
"""How many jobs that an idle worker cannot hold are passed over at one event before it stays idle."""
MAX_TRIES = 2
"""A job whose batch was lost or failed is tried once more, alone."""


class Scheduler:
    """Owns the queue of one service. ``handle`` is the only mutator; it reads no clock.

    Raises:
        ConfigError: an unknown policy, or a profile without latencies for the workers' threads.
    """

    def __init__(
        self,
        service: Service,
        profile: Profile,
        policy: str | None = None,
        store: FrontierStore | None = None,
    ) -> None:
        self.service = service
        self.policy = policy_named(policy or service.scheduler.policy)
        self.model = ServiceModel(service, profile, store)
        self.jobs: dict[int, Waiting] = {}
        self.batches: dict[int, RunningBatch] = {}
        self.balances = {
            name: AccuracyBalance(service.guarantee.credit_items, slo.accuracy_floor)
            for name, slo in service.classes.items()
        }
        self.draining = False
        self._arrivals = Arrivals(service.classes)
        self._pool = WorkerPool(self.model, self.policy, self._arrivals.window_s)
        self._room = WaitingRoom(self._pool, by_arrival=self.policy.order == "arrival")
        self.queue = self._room.queue
        self.stranded: Sequence[Waiting] = self._room.stranded.entries
        """The accepted jobs that no live worker can answer; they wait beside the queue, by deadline."""
        judges = self.policy.admits and not self.policy.plans_ahead
        self._admission = Admission(service, self.balances, self._arrivals.deadlines, by_deadline=judges)
        self._by_class = service.guarantee.scope == "class"
        self._now_s = float("-inf")
        self._next_batch = 1
        self._wake_s: float | None = None
        self._held_s = inf
        self._boldness = Boldness()
        self._account = ShareAccount(service)
        self._views = Views(
            self.model, self.balances, self._room, self._arrivals, self._boldness, self._account
        )
        self._out: list[Command] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            JobArrived: self._arrived,
            BatchDone: self._done,
            JobCancelled: self._cancelled,
            BatchFailed: self._failed,
            WorkerReady: self._ready,
            WorkerRetiring: self._retire,
            WorkerLost: self._lost,
            AllocationAdopted: self._adopt,
            RateForecast: self._arrivals.expect,
            DrainStarted: self._drain,
            Woke: self._woke,
        }

    def handle(self, event: Event) -> list[Command]:
        """Take one event and return what is to be done now, in order.

        Raises:
            InternalError: an event that cannot be (a job id used twice, a batch that was never given).
        """
        out = self._out = []
        self._held_s = inf
        if not isfinite(event.now_s):
            raise InternalError("an event at no time", story=(repr(event),))
        self._now_s = event.now_s if event.now_s > self._now_s else self._now_s
        self._handlers[type(event)](event)
        entries, stranded = self.queue.entries, self.stranded
        while stranded and stranded[0].job.deadline_s <= self._now_s:
            self._give_up(stranded[0], "no worker came in time that could answer it")
        if entries and (self._pool.idle or (entries[0].job.deadline_s <= self._now_s and self._expires)):
            self._dispatch()
        if entries or stranded:
            self._ask_to_wake()
        return out

    @property
    def workers(self) -> dict[int, WorkerState]:
        """The live workers by id; those that retire, until they have no batch."""
        return self._pool.by_id

    @property
    def between_workers(self) -> bool:
        """Whether there is no worker because the last one was retired; jobs are taken, and wait for the next."""
        return self._pool.between

    @property
    def shares(self) -> Shares:
        """What was adopted last: shares of each class's load by variant."""
        return self._account.shares

    @property
    def deviations(self) -> Mapping[str, int]:
        """By class, the items that a variant answered beyond its share; none before shares are adopted."""
        return self._account.deviations

    def plan_for(self, kinds: Iterable[WorkerKind]) -> None:
        """Work out the plans of some kinds of workers before there are any.

        Raises:
            ConfigError: the profile does not cover them, or they cannot be planned.
        """
        for kind in kinds:
            for variant in kind.variants:
                self.model.plans(variant, kind.threads, kind.device)

    def _arrived(self, event: JobArrived) -> None:
        job = event.job
        if job.id in self.jobs:
            raise InternalError(f"job {job.id} arrived twice", story=(repr(job),))
        known = job.slo_class in self.balances
        if not known or job.items < 1 or not isfinite(job.arrival_s + job.deadline_s + job.accuracy_floor):
            raise InternalError(f"job {job.id} cannot be: class, items, deadline, floor", story=(repr(job),))
        found = self._judge(job)
        if isinstance(found, Refuse):
            if not hopeless(found, job, self._now_s, self._pool.costs):
                self._arrivals.observe(self._now_s, job)
                self._boldness.refused(found.reason)
            self._out.append(found)
            return
        self._arrivals.observe(self._now_s, job)
        for lost in found.displaced:
            self._doom(lost, RefusalReason.DISPLACED, "its time was given to jobs that are worth more")
        entry = found.entry
        self.jobs[job.id] = entry
        self._room.insert(entry)
        if self.policy.plans_ahead and self._pool.all:
            dropped = self.policy.arrived(self._views.queue(self._now_s), entry)
            if dropped and self._pool.forget_stale(self._now_s):
                dropped = self.policy.arrived(self._views.queue(self._now_s), entry)
            for lost in dropped:
                self._doom(lost, RefusalReason.DEADLINE_UNREACHABLE, "the policy dropped it for its deadline")

    def _judge(self, job: Job) -> Refuse | Taken:
        pool, now_s = self._pool, self._now_s
        if self.draining:
            return Refuse(job.id, RefusalReason.DRAINING, "the server is draining; no new jobs are taken")
        if not pool.all and not pool.between:
            return Refuse(job.id, RefusalReason.NO_WORKER, "no worker is ready")
        found = self._admission.judge(job, now_s, self.queue, pool.fleet, pool.costs)
        late = isinstance(found, Refuse) and found.reason is RefusalReason.DEADLINE_UNREACHABLE
        if late and pool.idle and pool.forget_stale(now_s):
            found = self._admission.judge(job, now_s, self.queue, pool.fleet, pool.costs)
        return found

    def _cancelled(self, event: JobCancelled) -> None:
        if (entry := self.jobs.get(event.job_id)) is not None:
            self._doom(entry, RefusalReason.CANCELLED, "the client went away")

    def _drain(self, _: DrainStarted) -> None:
        self.draining = True

    def _woke(self, event: Woke) -> None:
        if self._wake_s is not None and event.now_s >= self._wake_s:
            self._wake_s = None

    def _doom(self, entry: Waiting, reason: RefusalReason, detail: str) -> None:
        """Decide that a job is refused; said at once, or when its last running item is back."""
        if entry.doomed is not None:
            return
        if entry.queued:
            self._room.remove(entry)
        entry.doomed = (reason, detail)
        self._boldness.refused(reason)
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
            self._out.append(Refuse(job.id, *entry.doomed))
        elif entry.done == job.items:
            self._out.append(answer_of(entry, self._now_s))
        else:
            return
        del self.jobs[job.id]

    def _ready(self, event: WorkerReady) -> None:
        self._pool.add(event)
        self._workers_changed()

    def _retire(self, event: WorkerRetiring) -> None:
        if self._pool.retire(event):
            self._out.append(ReleaseWorker(event.worker_id))
        self._workers_changed()

    def _workers_changed(self) -> None:
        self._room.sort_out()
        self._account.hold(self._pool.variants)

    def _adopt(self, event: AllocationAdopted) -> None:
        self._account.adopt(checked_shares(event, self.service))

    def _lost(self, event: WorkerLost) -> None:
        worker = self._pool.remove(event.worker_id)
        self._workers_changed()
        if worker is not None and worker.batch_id is not None:
            self._take_back(self.batches.pop(worker.batch_id), killed=True, untouched=event.untouched)

    def _failed(self, event: BatchFailed) -> None:
        worker, batch = self._finished(event)
        self._pool.release(worker, self._now_s)
        self._take_back(batch, killed=False)
        self._release(worker)

    def _take_back(self, batch: RunningBatch, *, killed: bool, untouched: bool = False) -> None:
        """Return a lost batch's items to the queue: each job is tried once more, alone; freely, if ``untouched``."""
        batch.return_credit(self.balances)
        for entry, items, counts in batch.give_back():
            if entry.doomed is not None:
                self._settle(entry)
                continue
            self._room.returned(entry, items)
            entry.bereft |= killed
            entry.alone |= not untouched
            if untouched or not counts:
                continue
            entry.deaths += killed
            entry.failures += not killed
            if entry.deaths >= MAX_TRIES:
                self._doom(entry, RefusalReason.WORKER_KILLER, "a worker died twice with this job")
            elif entry.deaths + entry.failures >= MAX_TRIES:
                self._doom(entry, RefusalReason.MODEL_FAILED, "the model failed on this job, twice")

    def _finished(self, event: BatchDone | BatchFailed) -> tuple[WorkerState, RunningBatch]:
        batch_id, worker_id = event.batch_id, event.worker_id
        batch, worker = self.batches.get(batch_id), self.workers.get(worker_id)
        if batch is None or worker is None or worker.batch_id != batch_id:
            raise InternalError(
                f"worker {worker_id} finished batch {batch_id}, which it was not given",
                story=(repr(event), f"its batch is {None if worker is None else worker.batch_id}"),
            )
        del self.batches[batch_id]
        return worker, batch

    def _release(self, worker: WorkerState) -> None:
        """Let a worker go that was to retire, now that it has no batch."""
        if self._pool.park(worker):
            self._out.append(ReleaseWorker(worker.worker_id))

    def _done(self, event: BatchDone) -> None:
        worker, batch = self._finished(event)
        if self.service.scheduler.calibrate:
            worker.measure(batch.plans.name, batch.counts(), batch.rungs, event, self._now_s)
        self._pool.release(worker, self._now_s)
        if self._by_class:
            batch.settle_balances(self.balances)
        for entry in batch.complete():
            self._settle(entry)
        self._release(worker)

    @property
    def _expires(self) -> bool:
        """Whether jobs are given up at their deadline: the policy admits, or no worker is left to be late."""
        return self.policy.admits or not self._pool.all

    def _dispatch(self) -> None:
        """Give idle workers their batches; refuse jobs that every idle worker declined and no busy one can hold."""
        while self._expires and self.queue.entries and self.queue.entries[0].job.deadline_s <= self._now_s:
            self._give_up(self.queue.entries[0], "its deadline passed while it waited")
        lost = True
        while lost and self.queue.entries:
            lost = False
            declined = self._feed_idle_workers()
            for entry, by in declined.values():
                if entry.queued and self._pool.hopeless(entry, self._now_s, by):
                    self._give_up(entry, "its deadline can no longer be met")
                    lost = True

    def _feed_idle_workers(self) -> dict[int, tuple[Waiting, set[int]]]:
        """Give each idle worker its next batch. Returns the jobs that led one that could not be, by which workers."""
        declined: dict[int, tuple[Waiting, set[int]]] = {}
        without: set[object] = set()
        for worker in self._pool.idle_workers():
            if not self.queue.entries:
                break
            if worker.resident not in without and not self._feed(worker, declined):
                without.add(worker.resident)
        return declined

    def _feed(self, worker: WorkerState, declined: dict[int, tuple[Waiting, set[int]]]) -> bool:
        """Give an idle worker the next batch that its policy chooses, passing over a few jobs that it cannot hold.

        Returns whether another worker that holds the same might be given one now.
        """
        passed_over: set[int] = set()
        while len(passed_over) <= MAX_PASSED_OVER:
            binds = self.policy.binds
            entries = self.queue.entries if binds else self._room.entries_for(worker, passed_over)
            if not entries:
                return bool(passed_over)
            choice = self.policy.choose(self._views.dispatch(self._now_s, worker, entries))
            if isinstance(choice, Choice):
                self._run(worker, choice)
                return True
            if isinstance(choice, Wait):
                self._held_s = min(self._held_s, choice.until_s)
            if binds or choice is not None:
                return False
            first = entries[0]
            passed_over.add(first.job.id)
            declined.setdefault(first.job.id, (first, set()))[1].add(worker.worker_id)
        return True

    def _give_up(self, entry: Waiting, why: str) -> None:
        ours = self.policy.admits and not entry.stranded and not self._pool.between
        expired = RefusalReason.DEADLINE_PASSED if ours else RefusalReason.NO_WORKER
        self._doom(entry, RefusalReason.WORKER_LOST if entry.bereft else expired, why)

    def _run(self, worker: WorkerState, choice: Choice) -> None:
        plans = choice.plans
        self._views.saved_s = choice.saved_s
        self._boldness.ran()
        now_s = self._now_s
        batch = RunningBatch(plans)
        taken, total = batch.take(choice.shares, now_s)
        if self._account.shares:
            self._account.give(now_s, plans.name, [(e.job.slo_class, p.items) for e, p in batch.pairs()])
        self.queue.taken(taken, total)
        if self._by_class:
            batch.spend_debts(self.balances)
        expected_s = worker.calibration.real_s(choice.latency_s)
        batch_id, self._next_batch = self._next_batch, self._next_batch + 1
        self.batches[batch_id] = batch
        self._pool.occupy(worker, batch_id, now_s, now_s + expected_s)
        self._out.append(RunBatch(batch_id, worker.worker_id, plans.name, tuple(batch.parts), expected_s))

    def _ask_to_wake(self) -> None:
        """Make sure that the first job's deadline is noticed even if nothing else happens."""
        first_s, stranded, entries = self._held_s, self.stranded, self.queue.entries
        if stranded and stranded[0].job.deadline_s < first_s:
            first_s = stranded[0].job.deadline_s
        if entries and entries[0].job.deadline_s < first_s and self._expires:
            first_s = entries[0].job.deadline_s
        if first_s < inf and (self._wake_s is None or first_s < self._wake_s):
            self._wake_s = first_s
            self._out.append(WakeAt(first_s))
