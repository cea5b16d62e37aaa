"""The waiting jobs of one service, in deadline order."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from poise.domain.job import Job, RefusalReason


class Waiting:
    """A job that was accepted: what of it still waits, runs and is done.

    ``floor`` is the floor it is planned with (its own, or the best it can reach where credit covers the rest).
    ``item_work_s`` is the least time that each of its items costs. Units: profile seconds.
    """

    __slots__ = (
        "accuracy_planned", "alone", "banked", "below_floor", "credit_drawn", "deaths", "dispatched_s", "done",
        "doomed", "expected_sum", "failures", "floor", "item_work_s", "job", "lost", "next_item", "own_terms", "parts",
        "plan", "planned_items", "queued", "running",
    )  # fmt: skip

    def __init__(self, job: Job, floor: float, item_work_s: float) -> None:
        self.job = job
        self.floor = floor
        self.item_work_s = item_work_s
        self.queued = False
        self.next_item = 0
        self.lost: list[tuple[int, int]] = []
        """Items (first, count) that must run again."""
        self.plan: object = None
        """What a policy that plans ahead keeps of the job."""
        self.running = 0
        self.done = 0
        self.planned_items = 0
        """Items dispatched and not lost; ``accuracy_planned`` is the sum of what they promise."""
        self.accuracy_planned = 0.0
        self.expected_sum = 0.0
        """Sum over answered items of the measured accuracy of the modes that answered them."""
        self.credit_drawn = 0.0
        self.banked = 0.0
        """What its answered items added to its class's balance so far."""
        self.own_terms = False
        """Its floor is below its class's: it is held to its own, and neither earns nor spends the class's credit."""
        self.parts: list[tuple[int, int, int, str]] = []
        self.dispatched_s: float | None = None
        self.alone = False
        self.deaths = 0
        self.failures = 0
        self.below_floor = False
        self.doomed: tuple[RefusalReason, str] | None = None

    @property
    def waiting_items(self) -> int:
        """How many items wait to be dispatched."""
        return self.job.items - self.next_item + sum(count for _, count in self.lost)

    @property
    def work_s(self) -> float:
        """The least time that its waiting items cost. Units: profile seconds."""
        return self.item_work_s * self.waiting_items

    def take(self, count: int) -> list[tuple[int, int]]:
        """Take items to dispatch: lost ones first. Returns runs (first item, items)."""
        runs: list[tuple[int, int]] = []
        while count and self.lost:
            first, items = self.lost.pop()
            taken = min(items, count)
            if taken < items:
                self.lost.append((first + taken, items - taken))
            runs.append((first, taken))
            count -= taken
        if count:
            runs.append((self.next_item, count))
            self.next_item += count
        return runs


class DeadlineQueue:
    """Jobs in order of (deadline, id), or of (arrival, id) where a policy wants that.

    Their deadlines and work are arrays too, for whole-queue arithmetic. Inserting and removing move the tails of
    two float arrays, which for 10,000 jobs costs a few microseconds.
    """

    def __init__(self, capacity: int = 64, *, by_arrival: bool = False) -> None:
        self._by_arrival = by_arrival
        self._deadline = np.empty(capacity)
        self._work = np.empty(capacity)
        self._keys: list[tuple[float, int]] = []
        self.entries: list[Waiting] = []
        self.items = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def deadlines_s(self) -> NDArray[np.float64]:
        """Deadlines, in the queue's order. Units: seconds, absolute."""
        return self._deadline[: len(self.entries)]

    @property
    def work_s(self) -> NDArray[np.float64]:
        """Least remaining work of each job, in order. Units: seconds on one worker."""
        return self._work[: len(self.entries)]

    def position(self, job: Job) -> int:
        """Return where a job stands or would stand."""
        return bisect_left(self._keys, self._key(job))

    def before(self, first: Job, second: Job) -> bool:
        """Whether one job waits ahead of another."""
        return self._key(first) < self._key(second)

    def insert(self, entry: Waiting) -> None:
        """Add an entry in its place."""
        at, size = self.position(entry.job), len(self.entries)
        if size == len(self._deadline):
            self._deadline = np.concatenate((self._deadline, np.empty(size)))
            self._work = np.concatenate((self._work, np.empty(size)))
        for array, value in ((self._deadline, entry.job.deadline_s), (self._work, entry.work_s)):
            array[at + 1 : size + 1] = array[at:size]
            array[at] = value
        self._keys.insert(at, self._key(entry.job))
        self.entries.insert(at, entry)
        self.items += entry.waiting_items
        entry.queued = True

    def remove(self, entry: Waiting) -> None:
        """Take an entry out, with the items that still wait."""
        self.items -= entry.waiting_items
        self._cut(entry)

    def taken(self, entry: Waiting, items: int) -> None:
        """Note that items of a queued entry were dispatched; it leaves with its last one."""
        self.items -= items
        if entry.waiting_items:
            self._work[self.position(entry.job)] = entry.work_s
        else:
            self._cut(entry)

    def returned(self, entry: Waiting, items: int) -> None:
        """Note that items of an entry wait again; it comes back if it had left."""
        if entry.queued:
            self.items += items
            self._work[self.position(entry.job)] = entry.work_s
        else:
            self.insert(entry)

    def _key(self, job: Job) -> tuple[float, int]:
        return (job.arrival_s, job.id) if self._by_arrival else (job.deadline_s, job.id)

    def _cut(self, entry: Waiting) -> None:
        at, size = self.position(entry.job), len(self.entries)
        for array in (self._deadline, self._work):
            array[at : size - 1] = array[at + 1 : size]
        del self._keys[at]
        del self.entries[at]
        entry.queued = False
