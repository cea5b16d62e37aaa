"""The waiting jobs of one service, in deadline order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.job import Job, RefusalReason
from poise.planning.service_model import FLOOR_TOLERANCE
from poise.scheduling.costs import Terms


class Waiting(msgspec.Struct, eq=False):
    """A job that was accepted: what of it still waits, runs and is done.

    ``floor`` is the floor it is planned with (its own, or the best it can reach where credit covers the rest).
    Its work is reckoned on the terms ``cost``, its own ``terms`` unless credit is reserved for it; ``waiting_items``
    wait to be dispatched. ``weight``: what its answer is worth, when not all can be answered.
    """

    job: Job
    terms: Terms
    cost: Terms
    floor: float
    waiting_items: int
    weight: float = 1.0
    reserved: float = 0.0
    """Credit of its class that its answer is planned to spend; kept for it while it waits."""
    queued: bool = False
    particular: bool = False
    """Some live worker cannot answer it."""
    stranded: bool = False
    """It waits apart, for a worker that can answer it."""
    next_item: int = 0
    lost: list[tuple[int, int]] = []
    """Items (first, count) that must run again."""
    plan: object = None
    """What a policy that plans ahead keeps of the job."""
    running: int = 0
    done: int = 0
    planned_items: int = 0
    """Items dispatched and not lost; ``accuracy_planned`` is the sum of what they promise."""
    accuracy_planned: float = 0.0
    expected_sum: float = 0.0
    """Sum over answered items of the measured accuracy of the modes that answered them."""
    credit_drawn: float = 0.0
    banked: float = 0.0
    """What its answered items added to its class's balance so far."""
    own_terms: bool = False
    """Its floor is below its class's: it is held to its own, and neither earns nor spends the class's credit."""
    parts: list[tuple[int, int, int, str]] = []
    dispatched_s: float | None = None
    alone: bool = False
    bereft: bool = False
    """A worker that it had been given to died."""
    deaths: int = 0
    failures: int = 0
    below_floor: bool = False
    doomed: tuple[RefusalReason, str] | None = None

    @property
    def work_s(self) -> float:
        """The least time that its waiting items cost, in efficient batches. Units: profile seconds."""
        return self.cost.work_s(self.waiting_items)

    @property
    def least_accuracy(self) -> float:
        """What the highest accuracy of a worker's modes must reach for it to be given the job."""
        return 0.0 if self.terms.soft else self.floor - FLOOR_TOLERANCE

    def take(self, count: int) -> list[tuple[int, int]]:
        """Take items to dispatch: lost ones first. Returns runs (first item, items)."""
        self.waiting_items -= count
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

    def give_back(self, first: int, items: int) -> None:
        """Note that dispatched items must run again."""
        self.lost.append((first, items))
        self.waiting_items += items


class DeadlineQueue:
    """Jobs in order of (deadline, id), or of (arrival, id) where a policy wants that.

    Their deadlines, work and weights are arrays too, for whole-queue arithmetic; they begin at a moving head, so
    that batches, which mostly take the first jobs, leave without moving the rest. Inserting elsewhere moves the
    tails of four float arrays, which for 10,000 jobs costs a few microseconds. Units: profile seconds.
    """

    def __init__(self, capacity: int = 256, *, by_arrival: bool = False) -> None:
        self._by_arrival = by_arrival
        self._arrays = np.empty((4, capacity))
        self._deadline, self._work, self._weight, self._tail = self._arrays
        self._head = 0
        self._keys: list[tuple[float, int]] = []
        self.entries: list[Waiting] = []
        self.items = 0
        self.total_work_s = 0.0
        self.reserved: dict[str, float] = {}
        """Credit that waiting jobs are planned to spend, by class."""
        self.particular = 0
        """How many of the jobs are ``particular``,"""
        self.needs: dict[tuple[int, float], int] = {}
        """and how many of those have the same modalities and need the same accuracy."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def deadlines_s(self) -> NDArray[np.float64]:
        """Deadlines, in the queue's order. Units: seconds, absolute."""
        return self._deadline[self._head : self._head + len(self.entries)]

    @property
    def work_s(self) -> NDArray[np.float64]:
        """Least remaining work of each job, in order. Units: seconds on one worker."""
        return self._work[self._head : self._head + len(self.entries)]

    @property
    def tails_s(self) -> NDArray[np.float64]:
        """What each job costs beyond its work if it ends in a batch of its own, in order. Units: profile seconds."""
        return self._tail[self._head : self._head + len(self.entries)]

    @property
    def weights(self) -> NDArray[np.float64]:
        """What each job is worth, in order; 0 where it cannot be refused any more for another's sake."""
        return self._weight[self._head : self._head + len(self.entries)]

    def position(self, job: Job) -> int:
        """Return where a job stands or would stand."""
        key, keys = self._key(job), self._keys
        if not keys or key > keys[-1]:
            return len(keys)
        return bisect_left(keys, key)

    def before(self, first: Job, second: Job) -> bool:
        """Whether one job waits ahead of another."""
        return self._key(first) < self._key(second)

    def insert(self, entry: Waiting) -> None:
        """Add an entry in its place."""
        job, cost, waiting = entry.job, entry.cost, entry.waiting_items
        keys, size = self._keys, len(self.entries)
        key = self._key(job)
        if self._head + size == len(self._deadline):
            self._make_room(size)
        work_s = cost.work_s(waiting)
        if not keys or key > keys[-1]:
            start = self._head + size
            keys.append(key)
            self.entries.append(entry)
        else:
            at = bisect_left(keys, key)
            start, end = self._head + at, self._head + size
            self._arrays[:, start + 1 : end + 1] = self._arrays[:, start:end].copy()
            keys.insert(at, key)
            self.entries.insert(at, entry)
        self._deadline[start] = job.deadline_s
        self._work[start] = work_s
        self._tail[start] = cost.tail_s(waiting)
        self._weight[start] = 0.0 if entry.running or entry.done else entry.weight
        self.items += entry.waiting_items
        self.total_work_s += work_s
        if entry.reserved:
            name = entry.job.slo_class
            self.reserved[name] = self.reserved.get(name, 0.0) + entry.reserved
        if entry.particular:
            need = (entry.job.available, entry.least_accuracy)
            self.needs[need] = self.needs.get(need, 0) + 1
            self.particular += 1
        entry.queued = True

    def remove(self, entry: Waiting) -> None:
        """Take an entry out, with the items that still wait."""
        self.items -= entry.waiting_items
        self._cut(self.position(entry.job))
        self.release(entry)
        entry.queued = False

    def taken(self, entries: Sequence[Waiting], items: int) -> None:
        """Note that ``items`` of some queued entries, together, were dispatched; they leave with their last ones."""
        self.items -= items
        gone = 0
        for entry in entries:
            if entry.reserved:
                self.release(entry)
            if entry.waiting_items:
                at = self._head + self.position(entry.job)
                self.total_work_s += entry.work_s - float(self._work[at])
                self._work[at] = entry.work_s
                self._tail[at] = entry.cost.tail_s(entry.waiting_items)
                self._weight[at] = 0.0
            else:
                entry.queued = False
                gone += 1
        for entry in self.entries[:gone]:
            if entry.queued:
                self._cut_some([entry for entry in entries if not entry.queued])
                return
        self._cut_first(gone)

    def returned(self, entry: Waiting, items: int) -> None:
        """Note that items of an entry wait again; it comes back if it had left."""
        if entry.queued:
            self.items += items
            at = self._head + self.position(entry.job)
            self.total_work_s += entry.work_s - float(self._work[at])
            self._work[at] = entry.work_s
            self._tail[at] = entry.cost.tail_s(entry.waiting_items)
        else:
            self.insert(entry)

    def release(self, entry: Waiting) -> None:
        """Give up what is reserved for a job."""
        if entry.reserved:
            name = entry.job.slo_class
            self.reserved[name] = max(0.0, self.reserved[name] - entry.reserved)
            entry.reserved = 0.0

    def _key(self, job: Job) -> tuple[float, int]:
        return (job.arrival_s, job.id) if self._by_arrival else (job.deadline_s, job.id)

    def _make_room(self, size: int) -> None:
        """Move the arrays' content to the front, of larger arrays where it fills more than half."""
        content = self._arrays[:, self._head : self._head + size].copy()
        if 2 * size > self._arrays.shape[1]:
            self._arrays = np.empty((4, 2 * self._arrays.shape[1]))
            self._deadline, self._work, self._weight, self._tail = self._arrays
        self._arrays[:, :size] = content
        self._head = 0

    def _cut_first(self, count: int) -> None:
        if self.particular:
            self._fewer_particular(self.entries[:count])
        if count == len(self.entries):
            self._keys.clear()
            self.entries.clear()
            self._left(0.0)
            return
        work_s = self._work[self._head : self._head + count].tolist()
        del self._keys[:count]
        del self.entries[:count]
        self._head += count
        self._left(sum(work_s))

    def _cut_some(self, entries: Sequence[Waiting]) -> None:
        """Take out entries that stand anywhere, moving only what stands before the last of them."""
        places = [self.position(entry.job) for entry in entries]
        if not places:
            return
        head, end = self._head, max(places) + 1
        works_s = [float(self._work[head + at]) for at in places]
        gone = set(places)
        kept = [at for at in range(end) if at not in gone]
        first = end - len(kept)
        self._arrays[:, head + first : head + end] = self._arrays[:, [head + at for at in kept]]
        self._keys[:end] = [self._keys[at] for at in kept]
        self.entries[:end] = [self.entries[at] for at in kept]
        self._fewer_particular(entries)
        self._head = head + first
        for work_s in works_s:
            self._left(work_s)

    def _cut(self, at: int) -> None:
        start, end = self._head + at, self._head + len(self.entries)
        work_s = float(self._work[start])
        if at:
            self._arrays[:, start : end - 1] = self._arrays[:, start + 1 : end].copy()
        else:
            self._head += 1
        del self._keys[at]
        self._fewer_particular([self.entries.pop(at)])
        self._left(work_s)

    def _left(self, work_s: float) -> None:
        if self.entries:
            self.total_work_s -= work_s
        else:
            self._head, self.total_work_s = 0, 0.0  # what rounding left over goes with the last job

    def _fewer_particular(self, entries: Sequence[Waiting]) -> None:
        for entry in entries:
            if entry.particular:
                need = (entry.job.available, entry.least_accuracy)
                self.particular -= 1
                if self.needs[need] == 1:
                    del self.needs[need]
                else:
                    self.needs[need] -= 1
