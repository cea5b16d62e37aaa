"""The policy ``jobwise``: E2 as it stands, one job at a time, each deadline of the queue held."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from poise.planning.moore_hodgson import kept_jobs
from poise.planning.queue_job import HELD_S, FreeWorker, JobPoints, QueuedJob
from poise.planning.queue_plan import VirtualJob, plan_queue
from poise.planning.service_model import FLOOR_TOLERANCE
from poise.scheduling.ladders import Ladder, Ladders, Steps, largest_batch
from poise.scheduling.queue import Waiting
from poise.scheduling.upper_load import UpperLoad
from poise.scheduling.view import Choice, DispatchView, Policy, QueueView, Share, WorkerState

PLANNED_JOBS = 64
"""So many waiting jobs are planned one by one at a dispatch; those behind them count as work that must fit."""
VIRTUAL_JOBS = 8
"""The arrivals of a class that are forecast within its SLO are taken together into so many virtual jobs."""
EARLY_S = 2 * HELD_S
"""Jobs are planned to be done so long before their deadlines: the rounding of sums makes none late."""
MOST_POINTS = 4096
"""Floors may be any client's, and plans may be replaced: what is kept for each is dropped beyond this."""


class Planned(msgspec.Struct, frozen=True):
    """How a waiting job may be answered on a worker: ``steps``, and from which of them its points start."""

    steps: Steps
    start: int
    points: JobPoints


class Jobwise(Policy):
    """One job at a time on a worker, in deadline order, each at the point that E2 gives it.

    - When a job arrives, the largest weight of waiting jobs that can all be in time at their cheapest plans is kept
      (class weight and priority); the others, the newcomer perhaps, are refused at once.
    - When a worker is free, the queue is planned: one point for each job, for the most accuracy with every deadline
      held. The first job gets its point; the next decision plans anew.
    - Virtual jobs stand for what may arrive within one SLO, at the upper quantile of what arrived in such windows,
      at cheapest plans: what they need is not spent on accuracy.

    Source: MOSEL (EMNLP 2024), step 3, with each deadline held instead of one sum, exact refusals and virtual jobs.
    Items of several jobs never share a batch; a job larger than the largest batch is answered in several, all at
    the same accuracy or above. Floors hold for each job, in scope ``class`` too: credit is not spent, but for jobs
    whose modalities cannot reach their floor. A job of a class that prefers deadlines goes below its floor only
    where it would else be refused; an answer below is worth as much as a wrong one. Workers are planned for as if
    all held the resident set of the one that is asked.
    """

    name = "jobwise"
    plans_ahead = True

    def __init__(self) -> None:
        self._ladders = Ladders()
        self._points: dict[tuple[Ladder, int, int], JobPoints] = {}
        self._loads: dict[str, UpperLoad] = {}

    def arrived(self, view: QueueView, entry: Waiting) -> Sequence[Waiting]:
        """Return the waiting jobs that are not among the largest weight that can be in time."""
        worker = min(view.workers, key=lambda worker: worker.worker_id)
        newcomer = self._planned(worker, entry)
        if newcomer is not None:
            job = entry.job
            load = self._loads.get(job.slo_class)
            if load is None:
                slo_s = view.model.service.classes[job.slo_class].latency_slo_s
                load = self._loads[job.slo_class] = UpperLoad(slo_s)
            load.observe(view.now_s, job.items, newcomer.points.latency_s[0])
        workers = _free(view.now_s, view.workers)
        lost = self._lost(worker, view.queue.entries, workers, opened=())
        opened = [other for other in lost if other.terms.soft]
        return self._lost(worker, view.queue.entries, workers, opened) if opened else lost

    def choose(self, view: DispatchView) -> Choice | None:
        """Return the first job, or its next batch, at its point; None if it cannot be held any more."""
        first = view.entries[0]
        others = [worker for worker in view.workers if worker is not view.worker]
        workers = _free(view.now_s, [view.worker, *others])
        for opened in ((), (first,)) if first.terms.soft else ((),):
            queued = self._queued(view.worker, view.entries[:PLANNED_JOBS], opened)
            if not queued or queued[0][0] is not first:
                continue
            jobs = [job for _, _, job in queued]
            point = plan_queue(jobs, workers, self._virtual(view, jobs, workers)).points[0]
            if point is not None:
                planned = queued[0][1]
                return self._choice(view.worker, first, planned.steps.accuracy[planned.start + point])
        return None

    def _choice(self, worker: WorkerState, entry: Waiting, accuracy: float) -> Choice:
        """Return a job's next batch, at the cheapest point that reaches an accuracy."""
        items = min(entry.waiting_items, largest_batch(worker.plans))
        ladder = self._ladders.ladder(worker.plans, entry.job.available, items, entry.job.bucket)
        at = ladder.at_least(accuracy)
        plans, frontier, place = ladder.picks[at]
        below = ladder.accuracy[at] < entry.floor - FLOOR_TOLERANCE
        share = Share(entry=entry, counts=frontier.pairs(place), below_floor=below)
        return Choice(plans=plans, shares=(share,), latency_s=ladder.latency_s[at])

    def _lost(
        self,
        worker: WorkerState,
        entries: Sequence[Waiting],
        workers: Sequence[FreeWorker],
        opened: Sequence[Waiting],
    ) -> list[Waiting]:
        queued = self._queued(worker, entries, opened)
        kept = kept_jobs([job for _, _, job in queued], workers)
        return [entry for (entry, _, _), stays in zip(queued, kept, strict=True) if not stays]

    def _queued(
        self, worker: WorkerState, entries: Sequence[Waiting], opened: Sequence[Waiting]
    ) -> list[tuple[Waiting, Planned, QueuedJob]]:
        """Return the waiting jobs that a worker can answer, and what E2 takes of them; ``opened`` without floors."""
        found = []
        free = {id(entry) for entry in opened}
        for entry in entries:
            planned = self._planned(worker, entry, opened=id(entry) in free)
            if planned is None and entry.terms.soft:
                planned = self._planned(worker, entry, opened=True)
            if planned is not None:
                job = QueuedJob(planned.points, entry.job.deadline_s - EARLY_S, entry.weight)
                found.append((entry, planned, job))
        return found

    def _planned(self, worker: WorkerState, entry: Waiting, *, opened: bool = False) -> Planned | None:
        """Return how a job's waiting items may be answered; None where nothing reaches the floor."""
        resident, job, items = worker.plans, entry.job, entry.waiting_items
        steps = self._ladders.steps(resident, job.available, items, entry.floor, job.bucket)
        start = 0 if opened else steps.floor_at
        if start >= len(steps.accuracy):
            return None
        if steps.batches == 1:
            ladder = self._ladders.ladder(resident, job.available, items, job.bucket)
            key = (ladder, start, steps.floor_at)
            points = self._points.get(key)
            if points is None:
                if len(self._points) >= MOST_POINTS:
                    self._points.clear()
                points = self._points[key] = _points(steps, start, items)
            return Planned(steps, start, points)
        calibration = worker.calibration
        more_s = (steps.batches - 1) * calibration.overhead_s / calibration.factor
        return Planned(steps, start, _points(steps, start, items, more_s))

    def _virtual(
        self, view: DispatchView, jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]
    ) -> list[VirtualJob]:
        """Return the arrivals that are forecast, and the waiting jobs behind those planned one by one."""
        found = self._behind(view, jobs, workers)
        for name, load in self._loads.items():
            work_s = load.work_s(view.now_s, view.rates.get(name, 0.0))
            if work_s <= 0:
                continue
            count = max(VIRTUAL_JOBS, 2 * len(workers))
            for at in range(1, count + 1):
                deadline_s = view.now_s + load.window_s * (1 + at / count)
                found.append(VirtualJob(work_s / count, deadline_s))
        return found

    def _behind(
        self, view: DispatchView, jobs: Sequence[QueuedJob], workers: Sequence[FreeWorker]
    ) -> list[VirtualJob]:
        """Return the jobs behind those planned one by one, as one job for each worker.

        Their least work is known for efficient batches; one at a time they take as much more as those planned do.
        """
        rest = view.entries[PLANNED_JOBS:]
        if not rest:
            return []
        planned_s = sum(job.points.latency_s[0] for job in jobs)
        batched_s = sum(entry.work_s for entry in view.entries[:PLANNED_JOBS])
        ratio = max(1.0, planned_s / batched_s) if batched_s > 0 else 1.0
        if view.entries is view.queue.entries:
            deadlines_s, work_s = view.queue.deadlines_s[PLANNED_JOBS:], view.queue.work_s[PLANNED_JOBS:]
        else:
            deadlines_s = np.array([entry.job.deadline_s for entry in rest])
            work_s = np.array([entry.work_s for entry in rest])
        each_s = np.cumsum(work_s) * (ratio / len(workers))
        whole_s = float(each_s[-1])
        factor = max(worker.factor for worker in workers)
        latest_s = float((deadlines_s - each_s * factor).min())
        return [VirtualJob(whole_s, latest_s + whole_s * factor)] * len(workers)


def _points(steps: Steps, start: int, items: int, more_s: float = 0.0) -> JobPoints:
    """Return the points from a step on. Below the floor (where that is opened) an answer is worth a wrong one.

    Latencies that differ by less than their sum can tell are told apart by the least there is.
    """
    times_s: list[float] = []
    for step_s in steps.latency_s[start:]:
        time_s = step_s + more_s
        times_s.append(max(time_s, math.nextafter(times_s[-1], math.inf)) if times_s else time_s)
    return JobPoints(
        times_s,
        [
            items * (accuracy if at >= steps.floor_at else accuracy - 1.0)
            for at, accuracy in enumerate(steps.accuracy[start:], start)
        ],
    )


def _free(now_s: float, workers: Sequence[WorkerState]) -> list[FreeWorker]:
    return [
        FreeWorker(max(worker.free_at_s, now_s), worker.calibration.factor, worker.calibration.overhead_s)
        for worker in workers
    ]
