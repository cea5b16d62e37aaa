"""From the workers that there are to those that an allocation wants: what to load, start, park and stop now.

Nothing is remembered between two calls: the commands follow from the books and the target alone. So a plan that is
overtaken by a newer one needs no undoing, and what failed is simply still missing the next time.

The order of things: what is loaded already takes over at once. What must be loaded is loaded beside the workers that it
will replace, and those answer until it is ready. Where memory holds only one of them, the old one goes first, if the
rest carries the load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from poise.adapting.commands import ActivateWorker, Command, LoadWorker, ParkWorker, StopWorker
from poise.adapting.policy import one_of
from poise.adapting.workers import Worker, WorkerBooks
from poise.domain.allocation import Workers
from poise.domain.service import Device

Residence = tuple[str, tuple[str, ...], int, Device]

Carries = Callable[[tuple[Workers, ...]], bool]
"""Whether some workers carry the present load."""


class Reconciled(msgspec.Struct, frozen=True):
    """What to do now. ``blocked``: what is in the way, for the operator; empty where nothing is."""

    commands: list[Command]
    blocked: str = ""


class Reconciler:
    """Brings the books towards a target, step by step; changes the books as its commands will.

    ``memory_of`` is what a worker of a kind needs, in bytes; ``standby``: whether workers that are not wanted stay
    loaded, and are loaded to the end.
    """

    def __init__(
        self, books: WorkerBooks, memory_of: Callable[[Workers], int], memory_bytes: int, *, standby: bool
    ) -> None:
        self._books = books
        self._memory_of = memory_of
        self._memory_bytes = memory_bytes
        self._standby = standby
        self.stock: Counter[Workers] = Counter()
        """What is to be resident in any case, as far as memory allows."""
        self._commands: list[Command] = []
        self._blocked = ""

    def step(
        self, target: Iterable[Workers], carries: Carries, held_back: Mapping[Workers, float] | None = None
    ) -> Reconciled:
        """Return what to do now for a target; to be called again whenever a worker has changed.

        ``held_back``: kinds that are not to be loaded at present.
        """
        self._commands, self._blocked = [], ""
        wanted: Counter[Workers] = Counter()
        for workers in target:
            wanted[one_of(workers)] += workers.count
        self._recast(wanted)
        active = Counter(worker.kind for worker in self._books.in_state("active"))
        missing = wanted - active
        pending_cores = self._load_missing(wanted, carries, held_back or {})
        ready: list[tuple[Worker, Workers]] = []
        standby = self._books.in_state("standby")
        for kind, count in missing.items():
            for worker in [w for w in standby if residence(w.kind) == residence(kind)][:count]:
                standby.remove(worker)
                ready.append((worker, kind))
        self._release(active - wanted, pending_cores, followed=bool(ready))
        for worker, kind in ready:
            self._activate(worker, kind)
        if not self._standby:
            for worker in standby:
                self._stop(worker)
        return Reconciled(self._commands, self._blocked)

    def _recast(self, wanted: Counter[Workers]) -> None:
        """Give active workers another batch-time cap where just that is what is wanted."""
        active = self._books.in_state("active")
        surplus = Counter(worker.kind for worker in active) - wanted
        missing = wanted - Counter(worker.kind for worker in active)
        for worker in active:
            if surplus[worker.kind] <= 0:
                continue
            for kind, count in missing.items():
                if count > 0 and residence(kind) == residence(worker.kind):
                    surplus[worker.kind] -= 1
                    missing[kind] -= 1
                    worker.kind = kind
                    self._commands.append(ActivateWorker(worker.worker_id, kind, worker.slots))
                    break

    def _load_missing(
        self, wanted: Counter[Workers], carries: Carries, held_back: Mapping[Workers, float]
    ) -> int:
        """Load what is not resident yet, and give up loads that are not wanted; return the cores still to come."""
        resident: Counter[Residence] = Counter()
        for worker in self._books.in_state("active", "standby", "parking", "loading"):
            resident[residence(worker.kind)] += 1
        needed: Counter[Residence] = Counter()
        for kind, count in wanted.items():
            needed[residence(kind)] += count
        if not self._standby:
            for worker in self._books.in_state("loading"):
                if resident[residence(worker.kind)] > needed[residence(worker.kind)]:
                    resident[residence(worker.kind)] -= 1
                    self._stop(worker)
        for kind in wanted:
            place = residence(kind)
            while resident[place] < needed[place]:
                if kind in held_back:
                    self._blocked = (
                        self._blocked or "a worker that could not be loaded waits to be tried again"
                    )
                    break
                if not self._load(kind, wanted, carries):
                    break
                resident[place] += 1
        self._restock(resident, held_back)
        there = Counter(
            residence(worker.kind) for worker in self._books.in_state("active", "standby", "parking")
        )
        cores = {residence(kind): _cores(kind) for kind in wanted}
        return sum(cores[place] * max(0, count - there[place]) for place, count in needed.items())

    def _restock(self, resident: Counter[Residence], held_back: Mapping[Workers, float]) -> None:
        """Load what is missing of the stock, where there is memory for it: one at a time, since nobody waits for it."""
        if any(worker.state == "loading" for worker in self._books):
            return
        for kind, count in self.stock.items():
            if resident[residence(kind)] < count and kind not in held_back:
                if self._has_memory(self._memory_of(kind)):
                    slots = self._books.take_slots(kind) or tuple(range(_cores(kind)))
                    worker = self._books.add(kind, "loading", slots)
                    self._commands.append(LoadWorker(worker.worker_id, kind, slots))
                return

    def _load(self, kind: Workers, wanted: Counter[Workers], carries: Carries) -> bool:
        """Begin to load a worker, where memory allows or can be freed; say whether it did."""
        needed = self._memory_of(kind)
        if not self._has_memory(needed):
            for spare in self._spares(wanted):
                if not self._has_memory(needed):
                    self._stop(spare)
        if not self._has_memory(needed):
            self._drain_for(needed, wanted, carries)
            return False
        slots = self._books.take_slots(kind) or self._slots_to_inherit(kind, wanted)
        worker = self._books.add(kind, "loading", slots)
        self._commands.append(LoadWorker(worker.worker_id, kind, slots))
        return True

    def _spares(self, wanted: Counter[Workers]) -> list[Worker]:
        """Return the workers without a core that the target does not need: those loading, then those on standby."""
        needed: Counter[Residence] = Counter()
        for kind, count in wanted.items():
            needed[residence(kind)] += count
        for worker in self._books.in_state("active", "parking"):
            needed[residence(worker.kind)] -= 1
        found: list[Worker] = []
        for worker in self._books.in_state("standby", "loading"):
            if needed[residence(worker.kind)] > 0:
                needed[residence(worker.kind)] -= 1
            else:
                found.append(worker)
        return found[::-1]

    def _has_memory(self, needed: int) -> bool:
        used = sum(self._memory_of(worker.kind) for worker in self._books)
        return used + needed <= self._memory_bytes

    def _drain_for(self, needed: int, wanted: Counter[Workers], carries: Carries) -> None:
        """Stop workers that the target does without, for their memory, as far as the rest carries the load."""
        if any(worker.state in ("stopping", "loading") for worker in self._books):
            return  # its memory will be free soon, or it will take over from another
        surplus = Counter(worker.kind for worker in self._books.in_state("active")) - wanted
        overloaded = not carries(tuple(worker.kind for worker in self._books.in_state("active")))
        for worker in self._books.in_state("active"):
            if surplus[worker.kind] <= 0:
                continue
            rest = tuple(other.kind for other in self._books.in_state("active") if other is not worker)
            # Where not even all of them carry the load, to wait would help nobody: the plan carries more.
            if rest and (overloaded or carries(rest)):
                surplus[worker.kind] -= 1
                self._stop(worker)
                if self._freed() >= needed:
                    return
        if not any(worker.state == "stopping" for worker in self._books):
            self._blocked = "memory does not hold old and new workers, and no old one can be spared before"

    def _freed(self) -> int:
        return sum(self._memory_of(worker.kind) for worker in self._books.in_state("stopping"))

    def _slots_to_inherit(self, kind: Workers, wanted: Counter[Workers]) -> tuple[int, ...]:
        """Return the slots of workers that are to go, whose cores a newcomer loads on at idle priority."""
        needed = _cores(kind)
        spoken_for = {slot for worker in self._books.in_state("loading") for slot in worker.slots}
        surplus = Counter(worker.kind for worker in self._books.in_state("active")) - wanted
        found: list[int] = list(self._books.free_slots())
        for worker in self._books.in_state("active"):
            if surplus[worker.kind] > 0:
                surplus[worker.kind] -= 1
                found += worker.slots
        found.sort(key=lambda slot: (slot in spoken_for, slot))
        found += [slot for slot in range(self._books.cores) if slot not in found]
        return tuple(sorted(found[:needed]))

    def _release(self, surplus: Counter[Workers], pending_cores: int, *, followed: bool) -> None:
        """Let workers go that the target does without, but as many cores as are still to be loaded.

        The last one goes only if it is ``followed`` by one that is ready.
        """
        leaving = [worker for worker in self._books.in_state("active") if surplus[worker.kind] > 0]
        kept = pending_cores
        for worker in reversed(leaving):
            if surplus[worker.kind] <= 0:
                continue
            if kept > 0:
                kept -= _cores(worker.kind)
                surplus[worker.kind] -= 1
                continue
            if len(self._books.in_state("active")) == 1 and not followed:
                return
            surplus[worker.kind] -= 1
            self._park(worker)

    def _activate(self, worker: Worker, kind: Workers) -> None:
        slots = self._books.take_slots(kind)
        if slots is None:
            return  # when the cores are free this is asked again
        worker.kind, worker.slots, worker.state = kind, slots, "active"
        self._commands.append(ActivateWorker(worker.worker_id, kind, slots))

    def _park(self, worker: Worker) -> None:
        if not self._standby:
            self._stop(worker)
            return
        worker.state = "parking"
        self._commands.append(ParkWorker(worker.worker_id))

    def _stop(self, worker: Worker) -> None:
        if worker.state in ("loading", "standby"):
            worker.slots = ()
        worker.state = "stopping"
        self._commands.append(StopWorker(worker.worker_id))


def residence(kind: Workers) -> Residence:
    """Return what a worker of a kind has loaded: its batch-time cap and its cell may change at no cost."""
    return kind.service, tuple(sorted(kind.variants)), kind.threads, kind.device


def _cores(kind: Workers) -> int:
    return kind.threads if kind.device == "cpu" else 0
