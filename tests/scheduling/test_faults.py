"""Events that should not come: times that are none, clocks that jump, forecasts of nonsense, empty frontiers."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from poise.domain.job import Job, RefusalReason
from poise.errors import ConfigError, InternalError
from poise.scheduling.commands import Answer, Refuse
from poise.scheduling.events import BatchDone, JobArrived, RateForecast, Woke, WorkerLost, WorkerReady
from poise.scheduling.policies import POLICIES

TWO = {
    "normal": {"latency_slo_ms": 100, "accuracy_floor": 0.6},
    "unused": {"latency_slo_ms": 400, "accuracy_floor": 0.6},
}
NO_ADMISSION = {name for name, policy in POLICIES.items() if not policy.admits}

every_policy = pytest.mark.parametrize("policy", POLICIES)


def run_out(server: Any, now_s: float) -> float:
    """Let every batch end when it is expected to, until nothing runs; return the time."""
    while server.running:
        batch_id = min(server.running)
        now_s += server.running[batch_id].expected_s
        server.finish(batch_id, now_s)
    return now_s


def outcomes(server: Any) -> list[str]:
    """Return what became of each job, in the order in which they left."""
    return [
        "answered" if isinstance(found, Answer) else found.reason.value for found in server.outcomes.values()
    ]


@every_policy
@pytest.mark.parametrize("items_per_s", [0.0, 1e-308, 1e6])
@pytest.mark.parametrize("after_jobs", [False, True])
def test_any_rate_may_be_forecast_and_a_class_without_arrivals_changes_nothing(
    hand, policy: str, items_per_s: float, after_jobs: bool
) -> None:
    server = hand(policy, classes=TWO)
    now_s = 0.0
    if after_jobs:
        server.arrive(1, now_s)
        now_s = run_out(server, now_s)
    server.handle(RateForecast(now_s, items_per_s, 1.0))
    for job_id in range(10, 16):
        server.arrive(job_id, now_s)
    run_out(server, now_s)
    assert outcomes(server) == ["answered"] * (6 + after_jobs)


@pytest.mark.parametrize("items_per_s", [math.nan, math.inf, -5.0])
def test_a_forecast_that_is_no_rate_is_an_internal_error(hand, items_per_s: float) -> None:
    server = hand(classes=TWO)
    with pytest.raises(InternalError, match="forecast"):
        server.handle(RateForecast(0.0, items_per_s, 1.0))
    server.arrive(1, 0.0)
    run_out(server, 0.0)
    assert outcomes(server) == ["answered"]


@pytest.mark.parametrize("now_s", [math.nan, math.inf, -math.inf])
def test_an_event_at_no_time_is_an_internal_error_and_changes_nothing(hand, now_s: float) -> None:
    server = hand()
    with pytest.raises(InternalError, match="no time"):
        server.handle(Woke(now_s))
    server.arrive(1, 0.0)
    run_out(server, 0.0)
    assert outcomes(server) == ["answered"]


@every_policy
def test_a_clock_that_goes_back_stands_still_until_it_has_caught_up(hand, policy: str) -> None:
    """Deadlines set by the earlier clock are over for the scheduler: those jobs are refused, and later ones are not."""
    server = hand(policy)
    server.handle(Woke(1000.0))
    server.arrive(1, 5.0)
    run_out(server, 5.0)
    server.handle(Woke(1000.0))
    server.arrive(2, 1000.5)
    run_out(server, 1000.5)
    assert isinstance(server.outcomes[2], Answer)
    late = server.outcomes[1]
    assert isinstance(late, Answer) and late.late if policy in NO_ADMISSION else isinstance(late, Refuse)


@every_policy
def test_a_clock_that_jumps_ahead_costs_what_waits_and_nothing_else(hand, policy: str) -> None:
    server = hand(policy)
    for job_id in range(1, 30):
        server.arrive(job_id, 0.0)
    flying = {part.job_id for batch in server.running.values() for part in batch.parts}
    server.handle(Woke(1e9))
    run_out(server, 1e9)
    server.arrive(100, 1e9 + 1)
    run_out(server, 1e9 + 1)
    assert set(server.outcomes) == {*range(1, 30), 100}
    assert isinstance(server.outcomes[100], Answer)
    for job_id in range(1, 30):
        found = server.outcomes[job_id]
        if job_id in flying or policy in NO_ADMISSION:
            assert isinstance(found, Answer) and found.late
        else:
            assert isinstance(found, Refuse)


def job_of(**fields: Any) -> Job:
    whole = {
        "id": 7, "slo_class": "normal", "items": 1, "arrival_s": 0.0, "deadline_s": 0.1, "accuracy_floor": 0.6,
        "available": 3,
    }  # fmt: skip
    return msgspec.convert({**whole, **fields}, Job)


@every_policy
@pytest.mark.parametrize(
    "fields",
    [
        {"accuracy_floor": 7.0},
        {"accuracy_floor": -3.0},
        {"available": 0},
        {"available": 4},
        {"priority": -3},
        {"priority": 10**9},
        {"items": 10_000},
        {"deadline_s": -1e9},
        {"deadline_s": 1e300},
    ],
    ids=str,
)
def test_an_odd_job_has_its_own_outcome_and_costs_nobody_theirs(
    hand, policy: str, fields: dict[str, Any]
) -> None:
    server = hand(policy)
    server.arrive(1, 0.0)
    server.handle(JobArrived(0.0, job_of(**fields)))
    server.arrive(2, 0.0)
    run_out(server, 0.0)
    assert set(server.outcomes) == {1, 2, 7}
    assert isinstance(server.outcomes[1], Answer)
    assert isinstance(server.outcomes[2], Answer)
    if fields in ({"accuracy_floor": 7.0}, {"available": 0}, {"available": 4}):
        refused = server.outcomes[7]
        assert isinstance(refused, Refuse)
        assert refused.reason is RefusalReason.FLOOR_UNREACHABLE


@pytest.mark.parametrize(
    "fields",
    [
        {"deadline_s": math.nan},
        {"deadline_s": math.inf},
        {"accuracy_floor": math.nan},
        {"items": 0},
        {"items": -1},
        {"slo_class": "nobody"},
        {"arrival_s": math.nan},
    ],
    ids=str,
)
def test_a_job_that_cannot_be_is_an_internal_error_with_its_story(hand, fields: dict[str, Any]) -> None:
    server = hand("fifo")
    server.arrive(1, 0.0)
    server.arrive(2, 0.0)
    with pytest.raises(InternalError, match="job 7") as caught:
        server.handle(JobArrived(0.0, job_of(**fields)))
    assert "Job(" in str(caught.value)
    run_out(server, 0.0)
    assert outcomes(server) == ["answered"] * 2


@every_policy
@pytest.mark.parametrize(
    ("run_s", "stage_s"),
    [
        (math.nan, ()),
        (math.inf, ()),
        (-1.0, ()),
        (0.0, ()),
        (0.02, (("dear", math.nan),)),
        (0.02, (("dear", math.inf),)),
        (1.0, (("dear", -0.5), ("cheap", 1.0))),
        (0.02, (("nobody", 0.01),)),
        (0.0, (("dear", 0.0), ("cheap", 0.0))),
    ],
    ids=str,
)
def test_measured_times_that_cannot_be_stop_nothing(
    hand, policy: str, run_s: float, stage_s: tuple[tuple[str, float], ...]
) -> None:
    server = hand(policy)
    for job_id in range(1, 31):
        now_s = 0.2 * job_id
        server.arrive(job_id, now_s)
        for batch_id in list(server.running):
            batch = server.running.pop(batch_id)
            server.handle(BatchDone(now_s + batch.expected_s, batch_id, batch.worker_id, run_s, stage_s))
    assert outcomes(server) == ["answered"] * 30
    calibration = server.scheduler.workers[0].calibration
    assert 1 / 8 <= calibration.factor <= 8
    assert 0 <= calibration.overhead_s < 0.1


@pytest.mark.parametrize("time_s", [math.nan, math.inf, -0.001])
def test_a_profile_with_a_time_that_is_none_is_not_read(make_profile, time_s: float) -> None:
    with pytest.raises(ConfigError, match="mean_s"):
        make_profile(time_s, 0.001)


@every_policy
def test_batches_that_take_no_time_at_all_are_served(hand, make_profile, policy: str) -> None:
    server = hand(policy, profile=make_profile(0.0, 0.0))
    for job_id in range(1, 40):
        server.arrive(job_id, 0.0, items=1 + job_id % 3)
    run_out(server, 0.0)
    assert outcomes(server) == ["answered"] * 39


@every_policy
def test_a_worker_without_a_plan_for_a_job_does_not_keep_it_waiting(hand, make_profile, policy: str) -> None:
    """A floor above all that the worker's modes reach: refused at once, on any worker that comes later too."""
    server = hand(policy, workers=0, profile=make_profile())
    server.arrive(1, 0.0)
    server.handle(WorkerReady(0.0, 1, ("one",)))
    server.arrive(2, 0.0, floor=0.97)
    server.arrive(3, 0.0)
    run_out(server, 0.0)
    assert [type(server.outcomes[job_id]) for job_id in (1, 2, 3)] == [Refuse, Refuse, Answer]


@every_policy
def test_work_that_no_worker_ever_finishes_leaves_no_job_without_an_outcome(hand, policy: str) -> None:
    """A worker that hangs is declared lost, and so is each that follows."""
    server = hand(policy, workers=2)
    for job_id in range(1, 13):
        server.arrive(job_id, 0.0)
    worker_id, now_s = 10, 0.01
    while server.scheduler.jobs:
        for lost in list(server.scheduler.workers):
            server.handle(WorkerLost(now_s, lost))
        server.running.clear()
        now_s += 0.001
        worker_id += 1
        assert worker_id < 100, "jobs are given to workers for ever"
        server.handle(WorkerReady(now_s, worker_id, ("one",)))
    assert set(server.outcomes) == set(range(1, 13))
    assert all(isinstance(found, Refuse) for found in server.outcomes.values())
