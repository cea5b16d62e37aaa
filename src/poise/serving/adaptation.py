"""The live driver of the adapter: feeds it what the cells observe, and carries out what it asks for.

It runs on the cells' event loop. What takes long does not: the solver has a thread, a worker that loads is a process,
and the history is written elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from poise.adapting.commands import (
    ActivateWorker,
    AdoptShares,
    Command,
    LoadWorker,
    ParkWorker,
    RecordDecision,
    SolveAllocation,
    StopWorker,
)
from poise.adapting.events import (
    AllocationSolved,
    Event,
    Observed,
    WorkerLoaded,
    WorkerLost,
    WorkerNotLoaded,
    WorkerParked,
    WorkerStopped,
)
from poise.domain.allocation import Workers
from poise.errors import PoiseError, WorkerError
from poise.files.history import WorkerChange
from poise.scheduling.events import AllocationAdopted
from poise.scheduling.events import Event as SchedulerEvent
from poise.serving.adapter_metrics import AdapterMetrics
from poise.serving.chronicle import Chronicle
from poise.serving.decision_log import fields_of, words_of
from poise.serving.keeper import KeptCell
from poise.serving.solving import Solving

BEAT_S = 1.0
LEAST_BEAT_S = 0.2
FAILED_STARTS = 5
"""After so many workers that could not be loaded before any was there, the server gives up."""

State = Literal["loading", "standby", "active", "retiring", "ending"]

log = logging.getLogger(__name__)


class AdapterCore(Protocol):
    """What is driven: the adapter, or a stand-in."""

    def start(self, now_s: float, epoch_s: float, initial: tuple[Workers, ...] = ()) -> list[Command]:
        """Begin with some workers."""

    def handle(self, event: Event) -> list[Command]:
        """Take one event and return what is to be done now, in order."""


class AdaptedCell(KeptCell, Protocol):
    """What the driver asks of a cell."""

    def observed(self, epoch_s: float) -> Observed:
        """Return what happened since this was last asked."""

    def tell(self, event: SchedulerEvent) -> None:
        """Tell the scheduler of a plan's shares or of a forecast."""


class _Kept:
    """A worker as the adapter knows it. ``then``: what it is to do once it has no batch any more.

    ``held``: it is to retire, but answers until another does, or none is to come.
    """

    def __init__(self, kind: Workers) -> None:
        self.kind = kind
        self.state: State = "loading"
        self.then: Literal["park", "stop"] = "park"
        self.held = False


class Adaptation:
    """Drives one adapter for one cell, or for several on one budget; it is the keeper of each of them.

    ``cells`` by service, or one under the empty name. ``cores`` are the machine's: slot *i* is the *i*-th from the
    last, and they are shared in turn where the budget has more slots than there are cores.
    """

    def __init__(
        self,
        adapter: AdapterCore,
        cells: Mapping[str, AdaptedCell],
        cores: Sequence[int],
        chronicle: Chronicle,
        initial: tuple[Workers, ...] = (),
    ) -> None:
        self.metrics = AdapterMetrics(self.states, self._cores_in_use)
        self._adapter = adapter
        self._cells = cells
        self._cores = tuple(cores)
        self._chronicle = chronicle
        self._initial = initial
        self._workers: dict[int, _Kept] = {}
        self._events: deque[Event] = deque()
        self._pumping = False
        self._solving = Solving(self._solved)
        self._stopped = False
        self._started: asyncio.Future[None] | None = None
        self._failed_starts = 0
        self._first: set[int] = set()  # asked for before any was in use
        self._in_use = False
        self._beat: asyncio.TimerHandle | None = None
        self._carriers: dict[type, Callable[[Any], None]] = {
            SolveAllocation: self._solve,
            LoadWorker: self._load,
            ActivateWorker: self._activate,
            ParkWorker: self._park,
            StopWorker: self._stop,
            AdoptShares: self._adopt,
            RecordDecision: self._record,
        }

    # The keeper's part

    async def start(self) -> None:
        """Ask the adapter for the first workers; wait until they are there: one answers, and none is still loading.

        Every cell waits here; the first one begins.

        Raises:
            WorkerError: none could be loaded.
        """
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
            now_s, epoch_s = time.monotonic(), time.time()
            self._carry_out_all(lambda: self._adapter.start(now_s, epoch_s, self._initial))
            for cell in self._cells.values():
                cell.observed(epoch_s)  # what was before does not count
            self._observe_at_next_second(epoch_s)
        await asyncio.shield(self._started)

    def stop(self) -> None:
        """Ask for nothing any more."""
        self._stopped = True
        if self._beat is not None:
            self._beat.cancel()

    def loaded(self, worker_id: int, kind: Workers, load_s: float) -> None:
        """Tell the adapter."""
        worker = self._workers[worker_id]
        if worker.state == "loading":
            worker.state = "standby"
            self._changed(worker_id, worker, "loaded", f"in {load_s:.2f} s")
            self._happened(WorkerLoaded(time.monotonic(), worker_id, worker.kind, load_s))

    def released(self, worker_id: int) -> None:
        """Tell the adapter of a parked worker; end one that was to stop."""
        worker = self._workers[worker_id]
        if worker.then == "stop":
            worker.state = "ending"
            self._cell_of(worker).end_worker(worker_id)
        else:
            worker.state = "standby"
            self._changed(worker_id, worker, "parked")
            self._happened(WorkerParked(time.monotonic(), worker_id))

    def answered(self, worker_id: int) -> None:
        """Nothing: the adapter sees what is answered in its beats."""

    def gone(self, worker_id: int, problem: str, *, loaded: bool) -> None:
        """Tell the adapter, which decides whether another is to be loaded."""
        worker = self._workers.pop(worker_id)
        now_s = time.monotonic()
        if worker.state == "ending" or (worker.state == "retiring" and worker.then == "stop"):
            self._changed(worker_id, worker, "stopped", problem)
            self._happened(WorkerStopped(now_s, worker_id))
        elif worker.state == "loading":
            words = ", ".join(worker.kind.variants)
            fields = {"event": "worker_not_loaded", "worker": worker_id, "problem": problem}
            log.error("a worker with %s could not be loaded: %s", words, problem, extra=fields)
            self._failed_starts += 1
            self._changed(worker_id, worker, "not loaded", problem)
            self._happened(WorkerNotLoaded(now_s, worker_id, problem))
            self._give_up_start(problem)
        else:
            fields = {"event": "worker_lost", "worker": worker_id, "problem": problem}
            log.error("worker %d was lost: %s", worker_id, problem, extra=fields)
            self._changed(worker_id, worker, "lost", problem)
            self._happened(WorkerLost(now_s, worker_id))

    def states(self) -> Mapping[str, int]:
        """Return how many workers are in each state but in use."""
        found = {"starting": 0, "standby": 0}
        for worker in self._workers.values():
            if worker.state == "loading":
                found["starting"] += 1
            elif worker.state == "standby":
                found["standby"] += 1
        return found

    # Events in, commands out

    def _happened(self, event: Event) -> None:
        """Have the adapter hear of an event soon, but not in the middle of what led to it."""
        self._events.append(event)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        while not self._stopped and (self._events or self._retire_held()):
            while self._events:
                event = self._events.popleft()
                self._carry_out_all(lambda: self._adapter.handle(event))  # noqa: B023  (called at once)
        self._pumping = False
        self._see_whether_started()

    def _carry_out_all(self, ask: Callable[[], Sequence[Command]]) -> None:
        try:
            commands = ask()
        except Exception:
            # The cells go on as they are: workers that answer are worth more than a plan.
            log.exception("the adapter raised; the workers stay as they are")
            self.metrics.faults += 1
            return
        for command in commands:
            try:
                self._carriers[type(command)](command)
            except Exception:
                log.exception("a command of the adapter could not be carried out: %r", command)
                self.metrics.faults += 1

    def _observe(self) -> None:
        """Tell the adapter of the last second, at every whole second of the day."""
        if self._stopped:
            return
        epoch_s = time.time()
        for cell in self._cells.values():
            beat = cell.observed(epoch_s)
            self._chronicle.observed(beat)
            self._happened(beat)
        self._observe_at_next_second(epoch_s)

    def _observe_at_next_second(self, epoch_s: float) -> None:
        wait_s = BEAT_S - epoch_s % BEAT_S
        wait_s += BEAT_S if wait_s < LEAST_BEAT_S else 0.0
        self._beat = asyncio.get_running_loop().call_later(wait_s, self._observe)

    def _solve(self, command: SolveAllocation) -> None:
        self._solving.begin(command.solve_id, command.solve, command.time_limit_s)

    def _solved(self, event: AllocationSolved) -> None:
        self.metrics.solved(event)
        if event.trouble:
            fields = {"event": "solver_failed", "solve_s": event.solve_s}
            log.warning("no new allocation: %s", event.trouble, extra=fields)
        self._happened(event)

    def _load(self, command: LoadWorker) -> None:
        worker = self._workers[command.worker_id] = _Kept(command.kind)
        if not self._in_use:
            self._first.add(command.worker_id)
        self._changed(command.worker_id, worker, "loading")
        cores = self._cores_of(command.cores)
        try:
            self._cell_of(worker).load_worker(command.worker_id, command.kind, cores, at_idle=True)
        except (PoiseError, KeyError) as error:
            asyncio.get_running_loop().call_soon(self._refused, command.worker_id, str(error))

    def _refused(self, worker_id: int, problem: str) -> None:
        self.gone(worker_id, problem, loaded=False)

    def _activate(self, command: ActivateWorker) -> None:
        worker = self._workers.get(command.worker_id)
        if worker is None or worker.state not in ("standby", "active"):
            return  # it is gone, and the adapter will have heard
        worker.state = "active"
        worker.kind = command.kind
        self._in_use = True
        self._changed(command.worker_id, worker, "active")
        cores = self._cores_of(command.cores)
        self._cell_of(worker).activate_worker(command.worker_id, command.kind, cores)

    def _park(self, command: ParkWorker) -> None:
        worker = self._workers.get(command.worker_id)
        if worker is not None and worker.state == "active":
            worker.then = "park"
            self._retire(command.worker_id, worker)

    def _stop(self, command: StopWorker) -> None:
        worker = self._workers.get(command.worker_id)
        if worker is None:
            return
        self._changed(command.worker_id, worker, "stopping")
        worker.then = "stop"
        if worker.state == "active":
            self._retire(command.worker_id, worker)
        elif worker.state in ("loading", "standby"):
            worker.state = "ending"
            self._cell_of(worker).end_worker(command.worker_id)

    def _retire(self, worker_id: int, worker: _Kept) -> None:
        """Have a worker retire; the last one that answers waits for others that are about to come back.

        All may be told to retire at once, to come back with another batch-time cap: jobs that arrive meanwhile would
        find no worker at all.
        """
        worker.state = "retiring"
        worker.held = not self._others(worker, "active")
        if worker.held:
            self._pump_soon()
        else:
            self._cell_of(worker).retire_worker(worker_id)

    def _retire_held(self) -> bool:
        """Let go who was held for the others' sake, once one of them answers or none is retiring; say if any was."""
        for worker_id, worker in self._workers.items():
            if worker.held and (
                self._others(worker, "active")
                or all(other.held for other in self._others(worker, "retiring"))
            ):
                worker.held = False
                self._cell_of(worker).retire_worker(worker_id)
                return True
        return False

    def _others(self, worker: _Kept, state: State) -> list[_Kept]:
        service = worker.kind.service
        return [
            other
            for other in self._workers.values()
            if other is not worker and other.state == state and other.kind.service == service
        ]

    def _adopt(self, command: AdoptShares) -> None:
        self._cells[command.service].tell(AllocationAdopted(time.monotonic(), command.shares))

    def _record(self, command: RecordDecision) -> None:
        decision = command.decision
        self.metrics.decided(decision)
        self._chronicle.decided(decision)
        if decision.outcome != "kept":
            log.info("%s", words_of(decision), extra=fields_of(decision))

    # What is where

    def _cell_of(self, worker: _Kept) -> AdaptedCell:
        return self._cells[worker.kind.service]

    def _cores_of(self, slots: Sequence[int]) -> tuple[int, ...]:
        """Return the machine's cores of some slots: from the last down, since the first are the front end's."""
        last = len(self._cores) - 1
        return tuple(sorted({self._cores[last - slot % (last + 1)] for slot in slots})) or self._cores

    def _cores_in_use(self) -> int:
        return sum(w.kind.cores for w in self._workers.values() if w.state in ("active", "retiring"))

    def _changed(self, worker_id: int, worker: _Kept, what: str, detail: str = "") -> None:
        change = WorkerChange(
            epoch_s=time.time(), worker_id=worker_id, kind=worker.kind, what=what, detail=detail
        )
        self._chronicle.changed(change)

    def _see_whether_started(self) -> None:
        """Say that the first workers are there: one is in use, and none of those asked for before it is loading."""
        if self._started is None or self._started.done() or not self._in_use:
            return
        first = [worker for worker_id, worker in self._workers.items() if worker_id in self._first]
        if all(worker.state != "loading" for worker in first):
            self._started.set_result(None)

    def _give_up_start(self, problem: str) -> None:
        if (
            self._failed_starts >= FAILED_STARTS
            and self._started is not None
            and not self._started.done()
            and all(worker.state == "loading" for worker in self._workers.values())
        ):
            self._started.set_exception(WorkerError(f"a worker cannot start: {problem}"))
