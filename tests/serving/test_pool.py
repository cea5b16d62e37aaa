"""Workers that do not load, each given up after a limit; and those that busy cores leave no time to."""

import asyncio
import contextlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.runtimes.lengths import LENGTHS
from tests.tiny import TINY

from poise.domain.allocation import Workers
from poise.domain.profile import Profile
from poise.files import ServiceFolder, open_service
from poise.runtimes.cores import usable_cores
from poise.serving import pool as pools
from poise.serving import process as processes
from poise.serving.arena import Arena, plan_layout
from poise.serving.messages import Done, Failed
from poise.serving.pool import WorkerPool, load_limit_s
from poise.serving.process import Worker, WorkerProcess
from poise.serving.worker import may_leave_idle_priority

SOON_S = 60.0
CORE = usable_cores()[:1]
Said = Callable[[], Awaitable[tuple[int, str, bool]]]
BLOCKS = """

_load = load


def load(folder, threads, device):
    loaded = folder / "loaded"
    if loaded.exists():
        import threading

        threading.Event().wait()
    loaded.touch()
    return _load(folder, threads, device)
"""


class Heard:
    """Takes up what a pool says."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[tuple[int, str, bool]] = asyncio.Queue()

    def worker_loaded(self, worker: Worker, kind: Workers, load_s: float) -> None:
        self.said.put_nowait((worker.worker_id, "", True))

    def batch_done(self, worker: Worker, done: Done) -> None:
        raise AssertionError(done)

    def batch_failed(self, worker: Worker, failed: Failed) -> None:
        raise AssertionError(failed)

    def worker_gone(self, worker_id: int, problem: str, *, loaded: bool) -> None:
        self.said.put_nowait((worker_id, problem, loaded))


def with_pool(
    folder: ServiceFolder, profile: Profile, test: Callable[[WorkerPool, Said], Awaitable[None]]
) -> None:
    async def whole() -> None:
        arena = Arena.create(plan_layout(folder.service, 100_000))
        heard = Heard()
        pool = WorkerPool(folder, profile, arena, heard)
        try:
            await test(pool, lambda: asyncio.wait_for(heard.said.get(), SOON_S))
        finally:
            await pool.stop(at_once=True)
            arena.close()

    asyncio.run(whole())


def test_the_limit_is_a_minute_and_twenty_times_what_loading_took() -> None:
    profile = open_service(TINY / "service.yaml").load_profile()
    first, second = (variant.name for variant in profile.variants[:2])
    together_s = profile.variant(first).load_time_s + profile.variant(second).load_time_s
    assert load_limit_s(Workers(variants=(first, second), count=1), profile) == pytest.approx(
        60.0 + 20.0 * together_s
    )


def test_a_factory_that_blocks_is_given_up_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "lengths"
    shutil.copytree(LENGTHS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "python.yaml").replace(copy / "service.yaml")
    with (copy / "mine.py").open("a") as file:
        file.write(BLOCKS)
    folder = open_service(copy)

    async def test(pool: WorkerPool, said: Said) -> None:
        kind = Workers(variants=("late",), count=1)
        pool.load(1, kind, CORE)
        assert await said() == (1, "", True)
        monkeypatch.setattr(pools, "LOAD_LIMIT_S", 1.0)
        monkeypatch.setattr(pools, "LOAD_LIMIT_TIMES", 0.0)
        pool.load(2, kind, CORE)
        worker_id, problem, loaded = await said()
        assert (worker_id, loaded) == (2, False)
        assert problem.startswith("it had not loaded late after 1 s")
        assert pool.settle(1, CORE) is not None  # the other one lives

    with_pool(folder, folder.load_profile(), test)
    assert "worker 2: it had not loaded late after 1 s" in caplog.text


def test_an_emulated_worker_that_loads_too_long_is_given_up_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "LOAD_LIMIT_S", 0.05)
    monkeypatch.setattr(pools, "LOAD_LIMIT_TIMES", 0.0)
    folder = open_service(TINY / "emulated.yaml")
    name = next(iter(folder.service.variants))

    async def test(pool: WorkerPool, said: Said) -> None:
        pool.load(1, Workers(variants=(name,), count=1), ())
        worker_id, problem, loaded = await said()
        assert (worker_id, loaded) == (1, False)
        assert "it had not loaded" in problem

    with_pool(folder, folder.load_profile(), test)


@pytest.fixture
def busy_core() -> Iterator[None]:
    """Nothing at idle priority has any time on the core."""
    spin = f"import os; os.sched_setaffinity(0, {CORE!r}); print(flush=True)\nwhile True: pass"
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def starved(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """Load a worker at idle priority; return the process that it was, and the one that loaded."""
    monkeypatch.setattr(pools, "IDLE_LIMIT_S", 0.5)
    monkeypatch.setattr(pools, "IDLE_LIMIT_TIMES", 0.0)
    caplog.set_level(logging.INFO)
    folder = open_service(TINY)
    kind = Workers(variants=(next(iter(folder.service.variants)),), count=1)
    pids: list[int] = []

    async def test(pool: WorkerPool, said: Said) -> None:
        def process() -> WorkerProcess:
            worker = pool._members[1].worker
            assert isinstance(worker, WorkerProcess)
            return worker

        pool.load(1, kind, CORE, at_idle=True)
        first = process()
        assert await said() == (1, "", True)
        last = process()
        assert pool.settle(1, CORE) is last
        pids.extend((first.pid, last.pid))
        assert first is last or not psutil.pid_exists(first.pid)  # two would need the memory twice
        assert pool.loading == 0
        last.kill()
        assert (await said())[::2] == (1, True)

    with_pool(folder, folder.load_profile(), test)
    return pids[0], pids[1]


def test_a_worker_that_busy_cores_leave_no_time_goes_on_at_normal_priority(
    busy_core: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = starved(monkeypatch, caplog)
    assert "worker 1 had not loaded after 0.5 s at idle priority" in caplog.text
    anew = "it is started again, at normal priority" in caplog.text
    assert anew or "it goes on at normal priority" in caplog.text
    assert (first != last) == anew == (not may_leave_idle_priority())


def test_one_that_may_not_come_back_from_idle_priority_is_started_again(
    busy_core: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(processes, "_leave_idle_priority", refuse)
    first, last = starved(monkeypatch, caplog)
    assert first != last
    assert "it is started again, at normal priority" in caplog.text
