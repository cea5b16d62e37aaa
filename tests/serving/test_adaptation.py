"""The adapter's driver: its commands carried out on a stand-in of a cell, and events told to a scripted adapter."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest

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
from poise.adapting.decision import Decision
from poise.adapting.events import (
    AllocationSolved,
    ClassCounts,
    Event,
    Observed,
    WorkerLoaded,
    WorkerLost,
    WorkerNotLoaded,
    WorkerParked,
    WorkerStopped,
)
from poise.domain.allocation import Allocation, Workers
from poise.errors import ConfigError, WorkerError
from poise.files.history import WorkerChange
from poise.scheduling.events import AllocationAdopted
from poise.scheduling.events import Event as SchedulerEvent
from poise.serving import solving
from poise.serving.adaptation import FAILED_STARTS, Adaptation

KIND = Workers(variants=("small",), count=1)
WIDE = Workers(variants=("small", "large"), count=1, threads=2)
NOTHING = Decision(
    number=1,
    at_s=0.0,
    epoch_s=0.0,
    policy="poise",
    reason="interval",
    outcome="kept",
    forecast=None,
    observed_rps={},
    planned_rps={"interactive": 3.0},
    allocation=None,
    running=Allocation(workers=()),
    solve_s=0.0,
)


class Scripted:
    """An adapter that answers each event as it was told to, and keeps what it heard."""

    def __init__(self, start: Sequence[Command] = (), **answers: Sequence[Command] | Exception) -> None:
        self._start = list(start)
        self._answers = answers
        self.heard: asyncio.Queue[Event] = asyncio.Queue()
        self.initial: tuple[Workers, ...] = ()

    def start(self, now_s: float, epoch_s: float, initial: tuple[Workers, ...] = ()) -> list[Command]:
        self.initial = initial
        return self._start

    def answer(self, kind: type[Event], commands: Sequence[Command]) -> None:
        self._answers[kind.__name__] = commands

    def handle(self, event: Event) -> list[Command]:
        if not isinstance(event, Observed):
            self.heard.put_nowait(event)
        answer = self._answers.pop(type(event).__name__, [])
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


class FakeCell:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []
        self.told: list[SchedulerEvent] = []
        self.refuses: Exception | None = None
        self.beats = 0

    def load_worker(
        self, worker_id: int, kind: Workers, cores: tuple[int, ...], *, at_idle: bool = False
    ) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.asked.append(("load", worker_id, cores, at_idle))

    def activate_worker(self, worker_id: int, kind: Workers, cores: tuple[int, ...]) -> None:
        self.asked.append(("activate", worker_id, cores))

    def retire_worker(self, worker_id: int) -> None:
        self.asked.append(("retire", worker_id))

    def end_worker(self, worker_id: int) -> None:
        self.asked.append(("end", worker_id))

    def tell(self, event: SchedulerEvent) -> None:
        self.told.append(event)

    def observed(self, epoch_s: float) -> Observed:
        self.beats += 1
        return Observed(time.monotonic(), 1.0, (ClassCounts("interactive", jobs=self.beats),))


class Notes:
    """Keeps what a history would."""

    def __init__(self) -> None:
        self.beats: list[Observed] = []
        self.decisions: list[Decision] = []
        self.changes: list[tuple[int, str]] = []

    def observed(self, beat: Observed) -> None:
        self.beats.append(beat)

    def decided(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def changed(self, change: WorkerChange) -> None:
        self.changes.append((change.worker_id, change.what))


def driven(adapter: Scripted, test: Callable, cores: Sequence[int] = (4, 5, 6)) -> None:
    """Run a test coroutine with (adaptation, cell, notes), the adapter's start already carried out."""

    async def whole() -> None:
        cell, notes = FakeCell(), Notes()
        adaptation = Adaptation(adapter, {"": cell}, cores, notes, (KIND,))
        starting = asyncio.create_task(adaptation.start())
        await asyncio.sleep(0)
        try:
            await test(adaptation, cell, notes)
        finally:
            adaptation.stop()
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    asyncio.run(whole())


def test_a_worker_loads_beside_others_then_takes_over():
    adapter = Scripted(
        [LoadWorker(1, KIND, (0,))],
        WorkerLoaded=[ActivateWorker(1, KIND, (0,))],
    )

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        assert adapter.initial == (KIND,)
        assert cell.asked == [("load", 1, (6,), True)]
        assert adaptation.states() == {"starting": 1, "standby": 0}
        adaptation.loaded(1, KIND, 0.5)
        heard = await adapter.heard.get()
        assert isinstance(heard, WorkerLoaded)
        assert (heard.worker_id, heard.kind, heard.load_s) == (1, KIND, 0.5)
        await asyncio.sleep(0)
        assert cell.asked[1:] == [("activate", 1, (6,))]
        assert notes.changes == [(1, "loading"), (1, "loaded"), (1, "active")]

    driven(adapter, test)


@pytest.mark.parametrize(
    ("slots", "cores"), [((0,), (6,)), ((2,), (4,)), ((0, 1), (5, 6)), ((3,), (6,)), ((), (4, 5, 6))]
)
def test_slots_are_cores_from_the_last_down_and_shared_where_there_are_too_few(slots, cores):
    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        assert cell.asked == [("load", 1, cores, True)]

    driven(Scripted([LoadWorker(1, KIND, slots)]), test)


def active_worker() -> list[Command]:
    return [ActivateWorker(1, KIND, (0,))]


async def activated(adaptation: Adaptation, adapter: Scripted) -> None:
    adaptation.loaded(1, KIND, 0.1)
    assert isinstance(await adapter.heard.get(), WorkerLoaded)
    await asyncio.sleep(0)


def test_a_parked_worker_is_released_first_and_may_come_back():
    adapter = Scripted([LoadWorker(1, KIND, (0,))], WorkerLoaded=[*active_worker(), ParkWorker(1)])

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        await activated(adaptation, adapter)
        assert cell.asked[-1] == ("retire", 1)
        assert adapter.heard.empty()
        adaptation.released(1)
        assert isinstance(await adapter.heard.get(), WorkerParked)
        assert adaptation.states()["standby"] == 1
        assert ("end", 1) not in cell.asked

    driven(adapter, test)


def test_a_stopped_worker_ends_only_once_it_has_no_batch():
    adapter = Scripted([LoadWorker(1, KIND, (0,))], WorkerLoaded=[*active_worker(), StopWorker(1)])

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        await activated(adaptation, adapter)
        assert cell.asked[-1] == ("retire", 1)
        adaptation.released(1)
        assert cell.asked[-1] == ("end", 1)
        assert adapter.heard.empty()
        adaptation.gone(1, "", loaded=True)
        assert isinstance(await adapter.heard.get(), WorkerStopped)

    driven(adapter, test)


def test_a_worker_that_was_to_park_may_be_told_to_stop():
    commands: list[Command] = [*active_worker(), ParkWorker(1), StopWorker(1)]
    adapter = Scripted([LoadWorker(1, KIND, (0,))], WorkerLoaded=commands)

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        await activated(adaptation, adapter)
        adaptation.released(1)
        assert cell.asked[-1] == ("end", 1)

    driven(adapter, test)


def test_a_loading_worker_is_stopped_at_once():
    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        assert cell.asked[-1] == ("end", 1)
        adaptation.loaded(1, KIND, 0.1)  # it had just loaded
        adaptation.gone(1, "", loaded=True)
        assert isinstance(await adapter.heard.get(), WorkerStopped)
        assert adapter.heard.empty()

    adapter = Scripted([LoadWorker(1, KIND, (0,)), StopWorker(1)])
    driven(adapter, test)


def test_a_worker_that_cannot_be_loaded_and_one_that_is_lost():
    adapter = Scripted([LoadWorker(1, KIND, (0,)), LoadWorker(2, KIND, (1,))], WorkerLoaded=active_worker())

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        adaptation.gone(2, "no such file", loaded=False)
        heard = await adapter.heard.get()
        assert isinstance(heard, WorkerNotLoaded)
        assert (heard.worker_id, heard.reason) == (2, "no such file")
        await activated(adaptation, adapter)
        adaptation.gone(1, "its process ended with signal SIGKILL", loaded=True)
        assert isinstance(await adapter.heard.get(), WorkerLost)
        assert adaptation.states() == {"starting": 0, "standby": 0}
        assert notes.changes[-1] == (1, "lost")

    driven(adapter, test)


def test_a_kind_that_the_cell_refuses_is_not_loaded():
    adapter = Scripted(WorkerStopped=[LoadWorker(1, WIDE, (0, 1))])

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        cell.refuses = ConfigError("no latency with 2 threads")
        adaptation._happened(WorkerStopped(0.0, 9))
        assert isinstance(await adapter.heard.get(), WorkerStopped)
        heard = await adapter.heard.get()
        assert isinstance(heard, WorkerNotLoaded)
        assert "2 threads" in heard.reason

    driven(adapter, test)


def test_commands_for_workers_that_are_gone_do_nothing():
    commands: list[Command] = [ActivateWorker(7, KIND, (0,)), ParkWorker(7), StopWorker(7)]

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        assert cell.asked == []
        assert adaptation.metrics.faults == 0

    driven(Scripted(commands), test)


def test_shares_and_decisions_go_where_they_belong():
    commands: list[Command] = [
        AdoptShares({"interactive": {"small": 0.25, "large": 0.75}}),
        RecordDecision(NOTHING),
    ]

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        (adopted,) = cell.told
        assert isinstance(adopted, AllocationAdopted)
        assert adopted.shares == {"interactive": {"small": 0.25, "large": 0.75}}
        assert notes.decisions == [NOTHING]
        found = {metric.name: metric.samples for metric in adaptation.metrics.collect()}
        assert found["poise_decisions"][0].labels == {"reason": "interval", "outcome": "kept"}
        assert found["poise_planned_rps"][0].value == 3.0

    driven(Scripted(commands), test)


def test_an_adapter_that_raises_leaves_the_workers_alone():
    adapter = Scripted([LoadWorker(1, KIND, (0,))], WorkerLoaded=ValueError("a bug"))

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        adaptation.loaded(1, KIND, 0.1)
        await adapter.heard.get()
        adaptation._happened(WorkerParked(0.0, 9))
        assert isinstance(await adapter.heard.get(), WorkerParked)  # it goes on hearing
        assert adaptation.metrics.faults == 1
        assert cell.asked == [("load", 1, (6,), True)]

    driven(adapter, test)


def test_start_waits_for_workers_that_answer():
    adapter = Scripted(
        [LoadWorker(1, KIND, (0,)), LoadWorker(2, KIND, (1,))],
        WorkerLoaded=active_worker(),
    )

    async def whole() -> None:
        adaptation = Adaptation(adapter, {"": FakeCell()}, (0,), Notes())
        starting = asyncio.create_task(adaptation.start())
        await asyncio.sleep(0)
        await activated(adaptation, adapter)
        assert not starting.done()  # the other one is still loading
        adaptation.loaded(2, KIND, 0.1)
        await starting
        adaptation.stop()

    asyncio.run(whole())


def test_a_server_none_of_whose_workers_loads_gives_up():
    loads = [LoadWorker(number, KIND, (0,)) for number in range(FAILED_STARTS)]

    async def whole() -> None:
        adaptation = Adaptation(Scripted(loads), {"": FakeCell()}, (0,), Notes())
        starting = asyncio.create_task(adaptation.start())
        await asyncio.sleep(0)
        for number in range(FAILED_STARTS):
            assert not starting.done()
            adaptation.gone(number, "no memory", loaded=False)
        with pytest.raises(WorkerError, match="a worker cannot start: no memory"):
            await starting
        adaptation.stop()

    asyncio.run(whole())


def two_in_use(*commands: Command) -> Scripted:
    loads = [LoadWorker(number, KIND, (number,)) for number in (1, 2)]
    activates = [ActivateWorker(number, KIND, (number,)) for number in (1, 2)]
    return Scripted(loads, WorkerStopped=activates, WorkerNotLoaded=commands)


async def told(adaptation: Adaptation, adapter: Scripted) -> None:
    """Both workers are loaded and in use, and the commands have been carried out."""
    for number in (1, 2):
        adaptation.loaded(number, KIND, 0.0)
        await adapter.heard.get()
    adaptation._happened(WorkerStopped(0.0, 9))
    await adapter.heard.get()
    adaptation._happened(WorkerNotLoaded(0.0, 9, ""))
    await adapter.heard.get()
    await asyncio.sleep(0)


def test_of_workers_that_all_come_back_the_last_waits_until_another_answers():
    adapter = two_in_use(ParkWorker(1), ParkWorker(2))

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        await told(adaptation, adapter)
        assert cell.asked[-1] == ("retire", 1)
        adapter.answer(WorkerParked, [ActivateWorker(1, KIND, (1,))])
        adaptation.released(1)
        assert isinstance(await adapter.heard.get(), WorkerParked)
        assert cell.asked[-2:] == [("activate", 1, (5,)), ("retire", 2)]

    driven(adapter, test)


def test_the_last_worker_goes_where_none_comes_back():
    adapter = two_in_use(ParkWorker(1), StopWorker(2))

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        await told(adaptation, adapter)
        assert cell.asked[-1] == ("retire", 1)
        adaptation.released(1)
        assert isinstance(await adapter.heard.get(), WorkerParked)
        assert cell.asked[-1] == ("retire", 2)
        adaptation.released(2)
        assert cell.asked[-1] == ("end", 2)

    driven(adapter, test)


def test_a_worker_that_dies_while_it_waits_for_the_others_is_lost():
    adapter = two_in_use(ParkWorker(1), ParkWorker(2))

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        await told(adaptation, adapter)
        adaptation.gone(2, "signal SIGKILL", loaded=True)
        assert isinstance(await adapter.heard.get(), WorkerLost)
        adaptation.released(1)
        assert isinstance(await adapter.heard.get(), WorkerParked)
        assert adaptation.metrics.faults == 0

    driven(adapter, test)


# The solver


def solved(
    solve: Callable[[], Allocation | None], time_limit_s: float = 60.0
) -> tuple[AllocationSolved, Adaptation]:
    """What the adapter hears of a call of the solver."""
    adapter = Scripted([SolveAllocation(5, solve, time_limit_s)])
    found: list[tuple[AllocationSolved, Adaptation]] = []

    async def test(adaptation: Adaptation, cell: FakeCell, notes: Notes) -> None:
        heard = await adapter.heard.get()
        assert isinstance(heard, AllocationSolved)
        assert heard.solve_id == 5
        found.append((heard, adaptation))

    driven(adapter, test)
    return found[0]


def failures(adaptation: Adaptation) -> float:
    return next(
        metric.samples[0].value
        for metric in adaptation.metrics.collect()
        if metric.name == "poise_solver_failures"
    )


def test_the_solver_runs_beside_the_event_loop():
    here = threading.get_ident()
    threads = []

    def solve() -> Allocation:
        threads.append(threading.get_ident())
        return Allocation(workers=(KIND,))

    heard, adaptation = solved(solve)
    assert heard.allocation == Allocation(workers=(KIND,))
    assert heard.trouble == ""
    assert threads != [here]
    assert failures(adaptation) == 0


def test_a_solver_that_raises_or_finds_nothing_is_told_as_trouble():
    def broken() -> Allocation:
        raise RuntimeError("singular")

    heard, adaptation = solved(broken)
    assert (heard.allocation, heard.trouble) == (None, "the solver raised RuntimeError: singular")
    assert failures(adaptation) == 1
    heard, adaptation = solved(lambda: None)
    assert (heard.allocation, heard.trouble) == (None, "the solver found no allocation")
    assert failures(adaptation) == 1


def test_a_solver_that_does_not_come_back_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(solving, "GRACE_S", 0.01)
    over = threading.Event()

    def endless() -> Allocation:
        over.wait(60)
        return Allocation(workers=(KIND,))

    try:
        heard, adaptation = solved(endless, 0.01)
    finally:
        over.set()
    assert heard.allocation is None
    assert heard.trouble == "the solver took longer than 0.01 s"
    assert failures(adaptation) == 1


def test_calls_that_stay_out_are_not_added_to_for_ever(monkeypatch):
    monkeypatch.setattr(solving, "GRACE_S", 0.01)
    over = threading.Event()
    calls = []

    def endless() -> None:
        calls.append(1)
        over.wait(60)

    async def whole() -> None:
        answers: asyncio.Queue[AllocationSolved] = asyncio.Queue()
        runner = solving.Solving(answers.put_nowait)
        for number in range(solving.MAX_ASTRAY):
            runner.begin(number, endless, 0.01)
            assert "longer than" in (await answers.get()).trouble
        runner.begin(9, endless, 0.01)
        assert "have not come back" in (await answers.get()).trouble
        over.set()
        for thread in threading.enumerate():
            if thread.name.startswith("solver-"):
                await asyncio.to_thread(thread.join)
        assert len(calls) == solving.MAX_ASTRAY
        await asyncio.sleep(0)  # what they called back with is heard
        assert runner._astray == 0
        runner.begin(10, lambda: Allocation(workers=(KIND,)), 60.0)
        assert (await answers.get()).allocation is not None
        assert answers.empty()  # the late ones were not told a second time

    asyncio.run(whole())
