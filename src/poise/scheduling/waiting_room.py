"""Where accepted jobs wait: in the queue, or set aside while no live worker could answer them."""

from __future__ import annotations

from poise.scheduling.queue import DeadlineQueue, Waiting
from poise.scheduling.view import WorkerState
from poise.scheduling.worker_pool import WorkerPool


class WaitingRoom:
    """The queue, and ``stranded``: jobs whose last able worker left. They wait, while they have time, for another.

    Stranded jobs are not in the queue, so that nobody's time is kept for what cannot run; the credit that was kept for
    them is given up. With no live worker at all every job stays in the queue.
    """

    def __init__(self, pool: WorkerPool, *, by_arrival: bool) -> None:
        self.pool = pool
        self._kinds = pool.kinds
        self.queue = DeadlineQueue(by_arrival=by_arrival)
        self.stranded = DeadlineQueue()
        self._returns = 0

    @property
    def revision(self) -> int:
        """Another number whenever workers of another kind came or went, or items came back."""
        return self.pool.kinds + self._returns

    def insert(self, entry: Waiting) -> None:
        """Let a job wait in its place."""
        lowest, highest = self.pool.reach(entry.job.available)
        needed = entry.least_accuracy
        if highest < needed and self.pool.all:
            entry.reserved = 0.0
            entry.stranded = True
            self.stranded.insert(entry)
        else:
            entry.stranded = False
            entry.particular = lowest < needed
            self.queue.insert(entry)

    def remove(self, entry: Waiting) -> None:
        """Take a job out, with the items that still wait."""
        (self.stranded if entry.stranded else self.queue).remove(entry)

    def returned(self, entry: Waiting, items: int) -> None:
        """Note that items of a job wait again; it comes back if it had left."""
        self._returns += 1
        if entry.queued:
            (self.stranded if entry.stranded else self.queue).returned(entry, items)
        else:
            self.insert(entry)

    def sort_out(self) -> None:
        """Set aside what nobody can answer any more, and take back what somebody can, where workers changed."""
        if self._kinds == self.pool.kinds or not self.pool.all:
            return
        self._kinds = self.pool.kinds
        for entry in [*self.queue.entries, *self.stranded.entries]:
            answerable = self.pool.answered_by_any(entry)
            particular = answerable and not self.pool.answered_by_all(entry)
            if answerable == entry.stranded or particular != entry.particular:
                self.remove(entry)
                self.insert(entry)

    def entries_for(self, worker: WorkerState, passed_over: set[int]) -> list[Waiting]:
        """Return the waiting jobs that a worker may be given: the queue itself where that is all of them."""
        queue, pool = self.queue, self.pool
        if not passed_over and (not queue.particular or pool.answers_most(worker)):
            return queue.entries
        if queue.particular == len(queue) and not any(
            pool.reaches(worker, available, least) for available, least in queue.needs
        ):
            return []
        return [e for e in queue.entries if e.job.id not in passed_over and pool.can_answer(worker, e)]
