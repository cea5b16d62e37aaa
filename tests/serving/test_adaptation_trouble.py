"""The adapter itself behind its driver, with a solver that fails: the last plan stays, and the history says why."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from tests.tiny import TINY

from poise.adapting.adapter import Adapter
from poise.adapting.decision import Decision
from poise.adapting.events import ClassCounts, Observed
from poise.adapting.policy import AllocationPolicy, Situation, Solve
from poise.domain.adapter_settings import AdapterSettings
from poise.domain.allocation import Allocation, Workers
from poise.files import open_service
from poise.files.history import HistoryReader
from poise.forecasting.last_max import LastMax
from poise.scheduling.events import Event as SchedulerEvent
from poise.serving import adaptation as driver
from poise.serving import solving
from poise.serving.adaptation import Adaptation
from poise.serving.chronicle import FileChronicle

KIND = Workers(variants=("late",), count=1)
GOOD = Allocation(workers=(KIND,), status="optimal")


class Told(AllocationPolicy):
    """Calls one solver after the other."""

    name: ClassVar[str] = "told"

    def __init__(self, *solvers: Solve) -> None:
        self._solvers = list(solvers)

    def ask(self, situation: Situation) -> Solve:
        return self._solvers.pop(0) if self._solvers else lambda: GOOD


class Watched(FileChronicle):
    """Says when so many decisions were kept."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self.enough = asyncio.Event()
        self._left = count

    def decided(self, decision: Decision) -> None:
        super().decided(decision)
        self._left -= 1
        if self._left == 0:
            self.enough.set()


class OneCell:
    """Loads and ends at once what it is asked to."""

    def __init__(self) -> None:
        self.keeper: Adaptation | None = None
        self.active: set[int] = set()
        self.load_rps = 4.0

    def load_worker(
        self, worker_id: int, kind: Workers, cores: tuple[int, ...], *, at_idle: bool = False
    ) -> None:
        assert self.keeper is not None
        asyncio.get_running_loop().call_soon(self.keeper.loaded, worker_id, kind, 0.0)

    def activate_worker(self, worker_id: int, kind: Workers, cores: tuple[int, ...]) -> None:
        self.active.add(worker_id)

    def retire_worker(self, worker_id: int) -> None:
        assert self.keeper is not None
        self.active.discard(worker_id)
        self.keeper.released(worker_id)

    def end_worker(self, worker_id: int) -> None:
        assert self.keeper is not None
        self.keeper.gone(worker_id, "", loaded=True)

    def tell(self, event: SchedulerEvent) -> None:
        pass

    def observed(self, epoch_s: float) -> Observed:
        return Observed(
            time.monotonic(), 1.0, (ClassCounts("interactive", jobs=4, items=4, met=4),), epoch_s=epoch_s
        )


@pytest.fixture
def decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list, set[int], Adaptation]]:
    """Runs an adapter through so many decisions; returns them, the workers in use, and the driver."""
    monkeypatch.setattr(solving, "GRACE_S", 0.01)
    monkeypatch.setattr(driver, "BEAT_S", 0.01)
    monkeypatch.setattr(driver, "LEAST_BEAT_S", 0.0)

    def run(*solvers: Solve, time_limit_s: float = 60.0) -> tuple[list, set[int], Adaptation]:
        settings = AdapterSettings(policy="told", interval_s=0.001, time_limit_s=time_limit_s)
        adapter = Adapter(
            {"": open_service(TINY).service},
            settings,
            Told(*solvers),
            {"": LastMax()},
            cores=2,
            memory_bytes=10**9,
            memory_of=lambda kind: 1,
        )
        path = tmp_path / "some.sqlite"
        chronicle, cell = Watched(path, len(solvers) + 1), OneCell()

        async def whole() -> Adaptation:
            adaptation = Adaptation(adapter, {"": cell}, (0, 1), chronicle, (KIND,))
            cell.keeper = adaptation
            await adaptation.start()
            await chronicle.enough.wait()
            adaptation.stop()
            return adaptation

        adaptation = asyncio.run(whole())
        chronicle.close()
        with contextlib.closing(HistoryReader(path)) as reader:
            return [each.decision for each in reader.decisions(100)], cell.active, adaptation

    return run


def test_a_solver_that_raises(decided, caplog):
    def singular() -> Allocation:
        raise ArithmeticError("singular matrix")

    decisions, active, adaptation = decided(lambda: GOOD, singular, lambda: None)
    assert [decision.outcome for decision in decisions[1:3]] == ["failed", "failed"]
    assert decisions[1].trouble == "the solver raised ArithmeticError: singular matrix"
    assert decisions[2].trouble == "the solver found no allocation"
    assert decisions[1].allocation is None
    assert decisions[1].running.workers == (KIND,)
    assert len(active) == 1
    assert adaptation.metrics._solver_failures == 2
    assert "no new allocation: the solver raised ArithmeticError: singular matrix" in caplog.text


def test_a_solver_that_does_not_come_back(decided):
    over = threading.Event()

    def endless() -> Allocation:
        over.wait(60)
        return Allocation(workers=())

    try:
        decisions, active, adaptation = decided(lambda: GOOD, endless, time_limit_s=2.0)
    finally:
        over.set()
    assert decisions[1].outcome == "failed"
    assert decisions[1].trouble == "the solver took longer than 2 s"
    assert decisions[2].outcome == "kept"
    assert len(active) == 1
    assert adaptation.metrics._solver_failures == 1
