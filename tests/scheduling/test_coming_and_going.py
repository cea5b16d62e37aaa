"""Workers that retire, come back and are lost; jobs that only they could answer; caps on their batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from poise.domain.job import RefusalReason
from poise.domain.profile import Profile
from poise.errors import InternalError
from poise.scheduling.commands import Answer, Command, Refuse, ReleaseWorker, RunBatch, WakeAt
from poise.scheduling.events import BatchFailed, JobCancelled, Woke, WorkerLost, WorkerReady, WorkerRetiring
from poise.scheduling.limits import Limits
from poise.scheduling.policies import POLICIES

OPEN = [name for name, policy in POLICIES.items() if not policy.admits]


def batches(commands: list[Command]) -> list[RunBatch]:
    return [command for command in commands if isinstance(command, RunBatch)]


def refusals(commands: list[Command]) -> list[tuple[int, RefusalReason]]:
    return [(command.job_id, command.reason) for command in commands if isinstance(command, Refuse)]


@pytest.fixture
def weak_and_good(hand, make_profile) -> Callable[..., Any]:
    """A hand over variant ``weak``, of half the accuracy, and ``good``; scope ``job``; no worker yet."""

    def build(policy: str = "poise") -> Any:
        plain = msgspec.to_builtins(make_profile(variants=("weak", "good")))
        for mode in plain["variants"][0]["modes"]:
            mode["accuracy"] /= 2
        return hand(
            policy=policy,
            profile=msgspec.convert(plain, Profile),
            workers=0,
            guarantee={"scope": "job"},
            variants={"weak": {"runtime": "emulated"}, "good": {"runtime": "emulated"}},
        )

    return build


# Retiring


def test_an_idle_worker_is_released_at_once(hand) -> None:
    h = hand()
    assert h.handle(WorkerRetiring(0.0, 0)) == [ReleaseWorker(0)]
    assert h.scheduler.workers == {}


def test_a_busy_worker_is_released_after_the_answers_of_its_batch_and_given_nothing_more(hand) -> None:
    h = hand(workers=2)
    first, second = batches(h.arrive(1, 0.0) + h.arrive(2, 0.0))
    assert h.handle(WorkerRetiring(0.001, first.worker_id)) == []
    assert h.handle(WorkerRetiring(0.001, first.worker_id)) == []
    h.arrive(3, 0.002)
    done = h.finish(first.batch_id, 0.011)
    assert isinstance(done[0], Answer)
    assert done[1:] == [ReleaseWorker(first.worker_id)]
    assert [run.worker_id for run in batches(h.finish(second.batch_id, 0.012))] == [second.worker_id]
    assert h.handle(WorkerRetiring(0.013, first.worker_id)) == []  # it is gone already


def test_a_retiring_worker_whose_batch_fails_is_released_and_the_batch_goes_elsewhere(hand) -> None:
    h = hand(workers=2)
    (run,) = batches(h.arrive(1, 0.0))
    h.handle(WorkerRetiring(0.001, run.worker_id))
    commands = h.handle(BatchFailed(0.002, run.batch_id, run.worker_id, "no"))
    assert ReleaseWorker(run.worker_id) in commands
    assert [again.worker_id for again in batches(commands)] == [1 - run.worker_id]


def test_a_retiring_worker_that_is_lost_gives_its_batch_back_and_is_not_released(hand) -> None:
    h = hand(workers=2)
    (run,) = batches(h.arrive(1, 0.0))
    h.handle(WorkerRetiring(0.001, run.worker_id))
    commands = h.handle(WorkerLost(0.002, run.worker_id))
    assert [again.worker_id for again in batches(commands)] == [1 - run.worker_id]
    assert not any(isinstance(command, ReleaseWorker) for command in commands)


def test_what_cannot_be_is_our_fault(hand) -> None:
    h = hand()
    with pytest.raises(InternalError, match="unknown worker 7"):
        h.scheduler.handle(WorkerRetiring(0.0, 7))
    with pytest.raises(InternalError, match="twice"):
        h.scheduler.handle(WorkerReady(0.0, 0, ("one",)))
    with pytest.raises(InternalError, match="no time"):
        h.scheduler.handle(WorkerReady(0.0, 1, ("one",), batch_cap_s=0.0))
    h.handle(WorkerLost(0.0, 0))
    with pytest.raises(InternalError, match="unknown worker 0"):
        h.scheduler.handle(WorkerRetiring(0.0, 0))


def test_a_retiring_worker_counts_for_nothing_in_admission(hand) -> None:
    """Three more jobs of 11 ms within 40 ms, behind two that run: two workers hold them, one does not."""

    def refused(retiring: bool) -> list[tuple[int, RefusalReason]]:
        h = hand(workers=2, guarantee={"scope": "job"})
        for job in (1, 2):
            h.arrive(job, 0.0, floor=0.95)
        if retiring:
            h.handle(WorkerRetiring(0.0, 1))
        return [
            found for job in (3, 4, 5) for found in refusals(h.arrive(job, 0.0, floor=0.95, within_s=0.04))
        ]

    assert refused(retiring=False) == []
    assert refused(retiring=True) == [(5, RefusalReason.DEADLINE_UNREACHABLE)]


# Between one worker and the next


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("busy", [False, True])
def test_jobs_that_come_between_two_workers_wait_for_the_next(hand, policy, busy) -> None:
    h = hand(policy=policy)
    running = batches(h.arrive(1, 0.0)) if busy else []
    h.handle(WorkerRetiring(0.001, 0))
    assert not refusals(h.arrive(2, 0.002))
    assert h.scheduler.between_workers
    for run in running:
        assert not refusals(h.finish(run.batch_id, 0.011))
    assert not refusals(h.arrive(3, 0.012))
    now_s = 0.020
    commands = h.handle(WorkerReady(now_s, 1, ("one",)))
    assert not h.scheduler.between_workers
    while not refusals(commands) and h.running:
        now_s += 0.012
        commands = h.finish(min(h.running), now_s)
    assert not refusals(commands)
    assert {job for job, outcome in h.outcomes.items() if isinstance(outcome, Answer)} >= {2, 3}


@pytest.mark.parametrize("policy", POLICIES)
def test_jobs_for_which_no_next_worker_comes_are_refused_at_their_deadline(hand, policy) -> None:
    h = hand(policy=policy)
    h.handle(WorkerRetiring(0.0, 0))
    commands = h.arrive(1, 0.001) + h.arrive(2, 0.002)
    assert not refusals(commands)
    wakes = [command.at_s for command in commands if isinstance(command, WakeAt)]
    assert min(wakes) <= 0.101
    assert refusals(h.handle(Woke(0.1015))) == [(1, RefusalReason.NO_WORKER)]
    assert refusals(h.handle(Woke(0.1025))) == [(2, RefusalReason.NO_WORKER)]


def test_a_floor_is_judged_between_two_workers_by_the_one_that_went(hand) -> None:
    h = hand()
    h.handle(WorkerRetiring(0.0, 0))
    assert refusals(h.arrive(1, 0.001, floor=0.99)) == [(1, RefusalReason.FLOOR_UNREACHABLE)]
    assert not refusals(h.arrive(2, 0.001, within_s=1e-6))  # nobody says yet that it cannot be


def test_a_full_queue_is_full_between_two_workers_too(hand) -> None:
    h = hand(scheduler={"queue_jobs": 2})
    h.handle(WorkerRetiring(0.0, 0))
    found = [refusals(h.arrive(job, 0.001)) for job in (1, 2, 3)]
    assert found == [[], [], [(3, RefusalReason.QUEUE_FULL)]]


@pytest.mark.parametrize("how", ["lost", "retired and lost before it was released", "another lost after"])
def test_nobody_waits_for_a_worker_that_was_lost(hand, how) -> None:
    h = hand(workers=2 if how == "another lost after" else 1)
    if how != "lost":
        assert batches(h.arrive(1, 0.0))
        h.handle(WorkerRetiring(0.001, 0))
    for worker in list(h.scheduler.workers):
        h.handle(WorkerLost(0.002, worker))
    assert not h.scheduler.between_workers
    assert refusals(h.arrive(2, 0.003)) == [(2, RefusalReason.NO_WORKER)]


# Coming back


def slowed(h: Any, worker: int) -> float:
    """Let a worker take three times as long as profiled for a while; return its factor."""
    now_s = 0.0
    for job in range(1, 13):
        (run,) = batches(h.arrive(job, now_s))
        now_s += 0.2
        h.finish(run.batch_id, now_s, run_s=3 * 0.011)
    return h.scheduler.workers[worker].calibration.factor


def test_a_worker_that_is_back_has_what_it_measured(hand) -> None:
    h = hand()
    factor = slowed(h, 0)
    assert factor == pytest.approx(3.0)
    h.handle(WorkerRetiring(3.0, 0))
    h.handle(WorkerReady(3.1, 0, ("one",)))
    assert h.scheduler.workers[0].calibration.factor == factor


@pytest.mark.parametrize("how", ["lost", "lost while retired", "other threads"])
def test_a_worker_that_was_lost_or_is_another_kind_begins_anew(hand, make_profile, how) -> None:
    plain = msgspec.to_builtins(make_profile())
    for stage in plain["variants"][0]["stages"]:
        stage["latency"] = [{**point, "threads": k} for k in (1, 2) for point in stage["latency"]]
    h = hand(profile=msgspec.convert(plain, Profile))
    slowed(h, 0)
    if how != "lost":
        h.handle(WorkerRetiring(3.0, 0))
    if how.startswith("lost"):
        h.handle(WorkerLost(3.05, 0))
    h.handle(WorkerReady(3.1, 0, ("one",), threads=2 if how == "other threads" else 1))
    assert h.scheduler.workers[0].calibration.factor == 1.0


def test_a_worker_may_be_back_before_its_batch_is_done_and_is_not_released_then(hand) -> None:
    h = hand()
    (run,) = batches(h.arrive(1, 0.0))
    h.handle(WorkerRetiring(0.001, 0))
    h.handle(WorkerReady(0.002, 0, ("one",)))
    h.arrive(2, 0.003)
    commands = h.finish(run.batch_id, 0.011)
    assert not any(isinstance(command, ReleaseWorker) for command in commands)
    assert len(batches(commands)) == 1


def test_least_costs_are_worked_out_once_for_each_set_of_plans(hand) -> None:
    h = hand(workers=3)
    pool = h.scheduler._pool
    costs, kinds = pool.costs, pool.kinds
    for _ in range(3):
        h.handle(WorkerRetiring(0.0, 1))
        h.handle(WorkerReady(0.0, 1, ("one",)))
    assert pool.kinds == kinds
    for worker in range(3):
        h.handle(WorkerRetiring(0.0, worker))
    h.handle(WorkerReady(0.0, 0, ("one",)))
    assert pool.costs is costs


# Jobs that no live worker can answer


@pytest.mark.parametrize("gone", [WorkerRetiring, WorkerLost])
@pytest.mark.parametrize("policy", ["poise", "edf", "cheapest", "mosel", *OPEN])
def test_jobs_that_nobody_can_answer_wait_for_a_worker_and_are_refused_at_their_deadline(
    weak_and_good, policy, gone
) -> None:
    h = weak_and_good(policy)
    h.handle(WorkerReady(0.0, 0, ("weak",)))
    h.handle(WorkerReady(0.0, 1, ("good",)))
    (run,) = batches(h.arrive(1, 0.0))
    for job in (2, 3):
        assert not refusals(h.arrive(job, 0.001, within_s=0.1 * job))
    h.finish(run.batch_id, 0.002)  # jobs 2 and 3 run, in one batch or one after another
    running = {part.job_id for batch in h.running.values() for part in batch.parts}
    h.arrive(4, 0.003, within_s=0.3)
    h.arrive(5, 0.003, within_s=0.2)
    commands = h.handle(gone(0.004, 1))
    assert not refusals(commands)
    if gone is WorkerRetiring:
        (batch,) = h.running
        assert not refusals(h.finish(batch, 0.005))
    else:
        h.running.clear()
    waiting = [entry.job.id for entry in h.scheduler.stranded]
    assert set(waiting) == {2, 3, 4, 5} - (running if gone is WorkerRetiring else set())
    assert waiting == sorted(waiting, key=lambda job: h.scheduler.jobs[job].job.deadline_s)
    assert len(h.scheduler.queue) == 0
    assert batches(h.arrive(6, 0.006, floor=0.3))  # what the other one can answer is not held up
    wakes = [c for _, commands in h.log for c in commands if isinstance(c, WakeAt)]
    first_s = h.scheduler.stranded[0].job.deadline_s
    assert wakes[-1].at_s <= first_s
    died_with_it = gone is WorkerLost and waiting[0] in running
    reason = RefusalReason.WORKER_LOST if died_with_it else RefusalReason.NO_WORKER
    assert refusals(h.handle(Woke(first_s)))[0] == (waiting[0], reason)
    h.handle(WorkerReady(first_s + 0.0001, 2, ("good",)))
    assert not h.scheduler.stranded
    assert {part.job_id for batch in h.running.values() for part in batch.parts} & set(waiting[1:])


def test_a_client_may_leave_while_its_job_is_set_aside(weak_and_good) -> None:
    h = weak_and_good()
    h.handle(WorkerReady(0.0, 0, ("weak",)))
    h.handle(WorkerReady(0.0, 1, ("good",)))
    h.arrive(1, 0.0)
    h.arrive(2, 0.001)
    h.handle(WorkerRetiring(0.002, 1))
    assert [entry.job.id for entry in h.scheduler.stranded] == [2]
    assert refusals(h.handle(JobCancelled(0.003, 2))) == [(2, RefusalReason.CANCELLED)]
    assert not h.scheduler.stranded


def test_new_jobs_that_nobody_can_answer_are_refused_at_once(weak_and_good) -> None:
    h = weak_and_good()
    h.handle(WorkerReady(0.0, 0, ("weak",)))
    assert refusals(h.arrive(1, 0.0)) == [(1, RefusalReason.FLOOR_UNREACHABLE)]


# Caps on batches


@pytest.mark.parametrize("scope", ["job", "class"])
def test_no_batch_is_planned_beyond_a_workers_cap_but_a_single_item(hand, scope) -> None:
    def longest(cap_s: float | None) -> tuple[float, int]:
        h = hand(workers=0, guarantee={"scope": scope})
        h.handle(WorkerReady(0.0, 0, ("one",), batch_cap_s=cap_s))
        found = [(0.0, 0)]
        for job in range(1, 41):
            h.arrive(job, 0.0, within_s=1.0)
        now_s = 0.0
        while h.running:
            (batch,) = h.running.values()
            found.append((batch.expected_s, sum(part.items for part in batch.parts)))
            now_s += batch.expected_s
            h.finish(batch.batch_id, now_s)
        return max(found)

    assert longest(None)[0] > 0.03
    assert 0.02 < longest(0.03)[0] <= 0.03 + 1e-12
    took_s, items = longest(0.0005)  # nothing is quicker than one item by the cheap mode
    assert took_s == pytest.approx(0.001)
    assert items == 1


def test_the_cap_bounds_what_a_batch_may_take_for_accuracys_sake(hand) -> None:
    h = hand(workers=0)
    h.handle(WorkerReady(0.0, 0, ("one",), batch_cap_s=0.02))
    for job in (1, 2):
        h.arrive(job, 0.0)
    view = h.scheduler._views.dispatch(0.0, h.scheduler.workers[0], h.scheduler.queue.entries)
    assert Limits(view).cap_s == Limits(view).most_s == pytest.approx(0.02)
