"""The adapter's books of workers: which there are, in which state, on which cores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from poise.domain.allocation import Workers
from poise.errors import InternalError

State = Literal["loading", "standby", "active", "parking", "stopping"]


class Worker:
    """One worker. ``slots``: the cores that it has, or is to have once it is active."""

    __slots__ = ("kind", "slots", "state", "worker_id")

    def __init__(self, worker_id: int, kind: Workers, state: State, slots: tuple[int, ...] = ()) -> None:
        self.worker_id = worker_id
        self.kind = kind
        self.state: State = state
        self.slots = slots

    @property
    def holds_cores(self) -> bool:
        """Whether its slots are taken: it answers, or its last batch is not done."""
        return self.state in ("active", "parking", "stopping")


class WorkerBooks:
    """All workers by id, and the slots that are free."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.by_id: dict[int, Worker] = {}
        self._next_id = 1

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.by_id.values())

    def add(
        self, kind: Workers, state: State, slots: tuple[int, ...], worker_id: int | None = None
    ) -> Worker:
        """Enter a worker; with an id of its own unless one is given.

        Raises:
            InternalError: the id is taken.
        """
        if worker_id is None:
            worker_id = self._next_id
        elif worker_id in self.by_id:
            raise InternalError(f"worker {worker_id} was entered twice")
        self._next_id = max(self._next_id, worker_id + 1)
        worker = self.by_id[worker_id] = Worker(worker_id, kind, state, slots)
        return worker

    def remove(self, worker_id: int) -> Worker | None:
        """Strike a worker off; None where it is not known."""
        return self.by_id.pop(worker_id, None)

    def in_state(self, *states: State) -> list[Worker]:
        """Return the workers in some states, oldest first."""
        return [worker for worker in self.by_id.values() if worker.state in states]

    def free_slots(self) -> list[int]:
        """Return the slots that no worker holds."""
        taken = {slot for worker in self.by_id.values() if worker.holds_cores for slot in worker.slots}
        return [slot for slot in range(self.cores) if slot not in taken]

    def take_slots(self, kind: Workers) -> tuple[int, ...] | None:
        """Return free slots for a worker, neighbours where there are some; None where there are too few."""
        needed = kind.threads if kind.device == "cpu" else 0
        free = self.free_slots()
        if len(free) < needed:
            return None
        for first in range(len(free) - needed + 1):
            run = free[first : first + needed]
            if needed == 0 or run[-1] - run[0] == needed - 1:
                return tuple(run)
        return tuple(free[:needed])
