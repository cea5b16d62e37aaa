"""The policy ``mosel``: the online policy that MOSEL published, as a baseline.

Source: MOSEL (EMNLP 2024, arXiv 2310.18481), step 3, and the policy ``random`` of its released artifact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace

from poise.errors import InternalError
from poise.planning.service_model import FLOOR_TOLERANCE
from poise.scheduling.ladders import Ladders, Resident, Steps, largest_batch
from poise.scheduling.queue import Waiting
from poise.scheduling.view import Choice, DispatchView, Policy, QueueView, Share, WorkerState

LATE_S = 1e-9
"""A predicted end within this of the deadline is in time: the rounding of sums."""

_Free = tuple[float, float, int, WorkerState]


class JobPlan:
    """What is planned for a waiting job: the accuracy to reach, and the floor below which it may not go."""

    __slots__ = ("_items", "_steps", "floor", "target")

    def __init__(self, floor: float) -> None:
        self.target = math.inf
        """Infinite: its most accurate plan, at which it starts."""
        self.floor = floor
        self._items = 0
        self._steps: dict[Resident, Steps] = {}

    def steps(self, ladders: Ladders, resident: Resident, entry: Waiting) -> Steps:
        """Return how its waiting items may be answered on a worker with these variants."""
        if self._items != entry.waiting_items:
            self._steps.clear()
            self._items = entry.waiting_items
        found = self._steps.get(resident)
        if found is None:
            found = ladders.steps(resident, entry.job.available, self._items, self.floor, entry.job.bucket)
            self._steps[resident] = found
        return found

    def without_floor(self) -> bool:
        """Give the floor up; False if there is none any more."""
        if self.floor <= 0.0:
            return False
        self.floor = 0.0
        self._steps.clear()
        return True


class Line:
    """What is predicted of some waiting jobs: one at a time, in order, each on the worker that is free first."""

    def __init__(
        self,
        now_s: float,
        workers: Sequence[WorkerState],
        entries: Sequence[Waiting],
        ladders: Ladders,
    ) -> None:
        self.entries = list(entries)
        self._ladders = ladders
        self.placed: dict[int, WorkerState] = {}
        """Job id -> the worker of its last batch, as last predicted."""
        self.solved = 0
        """How many programmes were solved over it."""
        self._free: list[_Free] = [
            (max(worker.free_at_s, now_s), worker.calibration.factor, worker.worker_id, worker)
            for worker in workers
        ]
        heapify(self._free)
        for entry in self.entries:
            if entry.plan is None:
                entry.plan = JobPlan(entry.floor)

    def first_late(self) -> tuple[int, float] | None:
        """Return the first job that ends after its deadline, as a place in ``entries``, and by how many seconds."""
        free = self._free.copy()
        for place, entry in enumerate(self.entries):
            late_s = self._end_s(free, entry) - entry.job.deadline_s
            if late_s > LATE_S:
                return place, late_s
        return None

    def late_s(self, place: int) -> float:
        """Return by how many seconds a job ends after its deadline (negative: before it)."""
        free = self._free.copy()
        for entry in self.entries[:place]:
            self._end_s(free, entry)
        entry = self.entries[place]
        return self._end_s(free, entry) - entry.job.deadline_s

    def room_s(self, until_s: float) -> float:
        """Return how long all workers together have until a time."""
        return sum(max(0.0, until_s - free_s) for free_s, *_ in self._free)

    def lower(self, entry: Waiting, by_s: float) -> bool:
        """Lower a job to the most accurate plan that saves so much time, or to its floor; False if it is there."""
        worker = self.placed.get(entry.job.id)
        if worker is None:
            return False
        steps, plan = self.steps(entry, worker), plan_of(entry)
        at = steps.at(plan.target)
        if at <= steps.floor_at:
            return False
        enough_s = steps.latency_s[at] - (by_s - LATE_S / 2) / worker.calibration.factor
        plan.target = steps.accuracy[min(at - 1, steps.within(enough_s))]
        return True

    def steps(self, entry: Waiting, worker: WorkerState) -> Steps:
        """Return how a job's waiting items may be answered on a worker."""
        return plan_of(entry).steps(self._ladders, worker.plans, entry)

    def _end_s(self, free: list[_Free], entry: Waiting) -> float:
        """Place a job's batches on the workers that are free first; return when the last ends, -inf: nowhere."""
        target, left = plan_of(entry).target, entry.waiting_items
        end_s = -math.inf
        passed_over: list[_Free] = []
        while left and free:
            free_s, factor, worker_id, worker = free[0]
            steps = self.steps(entry, worker)
            if not len(steps):
                passed_over.append(heappop(free))
                continue
            at = steps.at(target)
            latency_s = steps.latency_s[at]
            if steps.batches == 1:
                left = 0
            else:
                items = min(left, largest_batch(worker.plans))
                ladder = self._ladders.ladder(worker.plans, entry.job.available, items, entry.job.bucket)
                latency_s = ladder.latency_s[ladder.at_least(steps.accuracy[at])]
                left -= items
            done_s = free_s + worker.calibration.real_s(latency_s)
            end_s = max(end_s, done_s)
            heapreplace(free, (done_s, factor, worker_id, worker))
            self.placed[entry.job.id] = worker
        for worker_state in passed_over:
            heappush(free, worker_state)
        return end_s


class Mosel(Policy):
    """One job at a time on a worker, in deadline order, each from its most accurate plan down to its floor.

    - A job starts at the most accurate plan of its own size's frontier. Items of several jobs never share a batch;
      a job larger than the largest batch is answered in several, all at the same accuracy or above.
    - When a job arrives, and again when a worker is free, the ends of the waiting jobs are predicted from the
      profile as calibrated, by list scheduling. At the first that is late, the jobs in deadline order up to it are
      lowered to their floors, one after another, until its deficit is covered and no further: the last one to the
      most accurate plan that does. If the floors do not suffice, the late job is dropped; what was lowered stays so.
    - It plans ahead and drops jobs by its own predictions: admission judges floors and queue bounds only.

    Where the description is silent: a worker's variants are merged into one frontier, so that lowering a job may
    change its variant; with several workers a job whose lowering does not help the late one keeps its plan; a job of
    a class that prefers deadlines goes below its floor before it is dropped. The artifact lowers the last job to its
    floor too, and looks at its queue every few milliseconds. Floors hold for each job, in scope ``class`` too: credit
    is not spent, but for jobs whose modalities cannot reach their floor.
    """

    name = "mosel"
    plans_ahead = True

    def __init__(self) -> None:
        self._ladders = Ladders()

    def arrived(self, view: QueueView, entry: Waiting) -> Sequence[Waiting]:
        """Lower plans until no job is predicted to be late; return the jobs that cannot be held."""
        return self._replan(Line(view.now_s, view.workers, view.queue.entries, self._ladders))

    def choose(self, view: DispatchView) -> Choice | None:
        """Return the first job, or its next batch, by its plan; None if it cannot be held any more."""
        entry, worker = view.entries[0], view.worker
        line = Line(view.now_s, view.workers, view.entries, self._ladders)
        if any(lost is entry for lost in self._replan(line)):
            return None
        steps = line.steps(entry, worker)
        if not len(steps) and entry.terms.soft and plan_of(entry).without_floor():
            steps = line.steps(entry, worker)
        if not len(steps):
            return None
        items = min(entry.waiting_items, largest_batch(worker.plans))
        ladder = self._ladders.ladder(worker.plans, entry.job.available, items, entry.job.bucket)
        at = ladder.at_least(steps.accuracy[steps.at(plan_of(entry).target)])
        plans, frontier, point = ladder.picks[at]
        below = ladder.accuracy[at] < entry.floor - FLOOR_TOLERANCE
        share = Share(entry=entry, counts=frontier.pairs(point), below_floor=below)
        return Choice(plans=plans, shares=(share,), latency_s=ladder.latency_s[at])

    def _replan(self, line: Line) -> list[Waiting]:
        """Change plans until no job of a line is late; return those that are dropped for it."""
        dropped: list[Waiting] = []
        while (late := line.first_late()) is not None:
            place, late_s = late
            if self._cover(line, place, late_s):
                continue
            entry = line.entries[place]
            if not (entry.terms.soft and plan_of(entry).without_floor()):
                dropped.append(line.entries.pop(place))
        return dropped

    def _cover(self, line: Line, place: int, late_s: float) -> bool:
        """Lower jobs up to a late one, in order, until it is in time; False if floors do not suffice."""
        for entry in line.entries[: place + 1]:
            while late_s > LATE_S:
                before = plan_of(entry).target
                if not line.lower(entry, late_s):
                    break
                still_s = line.late_s(place)
                if still_s >= late_s:
                    plan_of(entry).target = before
                    break
                late_s = still_s
            if late_s <= LATE_S:
                return True
        return False


def plan_of(entry: Waiting) -> JobPlan:
    """Return what is planned for a job.

    Raises:
        InternalError: another policy planned it.
    """
    if not isinstance(entry.plan, JobPlan):
        raise InternalError("a job was planned by another policy", story=(repr(entry.job), repr(entry.plan)))
    return entry.plan
