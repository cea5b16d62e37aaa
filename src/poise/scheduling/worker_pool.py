"""The live workers of a service, and what their plans have in common."""

from __future__ import annotations

from math import exp

from poise.domain.service import Device
from poise.errors import InternalError
from poise.planning.service_model import ServiceModel
from poise.scheduling.costs import LeastCosts
from poise.scheduling.events import WorkerReady
from poise.scheduling.stage_plans import StagePlans
from poise.scheduling.view import Policy, WorkerState

LONGEST_IDLE = 1 / 16
"""No pause counts for more than this share of the window: a night says nothing about the burst in the morning."""


class WorkerPool:
    """Workers by id. ``idle``: how many have no batch; ``alike``: whether all hold the same plans."""

    def __init__(self, model: ServiceModel, policy: Policy, window_s: float) -> None:
        self._window_s = window_s
        self._longest_idle_s = LONGEST_IDLE * window_s
        self._idle_s, self._busy_s = 0.0, 0.0
        self._model = model
        self._policy = policy
        self._stages: dict[tuple[str, int, Device], StagePlans] = {}
        self.by_id: dict[int, WorkerState] = {}
        self.all: tuple[WorkerState, ...] = ()
        self.idle = 0
        self.alike = True
        self.costs = LeastCosts(policy.reach, ())
        """The least that jobs cost on any of them."""

    def add(self, event: WorkerReady) -> None:
        """Take in a worker that has loaded its resident set.

        Raises:
            InternalError: it is here already.
            ConfigError: the profile does not cover it.
        """
        if event.worker_id in self.by_id:
            raise InternalError(f"worker {event.worker_id} became ready twice", story=(repr(event),))
        device: Device = "cuda" if event.device == "cuda" else "cpu"
        stages = {name: self._stage_plans(name, event.threads, device) for name in event.variants}
        self.by_id[event.worker_id] = WorkerState(event.worker_id, stages, event.now_s)
        self._changed()

    def remove(self, worker_id: int) -> WorkerState | None:
        """Let a lost worker go; None where it is not known."""
        worker = self.by_id.pop(worker_id, None)
        if worker is not None:
            self._changed()
        return worker

    def occupy(self, worker: WorkerState, batch_id: int, now_s: float, until_s: float) -> None:
        """Note that a worker has a batch, and when it should be free."""
        idle_s, busy_s = min(now_s - worker.free_at_s, self._longest_idle_s), until_s - now_s
        kept = exp(-(idle_s + busy_s) / (self._window_s * len(self.all)))
        self._idle_s = kept * self._idle_s + idle_s
        self._busy_s = kept * self._busy_s + busy_s
        worker.batch_id = batch_id
        worker.free_at_s = until_s
        self.idle -= 1

    def release(self, worker: WorkerState, now_s: float) -> None:
        """Note that a worker is free."""
        worker.batch_id = None
        worker.free_at_s = now_s
        self.idle += 1

    @property
    def idle_share(self) -> float:
        """The share of the time that workers had nothing to do, of late; none before there was anything."""
        total_s = self._idle_s + self._busy_s
        return self._idle_s / total_s if total_s > 0 else 0.0

    def idle_workers(self) -> list[WorkerState]:
        """Return the free workers, the fastest first."""
        idle = [worker for worker in self.all if worker.batch_id is None]
        if len(idle) > 1:
            idle.sort(key=lambda worker: (worker.calibration.factor, worker.worker_id))
        return idle

    def forget_stale(self, now_s: float) -> bool:
        """Give up what free workers measured too long ago; say whether that changes anything."""
        stale = [worker for worker in self.idle_workers() if worker.calibration.forget_if_stale(now_s)]
        for worker in stale:
            worker.reshape()
        return bool(stale)

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

    def _changed(self) -> None:
        self.all = tuple(self.by_id.values())
        self.idle = sum(worker.batch_id is None for worker in self.all)
        known = {id(stages): stages.plans for worker in self.all for stages in worker.stages.values()}
        self.alike = len({frozenset(map(id, worker.stages.values())) for worker in self.all}) <= 1
        if known:
            self.costs = LeastCosts(self._policy.reach, known.values())
