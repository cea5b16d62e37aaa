"""Workers that do not load: a real process and an emulated worker, each given up after a limit."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.runtimes.lengths import LENGTHS
from tests.servers import TINY

from poise.domain.allocation import Workers
from poise.domain.profile import Profile
from poise.files import ServiceFolder, open_service
from poise.runtimes.cores import usable_cores
from poise.serving import pool as pools
from poise.serving.arena import Arena, plan_layout
from poise.serving.messages import Done, Failed
from poise.serving.pool import WorkerPool, load_limit_s
from poise.serving.process import Worker

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
