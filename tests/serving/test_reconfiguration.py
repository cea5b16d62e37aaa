"""Real workers that come and go under load: no job is lost, whatever dies meanwhile."""

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import psutil
import pytest
from msgspec import structs
from tests.servers import DATATYPES, copy_tiny, json_request

from poise.adapting.adapter import Adapter
from poise.adapting.commands import (
    ActivateWorker,
    Command,
    LoadWorker,
    ParkWorker,
    StopWorker,
)
from poise.adapting.events import (
    Event,
    Observed,
    WorkerLoaded,
    WorkerLost,
    WorkerNotLoaded,
    WorkerParked,
    WorkerStopped,
)
from poise.adapting.policy import AllocationPolicy, Situation, Solve, merged
from poise.domain.adapter_settings import AdapterSettings
from poise.domain.allocation import Allocation, Workers
from poise.files import open_service
from poise.forecasting.last_max import LastMax
from poise.ingress.gate import Answered, PendingJob, Refused, settled_outcome
from poise.protocol.codec import decode_infer
from poise.runtimes.cores import usable_cores
from poise.serving import adaptation
from poise.serving.adaptation import Adaptation
from poise.serving.cell import Cell
from poise.serving.chronicle import NoChronicle
from poise.serving.process import WorkerProcess

LATE = Workers(variants=("late",), count=1)
WHOLE = Workers(variants=("whole",), count=1)
BOTH = Workers(variants=("late", "whole"), count=1)


class Scripted:
    """An adapter that hears, and says what the test tells it to, by way of the next beat or event."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Event] = asyncio.Queue()
        self.beats: list[Observed] = []

    def start(self, now_s: float, epoch_s: float, initial: tuple[Workers, ...] = ()) -> list[Command]:
        return []

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, Observed):
            self.beats.append(event)
        else:
            self.heard.put_nowait(event)
        return []


class Live:
    """A cell with real workers, whose adapter is the test."""

    def __init__(self, service: Path, request: bytes) -> None:
        folder = open_service(service)
        self.adapter = Scripted()
        self.cell = Cell(folder, folder.load_profile(), arena_bytes=1 << 20)
        self.driver = Adaptation(self.adapter, {"": self.cell}, usable_cores(), NoChronicle())
        self.cell.keeper = self.driver
        self.cell.started = True
        self._request = request
        self._next_id = 0

    def do(self, *commands: Command) -> None:
        """Carry commands out, as if the adapter had asked for them."""
        self.driver._carry_out_all(lambda: commands)

    async def hear(self, kind: type[Event], worker_id: int) -> Event:
        """Wait for what the adapter hears next, which is to be this."""
        event = await self.adapter.heard.get()
        assert isinstance(event, kind), event
        assert not isinstance(event, Observed)
        assert getattr(event, "worker_id") == worker_id  # noqa: B009
        return event

    async def load(self, kind: Workers, *slots: int) -> int:
        """Load a worker and wait for it."""
        self._next_id += 1
        self.do(LoadWorker(self._next_id, kind, slots))
        await self.hear(WorkerLoaded, self._next_id)
        return self._next_id

    async def active(self, kind: Workers, *slots: int) -> int:
        """Load a worker and put it into use."""
        worker_id = await self.load(kind, *slots)
        self.do(ActivateWorker(worker_id, kind, slots))
        return worker_id

    def process(self, worker_id: int) -> psutil.Process:
        member = self.cell._pool._members[worker_id]
        assert isinstance(member.worker, WorkerProcess)
        return psutil.Process(member.worker.pid)

    def ask(self) -> PendingJob:
        pending = self.cell.admit(decode_infer(self._request, None, self.cell.wire))
        assert isinstance(pending, PendingJob), pending
        return pending


@pytest.fixture
def live(tmp_path, arrays):
    """Runs a coroutine function with a live cell; at the end nothing may be left of its jobs."""

    def run(test: Callable[[Live], Awaitable[None]], spoil: Callable[[Path], None] = lambda service: None):
        service = copy_tiny(tmp_path / "tiny")
        spoil(service)
        request = msgspec.json.encode(json_request(arrays, tuple(DATATYPES), 2))

        async def whole() -> None:
            running = Live(service, request)
            try:
                await test(running)
            finally:
                await running.cell.stop()
            assert running.cell.rows.used == 0
            assert running.driver.metrics.faults == 0

        asyncio.run(whole())

    return run


def test_a_worker_loads_at_idle_priority_and_answers_at_normal_priority(live):
    async def test(running: Live) -> None:
        first = await running.active(BOTH, 0)
        assert isinstance(await settled_outcome(running.ask()), Answered)
        second = running.process(first)
        assert os.sched_getscheduler(second.pid) == os.SCHED_OTHER
        cores = usable_cores()
        threads = [thread.id for thread in second.threads()]
        assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset(cores[-1:])}
        assert all(os.sched_getscheduler(thread) == os.SCHED_OTHER for thread in threads)
        running.do(LoadWorker(9, LATE, (0,)))
        loading = running.process(9)
        await seen_at_idle_priority(loading)
        await running.hear(WorkerLoaded, 9)

    live(test)


async def all_answered(jobs: list[PendingJob]) -> bool:
    outcomes = await asyncio.gather(*(settled_outcome(job) for job in jobs))
    return all(isinstance(outcome, Answered) for outcome in outcomes)


async def seen_at_idle_priority(process: psutil.Process) -> None:
    """Look until a thread of a process is at idle priority; the process must not be done before."""
    while True:
        for thread in process.threads():
            try:
                if os.sched_getscheduler(thread.id) == os.SCHED_IDLE:
                    return
            except ProcessLookupError:
                continue
        await asyncio.sleep(0)  # no event tells of another process's priority


def test_a_worker_on_standby_uses_no_core_and_comes_back_at_once(live):
    async def test(running: Live) -> None:
        one = await running.active(BOTH, 0)
        two = await running.active(BOTH, 1)
        running.do(ParkWorker(two))
        await running.hear(WorkerParked, two)
        assert running.driver.states()["standby"] == 1
        jobs = [running.ask() for _ in range(20)]
        assert await all_answered(jobs)
        before_s = sum(running.process(two).cpu_times()[:2])
        running.do(ActivateWorker(two, BOTH, (1,)), ParkWorker(one))
        await running.hear(WorkerParked, one)
        assert isinstance(await settled_outcome(running.ask()), Answered)
        assert sum(running.process(two).cpu_times()[:2]) >= before_s

    live(test)


def test_a_worker_killed_while_loading(live):
    async def test(running: Live) -> None:
        await running.active(LATE, 0)
        running.do(LoadWorker(9, WHOLE, (1,)))
        running.process(9).kill()
        heard = await running.hear(WorkerNotLoaded, 9)
        assert isinstance(heard, WorkerNotLoaded)
        assert "signal SIGKILL" in heard.reason
        assert isinstance(await settled_outcome(running.ask()), Answered)

    live(test)


def test_a_worker_killed_on_standby(live):
    async def test(running: Live) -> None:
        await running.active(LATE, 0)
        other = await running.load(WHOLE, 1)
        running.process(other).kill()
        await running.hear(WorkerLost, other)
        running.do(ActivateWorker(other, WHOLE, (1,)))  # the adapter had not heard yet
        assert isinstance(await settled_outcome(running.ask()), Answered)

    live(test)


def test_a_worker_killed_with_a_batch_gives_it_to_the_others(live):
    async def test(running: Live) -> None:
        one = await running.active(LATE, 0)
        victim = running.process(one)
        victim.suspend()
        jobs = [running.ask() for _ in range(5)]
        assert len(running.cell._batches) == 1
        two = await running.load(WHOLE, 1)
        victim.kill()
        await running.hear(WorkerLost, one)
        assert not any(job.outcome is not None for job in jobs)
        running.do(ActivateWorker(two, WHOLE, (1,)))
        assert await all_answered(jobs)

    live(test)


def test_a_worker_that_is_to_stop_answers_its_batch_first(live):
    async def test(running: Live) -> None:
        one = await running.active(LATE, 0)
        slow = running.process(one)
        slow.suspend()
        job = running.ask()
        running.do(StopWorker(one))
        assert slow.is_running()
        slow.resume()
        assert isinstance(await settled_outcome(job), Answered)
        await running.hear(WorkerStopped, one)
        assert not slow.is_running() or slow.status() == psutil.STATUS_ZOMBIE

    live(test)


def test_a_worker_that_dies_while_it_is_to_park_is_lost(live):
    async def test(running: Live) -> None:
        one = await running.active(LATE, 0)
        two = await running.active(LATE, 1)
        running.process(one).suspend()
        running.process(two).suspend()
        jobs = [running.ask() for _ in range(2)]
        running.do(ParkWorker(one))
        running.process(one).kill()
        await running.hear(WorkerLost, one)
        running.process(two).resume()
        assert await all_answered(jobs)

    live(test)


def test_a_variant_whose_file_vanished_is_not_loaded_and_the_others_answer(live):
    async def test(running: Live) -> None:
        await running.active(LATE, 0)
        running.do(LoadWorker(9, WHOLE, (1,)))
        heard = await running.hear(WorkerNotLoaded, 9)
        assert isinstance(heard, WorkerNotLoaded)
        assert "whole/all.onnx" in heard.reason
        assert isinstance(await settled_outcome(running.ask()), Answered)

    live(test, lambda service: (service / "whole/all.onnx").unlink())


def test_threads_that_the_profile_lacks_are_refused(live):
    async def test(running: Live) -> None:
        wide = Workers(variants=("late",), count=1, threads=7)
        running.do(LoadWorker(9, wide, (0,)))
        heard = await running.hear(WorkerNotLoaded, 9)
        assert isinstance(heard, WorkerNotLoaded)
        assert "7 threads" in heard.reason

    live(test)


@pytest.mark.slow
def test_no_job_is_lost_in_twenty_reconfigurations_at_full_budget(live):
    """Both cores are always spoken for; each worker is replaced ten times: by one that loads beside it on its core, or
    by one that was left on standby."""

    async def test(running: Live) -> None:
        answered: list[bool] = []
        progress = asyncio.Event()
        over = False

        async def load() -> None:
            rng = np.random.default_rng(1)
            while not over:
                jobs = [running.ask() for _ in range(int(rng.integers(1, 6)))]
                for job in jobs:
                    answered.append(isinstance(await settled_outcome(job), Answered))
                    progress.set()

        slots = {0: await running.active(LATE, 0), 1: await running.active(WHOLE, 1)}
        clients = [asyncio.create_task(load()) for _ in range(4)]
        standby: list[int] = []
        kinds = {slots[0]: LATE, slots[1]: WHOLE}
        for turn in range(20):
            slot = turn % 2
            old = slots[slot]
            if turn % 3 == 2 and standby:
                new = standby.pop()
            else:
                kind = (BOTH, WHOLE, LATE)[turn % 3]
                new = await running.load(kind, slot)
                kinds[new] = kind
            before = len(answered)
            if turn % 4 == 0:
                running.do(StopWorker(old))
                await running.hear(WorkerStopped, old)
            else:
                running.do(ParkWorker(old))
                await running.hear(WorkerParked, old)
                standby.append(old)
            running.do(ActivateWorker(new, kinds[new], (slot,)))
            slots[slot] = new
            while len(answered) < before + 20:
                progress.clear()
                await progress.wait()
        over = True
        await asyncio.gather(*clients)
        assert all(answered)
        assert len(answered) > 400
        refused = {name: count for name, count in running.cell.metrics.refused.items() if count}
        assert refused == {}

    live(test)


KINDS = ((LATE, LATE), (LATE, WHOLE), (BOTH, BOTH), (WHOLE, BOTH), (WHOLE, WHOLE))
SHORT, SHORTER = (structs.replace(BOTH, batch_cap_s=cap_s) for cap_s in (0.05, 0.02))
CAPS = ((BOTH, BOTH), (SHORT, SHORT), (SHORTER, SHORTER), (SHORT, SHORTER))


class Restless(AllocationPolicy):
    """Wants other workers each time, always on both cores."""

    name: ClassVar[str] = "restless"
    keeps_standby: ClassVar[bool] = True

    def __init__(self, *wanted: tuple[Workers, Workers]) -> None:
        self._turns = itertools.cycle(Allocation(workers=merged(list(workers))) for workers in wanted)

    def ask(self, situation: Situation) -> Solve:
        found = next(self._turns)
        return lambda: found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory_bytes", "wanted"),
    [(10**12, KINDS), (120_000_000, KINDS), (10**12, CAPS)],
    ids=["room", "no room for both", "caps only"],
)
def test_no_job_is_lost_in_twenty_plans_of_the_adapter(tmp_path, arrays, monkeypatch, memory_bytes, wanted):
    """The adapter itself, on both cores: with the memory to load a worker beside those that answer, without it, and
    where all workers only come back with other caps on their batches."""
    monkeypatch.setattr(adaptation, "BEAT_S", 0.2)
    monkeypatch.setattr(adaptation, "LEAST_BEAT_S", 0.05)
    folder = open_service(copy_tiny(tmp_path / "tiny"))
    adapter = Adapter(
        {"": folder.service},
        AdapterSettings(policy="restless", interval_s=0.2),
        Restless(*wanted),
        {"": LastMax()},
        cores=2,
        memory_bytes=memory_bytes,
        memory_of=lambda kind: 40_000_000,
    )
    request = msgspec.json.encode(json_request(arrays, tuple(DATATYPES), 2))

    async def whole() -> None:
        cell = Cell(folder, folder.load_profile(), arena_bytes=1 << 20)
        driver = Adaptation(adapter, {"": cell}, usable_cores(), NoChronicle(), (LATE, LATE))
        cell.keeper = driver
        await cell.start()
        outcomes: list[Answered | Refused] = []
        before = driver.metrics._decisions["interval", "adopted"]  # while the first workers loaded

        async def load() -> None:
            while driver.metrics._decisions["interval", "adopted"] < before + 20 or len(outcomes) <= 400:
                jobs = [cell.admit(decode_infer(request, None, cell.wire)) for _ in range(3)]
                outcomes.extend(
                    [job if isinstance(job, Refused) else await settled_outcome(job) for job in jobs]
                )
                await asyncio.sleep(0)

        try:
            await asyncio.gather(*(load() for _ in range(3)))
        finally:
            await cell.stop()
        assert [outcome for outcome in outcomes if isinstance(outcome, Refused)] == []
        assert len(outcomes) > 400
        assert driver.metrics.faults == 0
        assert adapter.failures == 0

    asyncio.run(whole())
