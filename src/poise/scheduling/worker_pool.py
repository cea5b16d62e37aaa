"""The live workers of a service, and what their plans have in common."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from math import exp, inf

from poise.domain.service import Device
from poise.errors import InternalError
from poise.planning.service_model import ServiceModel
from poise.scheduling.costs import LeastCosts
from poise.scheduling.events import WorkerReady, WorkerRetiring
from poise.scheduling.fleet import Fleet
from poise.scheduling.queue import Waiting
from poise.scheduling.stage_plans import StagePlans
from poise.scheduling.view import Policy, WorkerState

LONGEST_IDLE = 1 / 16
"""No pause counts for more than this share of the window: a night says nothing about the burst in the morning."""
MOST_COSTS = 64
"""The least costs over so many sets of plans are kept; workers come and go between few of them."""
MOST_PARKED = 4096
"""What so many retired workers measured is kept; that of the one that retired first is given up for another's."""

_Kind = tuple[tuple[str, ...], int, str]
"""What a worker is: its variants, threads and device."""


class WorkerPool:
    """Workers by id. ``all``: those that may be given batches; ``alike``: whether all of them hold the same plans.

    A worker that retires stays in ``by_id`` until its batch is back, but is none of ``all``. What it measured is kept
    for when it is ready again.
    """

    def __init__(self, model: ServiceModel, policy: Policy, window_s: float) -> None:
        self._window_s = window_s
        self._longest_idle_s = LONGEST_IDLE * window_s
        self._idle_s, self._busy_s = 0.0, 0.0
        self._model = model
        self._policy = policy
        self._resident: dict[_Kind, dict[str, StagePlans]] = {}
        self._stages: dict[tuple[str, int, Device], StagePlans] = {}
        self._counts: dict[frozenset[StagePlans], int] = {}
        self._known_costs: dict[frozenset[StagePlans], LeastCosts] = {}
        self._parked: dict[int, WorkerState] = {}
        self._reach: dict[int, tuple[float, float]] = {}
        self._idle: list[tuple[float, int]] = []
        """The rank of each free worker, in order."""
        self._awaited = False
        """Whether one was retired after the last one was ready or lost."""
        self.by_id: dict[int, WorkerState] = {}
        self.all: tuple[WorkerState, ...] = ()
        self.fleet = Fleet(())
        """The same together."""
        self.alike = True
        self.variants: frozenset[str] = frozenset()
        """Those that ``all`` hold between them."""
        self.kinds = 0
        """Counts the times at which what the workers hold between them became another."""
        self.costs = LeastCosts(policy.reach, ())
        """The least that jobs cost on any of them."""

    def add(self, event: WorkerReady) -> None:
        """Take in a worker that has loaded its resident set, or is back; or give one that is here another cap.

        Raises:
            InternalError: it is here already, or still has a batch of another resident set.
            ConfigError: the profile does not cover it.
        """
        known = self.by_id.get(event.worker_id)
        stages = self._resident_of(event)
        cap_s = event.batch_cap_s
        if cap_s is not None and not 0.0 < cap_s < inf:
            raise InternalError("a worker with a batch cap that is no time", story=(repr(event),))
        if known is not None:
            same = known.resident == frozenset(stages.values())  # in whatever order they are named
            changed = known.stages is not stages or known.batch_cap_s != cap_s
            if same and changed and not known.retiring:
                known.batch_cap_s = cap_s
                return
            if not (same and known.retiring):
                raise InternalError(f"worker {event.worker_id} became ready twice", story=(repr(event),))
            worker = known
        else:
            parked = self._parked.pop(event.worker_id, None)
            if parked is not None and parked.resident == frozenset(stages.values()):
                worker = parked
                worker.free_at_s = event.now_s
            else:
                worker = WorkerState(event.worker_id, stages, event.now_s)
            self.by_id[event.worker_id] = worker
        worker.retiring = False
        self._awaited = False
        worker.batch_cap_s = cap_s
        if worker.batch_id is None:
            insort(self._idle, _rank(worker))
        self._counts[worker.resident] = self._counts.get(worker.resident, 0) + 1
        self._changed(came_or_went=self._counts[worker.resident] == 1)

    def retire(self, event: WorkerRetiring) -> bool:
        """Give a worker no more batches; return whether it has none and is gone.

        Raises:
            InternalError: it was never here, or is lost.
        """
        worker = self.by_id.get(event.worker_id)
        if worker is None:
            if event.worker_id not in self._parked:
                raise InternalError(f"unknown worker {event.worker_id} is to retire", story=(repr(event),))
            return False
        if worker.retiring:
            return False
        worker.retiring = True
        self._awaited = True
        self._leaves(worker)
        return self.park(worker)

    def park(self, worker: WorkerState) -> bool:
        """Let a worker go that retires and has no batch any more; return whether it does."""
        if not worker.retiring or worker.batch_id is not None:
            return False
        del self.by_id[worker.worker_id]
        if len(self._parked) >= MOST_PARKED:
            del self._parked[next(iter(self._parked))]
        self._parked[worker.worker_id] = worker
        return True

    def remove(self, worker_id: int) -> WorkerState | None:
        """Let a lost worker go, with what it measured; None where it is not known, or retired before."""
        self._parked.pop(worker_id, None)
        worker = self.by_id.pop(worker_id, None)
        if worker is not None:
            self._awaited = False
        if worker is not None and not worker.retiring:
            self._leaves(worker)
        return worker

    def occupy(self, worker: WorkerState, batch_id: int, now_s: float, until_s: float) -> None:
        """Note that a worker has a batch, and when it should be free."""
        idle_s, busy_s = now_s - worker.free_at_s, until_s - now_s
        idle_s = idle_s if idle_s < self._longest_idle_s else self._longest_idle_s
        kept = exp(-(idle_s + busy_s) / (self._window_s * len(self.all)))
        self._idle_s = kept * self._idle_s + idle_s
        self._busy_s = kept * self._busy_s + busy_s
        worker.batch_id = batch_id
        worker.free_at_s = until_s
        del self._idle[bisect_left(self._idle, _rank(worker))]
        self.fleet.changed(worker)

    def release(self, worker: WorkerState, now_s: float) -> None:
        """Note that a worker is free, with what it has measured by now."""
        worker.batch_id = None
        worker.free_at_s = now_s
        if not worker.retiring:
            insort(self._idle, _rank(worker))
            self.fleet.changed(worker)

    @property
    def between(self) -> bool:
        """Whether there is none because the last one was retired, by plan: another is to come in its place."""
        return self._awaited and not self.all

    @property
    def idle(self) -> int:
        """How many of ``all`` have no batch."""
        return len(self._idle)

    @property
    def idle_share(self) -> float:
        """The share of the time that workers had nothing to do, of late; none before there was anything."""
        total_s = self._idle_s + self._busy_s
        return self._idle_s / total_s if total_s > 0 else 0.0

    def idle_workers(self) -> Iterator[WorkerState]:
        """Yield the workers that are free now, the fastest first."""
        return (self.by_id[worker_id] for _, worker_id in tuple(self._idle))

    def forget_stale(self, now_s: float) -> bool:
        """Give up what free workers measured too long ago; say whether that changes anything."""
        stale = [worker for worker in self.idle_workers() if worker.calibration.forget_if_stale(now_s)]
        for worker in stale:
            worker.reshape()
            self.fleet.changed(worker)
        if stale:
            self._idle = sorted([_rank(worker) for worker in self.idle_workers()])
        return bool(stale)

    def hopeless(self, entry: Waiting, now_s: float, declined_by: set[int]) -> bool:
        """Whether no worker could answer a job in time even if it were given nothing else."""
        job, policy = entry.job, self._policy
        least_s = self.costs.at(job.bucket).latency_s(
            job.available, 0.0 if entry.terms.soft else entry.floor, 1
        )
        return not any(
            (worker.batch_id is not None or worker.worker_id not in declined_by)
            and (
                not policy.admits
                or max(worker.free_at_s, now_s) + worker.calibration.real_s(least_s) <= job.deadline_s
            )
            and self.can_answer(worker, entry)
            for worker in self.all
        )

    def reaches(self, worker: WorkerState, available: int, least: float) -> bool:
        """Whether a worker has modes of at least some accuracy with some modalities."""
        return worker.highest_accuracy(self._policy, available) >= least

    def can_answer(self, worker: WorkerState, entry: Waiting) -> bool:
        """Whether a worker has modes that reach a job's floor."""
        return worker.highest_accuracy(self._policy, entry.job.available) >= entry.least_accuracy

    def answered_by_any(self, entry: Waiting) -> bool:
        """Whether some worker that may be given batches has modes that reach a job's floor."""
        return self.reach(entry.job.available)[1] >= entry.least_accuracy

    def answered_by_all(self, entry: Waiting) -> bool:
        """Whether every worker that may be given batches has modes that reach a job's floor."""
        return self.reach(entry.job.available)[0] >= entry.least_accuracy

    def answers_most(self, worker: WorkerState) -> bool:
        """Whether a worker can answer every job that was asked about and that any worker can answer."""
        policy = self._policy
        return all(worker.highest_accuracy(policy, a) >= most for a, (_, most) in self._reach.items())

    def reach(self, available: int) -> tuple[float, float]:
        """Return the highest accuracy that each worker reaches with some modalities, and that the best one does."""
        found = self._reach.get(available)
        if found is None:
            # One worker speaks for all that hold the same.
            speakers = {worker.resident: worker for worker in self.all}.values()
            each = [worker.highest_accuracy(self._policy, available) for worker in speakers]
            found = self._reach[available] = (min(each, default=-inf), max(each, default=-inf))
        return found

    def _resident_of(self, event: WorkerReady) -> dict[str, StagePlans]:
        kind = (event.variants, event.threads, event.device)
        found = self._resident.get(kind)
        if found is None:
            device: Device = "cuda" if event.device == "cuda" else "cpu"
            found = {name: self._stage_plans(name, event.threads, device) for name in event.variants}
            self._resident[kind] = found
        return found

    def _stage_plans(self, variant: str, threads: int, device: Device) -> StagePlans:
        key = (variant, threads, device)
        found = self._stages.get(key)
        if found is None:
            found = self._stages[key] = StagePlans(
                self._model.profile.variant(variant),
                self._model.plans(variant, threads, device),
                self._model.index,
                statistic=self._model.service.scheduler.latency,
                threads=threads,
                device=device,
            )
        return found

    def _leaves(self, worker: WorkerState) -> None:
        if worker.batch_id is None:
            del self._idle[bisect_left(self._idle, _rank(worker))]
        left = self._counts[worker.resident] - 1
        if left:
            self._counts[worker.resident] = left
        else:
            del self._counts[worker.resident]
        self._changed(came_or_went=not left)

    def _changed(self, *, came_or_went: bool) -> None:
        """Note that ``all`` has changed; ``came_or_went``: and what the workers hold between them."""
        self.all = tuple([worker for worker in self.by_id.values() if not worker.retiring])
        self.fleet = Fleet(self.all)
        if not came_or_went:
            return
        self.kinds += 1
        self.alike = len(self._counts) <= 1
        self._reach.clear()
        self.variants = frozenset(name for worker in self.all for name in worker.stages)
        if self._counts:
            held = frozenset().union(*self._counts)
            costs = self._known_costs.get(held)
            if costs is None:
                if len(self._known_costs) >= MOST_COSTS:
                    self._known_costs.clear()
                plans = dict.fromkeys(s.plans for worker in self.all for s in worker.stages.values())
                costs = self._known_costs[held] = LeastCosts(self._policy.reach, plans)
            self.costs = costs


def _rank(worker: WorkerState) -> tuple[float, int]:
    """What free workers are ordered by: the fastest first."""
    return worker.calibration.factor, worker.worker_id
