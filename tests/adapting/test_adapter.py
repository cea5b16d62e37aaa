"""The adapter: observe, decide, solve, reconcile; what fails, what is overtaken, what comes too soon."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import msgspec
import numpy as np
import pytest

from poise.adapting.adapter import Adapter
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
    Observed,
    WorkerLoaded,
    WorkerLost,
    WorkerNotLoaded,
    WorkerParked,
    WorkerStopped,
)
from poise.adapting.policies import Served, make_adapter
from poise.adapting.policy import AllocationPolicy, Situation, Solve
from poise.domain.allocation import Allocation, Workers
from poise.domain.profile import Profile
from poise.errors import ConfigError
from poise.forecasting.base import Forecast, RateHistory

from .conftest import service_of, workers


class Scripted(AllocationPolicy):
    """Gives ``large`` as many workers as the load has tens; what it was asked is kept."""

    name = "scripted"

    def __init__(self, *, standby: bool = False, early: bool = False, stabilises: bool = True) -> None:
        self.situations: list[Situation] = []
        self.answer: Callable[[Situation], Allocation | None] = by_tens
        type(self).keeps_standby = standby
        type(self).replans_early = early
        type(self).stabilises = stabilises

    def ask(self, situation: Situation) -> Solve:
        self.situations.append(situation)
        return lambda: self.answer(situation)


def by_tens(situation: Situation) -> Allocation:
    count = max(1, round(situation.jobs_rps / 10))
    return Allocation(workers=(workers("large", count),), shares={"default": {"large": 1.0}})


class Last:
    """Forecasts the last rate that was seen, without any doubt."""

    name = "last"

    def forecast(self, history: RateHistory, horizon_s: float) -> Forecast:
        known = history.rates[~np.isnan(history.rates)]
        rate = float(known[-1]) if len(known) else 0.0
        return Forecast(horizon_s, (0.1, 0.5, 0.9), (rate, rate, rate), self.name)


class World:
    """Carries commands out at once, but for loads and stops, which end when the test says so."""

    def __init__(self, policy: Scripted, **adapter: object) -> None:
        settings = {"interval_s": 10.0, "headroom": 1.0, "stabilise": 3, **adapter}
        service = service_of(**settings)
        self.policy = policy
        self.adapter = Adapter(
            {"": service},
            service.adapter,
            policy,
            {"": Last()},
            cores=8,
            memory_bytes=1000,
            memory_of=lambda kind: 1,
        )
        self.now_s = 0.0
        self.loading: dict[int, Workers] = {}
        self.leaving: list[tuple[str, int]] = []
        self.active: dict[int, Workers] = {}
        self.decisions: list[Decision] = []
        self.shares: list[dict[str, dict[str, float]]] = []
        self.unsolved: list[SolveAllocation] = []
        self.solves = True

    def carry(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SolveAllocation):
                self.unsolved.append(command)
                if self.solves:
                    self.solve()
            elif isinstance(command, LoadWorker):
                self.loading[command.worker_id] = command.kind
            elif isinstance(command, ActivateWorker):
                self.active[command.worker_id] = command.kind
            elif isinstance(command, ParkWorker):
                del self.active[command.worker_id]
                self.leaving.append(("park", command.worker_id))
            elif isinstance(command, StopWorker):
                self.active.pop(command.worker_id, None)
                self.loading.pop(command.worker_id, None)
                self.leaving.append(("stop", command.worker_id))
            elif isinstance(command, AdoptShares):
                self.shares.append(command.shares)
            elif isinstance(command, RecordDecision):
                self.decisions.append(command.decision)

    def solve(self) -> None:
        command = self.unsolved.pop(0)
        self.carry(self.adapter.handle(AllocationSolved(self.now_s, command.solve_id, command.solve(), 0.01)))

    def load(self) -> None:
        """Let every load come to its end."""
        while self.loading:
            worker_id, kind = self.loading.popitem()
            self.carry(self.adapter.handle(WorkerLoaded(self.now_s, worker_id, kind, 1.0)))

    def leave(self) -> None:
        """Let every worker go that was told to."""
        while self.leaving:
            what, worker_id = self.leaving.pop(0)
            happening = WorkerParked if what == "park" else WorkerStopped
            self.carry(self.adapter.handle(happening(self.now_s, worker_id)))

    def settle(self) -> None:
        while self.loading or self.leaving:
            self.load()
            self.leave()

    def beat(self, rps: float, seconds: int = 1, *, missed: int = 0, busy: float = 1.0) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            counts = ClassCounts("default", round(rps), round(rps), met=round(rps), missed=missed)
            busy_s = busy * len(self.active)
            beat = Observed(self.now_s, 1.0, (counts,), busy_s=busy_s, epoch_s=1000 + self.now_s)
            self.carry(self.adapter.handle(beat))

    def start(self) -> None:
        self.carry(self.adapter.start(0.0, 1000.0, (workers("large", 2),)))
        self.settle()


def test_it_begins_with_what_it_is_told_and_decides_at_the_first_beat() -> None:
    world = World(Scripted())
    world.start()
    assert sorted(w.variants for w in world.active.values()) == [("large",), ("large",)]
    world.beat(40)
    assert [d.reason for d in world.decisions] == ["start"]
    assert world.decisions[0].outcome == "adopted"
    assert world.decisions[0].loads == 2
    assert world.shares == [{"default": {"large": 1.0}}]
    world.settle()
    assert len(world.active) == 4


def test_without_a_beginning_the_first_decision_is_made_at_once() -> None:
    world = World(Scripted())
    world.carry(world.adapter.start(0.0, 1000.0))
    world.settle()
    assert len(world.active) == 1
    assert [d.reason for d in world.decisions] == ["start"]


def test_it_decides_by_the_clock() -> None:
    world = World(Scripted())
    world.start()
    world.beat(20, 31)
    assert [(d.at_s, d.reason, d.outcome) for d in world.decisions] == [
        (1.0, "start", "kept"),
        (11.0, "interval", "kept"),
        (21.0, "interval", "kept"),
        (31.0, "interval", "kept"),
    ]


def test_headroom_is_put_on_the_middle_of_the_forecast() -> None:
    world = World(Scripted(), headroom=1.5)
    world.start()
    world.beat(20)
    assert world.policy.situations[0].jobs_rps == pytest.approx(30.0)


def test_a_smaller_allocation_waits_until_it_was_asked_for_in_a_row() -> None:
    world = World(Scripted())
    world.start()
    world.beat(50, 1)
    world.settle()
    for rps in (20, 20, 50, 20, 20):
        world.beat(rps, 10)
        world.settle()
    assert [d.outcome for d in world.decisions] == ["adopted", "held", "held", "kept", "held", "held"]
    assert len(world.active) == 5
    world.beat(20, 10)
    world.settle()
    assert world.decisions[-1].outcome == "adopted"
    assert len(world.active) == 2


def test_a_solver_that_fails_changes_nothing() -> None:
    world = World(Scripted())
    world.start()
    world.policy.answer = lambda situation: None
    world.beat(60, 11)
    assert [d.outcome for d in world.decisions] == ["failed", "failed"]
    assert "no allocation" in world.decisions[0].trouble
    assert world.adapter.failures == 2
    assert len(world.active) == 2
    assert not world.loading


def test_an_answer_that_never_comes_is_given_up() -> None:
    world = World(Scripted(), time_limit_s=1.0)
    world.start()
    world.solves = False
    world.beat(60, 8)
    assert world.decisions == []
    world.beat(60, 1)
    assert [d.outcome for d in world.decisions] == ["failed"]
    assert "no answer" in world.decisions[0].trouble
    late = world.unsolved.pop(0)
    world.carry(
        world.adapter.handle(
            AllocationSolved(world.now_s, late.solve_id, by_tens(world.policy.situations[0]))
        )
    )
    assert len(world.decisions) == 1
    assert not world.loading


def test_a_load_above_its_band_is_not_waited_for() -> None:
    world = World(Scripted(early=True), headroom=1.1)
    world.start()
    world.beat(20, 3)
    world.beat(60, 1)
    assert [d.reason for d in world.decisions] == ["start", "band"]
    world.settle()
    assert len(world.active) == 7
    world.beat(61, 9)  # within the band of 66
    assert len(world.decisions) == 2
    world.beat(70, 1)
    assert [d.reason for d in world.decisions] == ["start", "band", "interval"]
    world.beat(78, 1)  # above the 77 planned for, not far: one beat is not enough, two are
    assert len(world.decisions) == 3
    world.beat(78, 1)
    assert [d.reason for d in world.decisions] == ["start", "band", "interval", "band"]


def test_a_policy_by_the_clock_does_wait() -> None:
    world = World(Scripted())
    world.start()
    world.beat(20, 3)
    world.beat(60, 5)
    assert [d.reason for d in world.decisions] == ["start"]


def test_attainment_that_falls_is_a_reason() -> None:
    world = World(Scripted(early=True))
    world.start()
    world.beat(20, 4)
    world.beat(20, 1, missed=10)
    assert [d.reason for d in world.decisions] == ["start", "attainment"]


def test_a_worker_that_dies_is_replaced_and_the_plan_made_anew() -> None:
    world = World(Scripted())
    world.start()
    world.beat(20, 3)
    worker_id = next(iter(world.active))
    del world.active[worker_id]
    world.carry(world.adapter.handle(WorkerLost(world.now_s, worker_id)))
    assert not world.loading  # not at once: it may die again
    world.beat(20, 1)
    world.settle()
    assert [d.reason for d in world.decisions] == ["start", "worker"]
    assert len(world.active) == 2


def test_a_worker_that_does_not_load_is_tried_again_later_and_planned_without() -> None:
    world = World(Scripted())
    world.start()
    world.beat(30)
    tried = [world.now_s]
    for _ in range(60):
        while world.loading:
            worker_id, _ = world.loading.popitem()
            world.carry(world.adapter.handle(WorkerNotLoaded(world.now_s, worker_id, "its file is gone")))
        world.beat(30)
        if world.loading:
            tried.append(world.now_s)
    gaps = np.diff(tried)
    assert list(gaps) == sorted(gaps)
    assert gaps[0] <= 2.0
    assert gaps[-1] >= 16.0
    assert len(tried) < 8
    assert len(world.active) == 2  # those that are there go on
    excluded = [s.excluded for s in world.policy.situations]
    assert frozenset({workers("large", 1)}) in excluded
    assert excluded[0] == frozenset()


def test_standby_workers_come_back_for_nothing() -> None:
    world = World(Scripted(standby=True, stabilises=False))
    world.start()
    world.beat(80, 1)
    world.settle()
    world.beat(10, 10)
    world.settle()
    assert len(world.active) == 1
    world.beat(80, 10)
    assert world.decisions[-1].loads == 0
    assert len(world.active) == 8


@pytest.mark.parametrize("rps", [0.0, nan, inf, 1e9])
def test_loads_that_cannot_be_are_survived(rps: float) -> None:
    world = World(Scripted())
    world.start()
    world.policy.answer = lambda situation: Allocation(workers=(workers("large", 1),))
    world.beat(20, 2)
    world.now_s += 1.0
    counts = ClassCounts("default", 10**9 if rps > 1e6 else 0, 0)
    world.carry(world.adapter.handle(Observed(world.now_s, 1.0, (counts,), busy_s=rps, epoch_s=1003.0)))
    world.beat(20, 12)
    world.settle()
    assert all(np.isfinite(s.jobs_rps) and s.jobs_rps > 0 for s in world.policy.situations)
    assert len(world.active) >= 1


def test_what_is_not_known_is_ignored() -> None:
    world = World(Scripted())
    world.start()
    handle = world.adapter.handle
    assert handle(AllocationSolved(1.0, 99, by_tens_of(10))) == []
    assert handle(WorkerParked(1.0, 77)) == []
    assert handle(WorkerStopped(1.0, 77)) == []
    assert handle(WorkerNotLoaded(1.0, 77, "who?")) == []
    assert handle(WorkerLost(1.0, 77)) == []
    assert handle(Observed(1.0, 1.0, (), service="another")) == []


def by_tens_of(rps: float) -> Allocation:
    return Allocation(workers=(workers("large", round(rps / 10)),))


def test_what_a_policy_with_standby_begins_with_is_loaded_to_the_end_and_made_up_for() -> None:
    world = World(Scripted(standby=True, stabilises=False))
    world.carry(world.adapter.start(0.0, 1000.0, (workers("large", 6),)))
    world.beat(10, 2)  # one worker is enough, and none has loaded yet
    assert len(world.loading) == 6
    world.settle()
    assert len(world.active) == 1
    standby = next(w.worker_id for w in world.adapter.books.in_state("standby"))
    world.carry(world.adapter.handle(WorkerLost(world.now_s, standby)))
    world.beat(10, 2)
    assert len(world.loading) == 1
    world.settle()
    assert len(world.adapter.books.by_id) == 6
    assert len(world.active) == 1


def test_a_profile_that_is_too_good_is_made_up_for_and_forgiven() -> None:
    """Jobs are missed although no more arrive than was planned for: plans are made for more, and for less again."""
    world = World(Scripted(early=True, stabilises=False))
    world.start()
    world.beat(20, 3)
    planned = [s.jobs_rps for s in world.policy.situations]
    assert planned == [20.0]
    world.beat(20, 9, missed=10)
    grown = [s.jobs_rps for s in world.policy.situations[1:]]
    assert grown[0] == pytest.approx(25.0)
    assert grown == sorted(grown)
    assert grown[-1] <= 4 * 20.0
    world.beat(20, 600)
    assert world.policy.situations[-1].jobs_rps == pytest.approx(20.0, rel=0.06)


def test_missed_jobs_of_a_load_above_the_plan_are_no_strain() -> None:
    world = World(Scripted(early=True, stabilises=False))
    world.start()
    world.beat(20, 3)
    world.beat(60, 1, missed=100)
    assert world.policy.situations[-1].jobs_rps == pytest.approx(60.0)


def test_a_load_at_the_edge_of_its_band_causes_no_thrash() -> None:
    """Single beats above the plan of 22 are not enough; and after a decision there is quiet, whatever comes."""
    world = World(Scripted(early=True), headroom=1.1, interval_s=1000.0)
    world.start()
    for rps in [20, *[24, 20] * 30]:
        world.beat(rps)
    assert [d.reason for d in world.decisions] == ["start"]
    world.policy.answer = lambda situation: Allocation(workers=(workers("large", 3),))
    at_s = world.now_s
    for step in range(30):
        world.beat(100.0 * 1.5**step)  # always far above what was planned for
    early = [d for d in world.decisions if d.reason == "band" and d.at_s > at_s]
    assert 2 <= len(early) <= 15  # not at every beat: two seconds of quiet after each
    assert sum(d.loads + d.activates + d.parks + d.stops for d in early) <= 4


def test_workers_that_load_and_die_at_once_are_not_loaded_without_end() -> None:
    world = World(Scripted())
    world.start()
    loads = 0
    for _ in range(120):
        world.beat(20)
        while world.loading:
            loads += 1
            worker_id, kind = world.loading.popitem()
            world.carry(world.adapter.handle(WorkerLoaded(world.now_s, worker_id, kind, 1.0)))
        while world.active:
            worker_id, _ = world.active.popitem()
            world.carry(world.adapter.handle(WorkerLost(world.now_s, worker_id)))
    assert loads <= 16  # seven rounds of pauses that double, two workers each, and not a hundred
    world.beat(20, 120)
    world.settle()
    assert len(world.active) == 2
    world.beat(20, 90)  # it lives: what it did before is forgotten
    worker_id, _ = world.active.popitem()
    world.carry(world.adapter.handle(WorkerLost(world.now_s, worker_id)))
    world.beat(20, 2)
    assert len(world.loading) == 1


def test_what_is_missed_while_workers_are_idle_is_no_strain() -> None:
    world = World(Scripted(early=True, stabilises=False))
    world.start()
    world.beat(20, 3, busy=0.2)
    world.beat(20, 12, missed=10, busy=0.2)
    assert {round(s.jobs_rps) for s in world.policy.situations} == {20}


def test_workers_lost_together_count_as_one_setback() -> None:
    """A host of many dies: all of them are loaded again after the first pause."""
    world = World(Scripted())
    world.carry(world.adapter.start(0.0, 1000.0, (workers("large", 8),)))
    world.settle()
    world.beat(80, 3)
    for worker_id in list(world.active):
        del world.active[worker_id]
        world.carry(world.adapter.handle(WorkerLost(world.now_s, worker_id)))
    world.beat(80, 2)
    world.settle()
    assert len(world.active) == 8


def test_a_plan_for_an_emergency_is_not_held_for_steadiness() -> None:
    """What is planned does not load; a smaller plan without it is adopted at once."""
    world = World(Scripted())
    world.start()
    world.policy.answer = lambda s: Allocation(
        workers=(workers("small", 2),) if s.excluded else (workers("large", 6),)
    )
    world.beat(60, 1)
    for _ in range(12):
        while world.loading:
            worker_id, kind = world.loading.popitem()
            happening = (
                WorkerLoaded(world.now_s, worker_id, kind, 1.0)
                if kind.variants == ("small",)
                else WorkerNotLoaded(world.now_s, worker_id, "its file is gone")
            )
            world.carry(world.adapter.handle(happening))
        world.beat(60, 1)
    assert any(kind.variants == ("small",) for kind in world.active.values())


@pytest.mark.parametrize("memory", [500, 999])
def test_a_memory_that_holds_no_variant_is_refused(profile: Profile, memory: int) -> None:
    service = service_of(policy="poise")
    service = msgspec.structs.replace(service, budget=msgspec.structs.replace(service.budget, memory=memory))
    with pytest.raises(ConfigError, match=r"budget\.memory.*smallest variant"):
        make_adapter([Served(service, profile)], "poise", {"": Last()})
