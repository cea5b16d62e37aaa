"""MOSEL's published policy by hand. One item takes 11 ms by both modalities (accuracy .96), 10 ms by *dear* (.9),
1 ms by *cheap* (.6); a job takes the sum over its items. The floor is .6 and the SLO 100 ms unless said otherwise."""

from __future__ import annotations

import msgspec
import pytest

from poise.domain.job import RefusalReason
from poise.scheduling.commands import Answer, Refuse, RunBatch
from poise.scheduling.events import BatchDone, WorkerLost, WorkerReady

DEAR, CHEAP, BOTH = 1, 2, 3
POLICIES = pytest.mark.parametrize("policy", ["mosel", "mosel-max"])


def run_of(commands) -> RunBatch:
    (found,) = [c for c in commands if isinstance(c, RunBatch)]
    return found


def refused(commands) -> list[tuple[int, RefusalReason]]:
    return [(c.job_id, c.reason) for c in commands if isinstance(c, Refuse)]


def course(h, batch: RunBatch, now_s: float = 0.0) -> list[tuple[int, dict[int, int], float]]:
    """Finish every batch on its one worker as predicted: (job, items by modality set, end in ms) of each."""
    found = []
    while True:
        (job,) = {part.job_id for part in batch.parts}
        now_s += batch.expected_s
        found.append((job, {p.modalities: p.items for p in batch.parts}, round(now_s * 1e3, 6)))
        commands = h.finish(batch.batch_id, now_s)
        if not any(isinstance(c, RunBatch) for c in commands):
            return found
        batch = run_of(commands)


@POLICIES
def test_trace_1_jobs_start_at_their_best_and_stay_there_while_deadlines_hold(hand, policy) -> None:
    h = hand(policy=policy)
    first = run_of(h.arrive(1, 0.0))  # ends at 11
    h.arrive(2, 0.0, within_s=0.070, items=2)  # 22 ms: third in line, 11 + 33 + 22 = 66 <= 70
    h.arrive(3, 0.0, within_s=0.044, items=3)  # 33 ms: second in line, 11 + 33 = 44 <= 44
    # Deadline order; one job at a time, though all would fit into one batch; nothing is lowered.
    assert course(h, first) == [(1, {BOTH: 1}, 11.0), (3, {BOTH: 3}, 44.0), (2, {BOTH: 2}, 66.0)]


def test_trace_2_plans_are_lowered_in_deadline_order_until_the_deficit_is_covered(hand) -> None:
    h = hand(policy="mosel")
    first = run_of(h.arrive(1, 0.0))  # running, ends at 11: cannot be lowered any more
    h.arrive(2, 0.0, within_s=0.033, items=2)  # 11 + 22 = 33 <= 33
    h.arrive(3, 0.0, within_s=0.050)  # 33 + 11 = 44 <= 50
    h.arrive(4, 0.0, within_s=0.052)  # 44 + 11 = 55 > 52: deficit 3
    # Job 2 is first in line. Its frontier, 2 items: 2 ms (.6), 11 (.75), 12 (.78), 20 (.9), 21 (.93), 22 (.96).
    # 22 - 20 saves 2 < 3; 22 - 12 saves 10 >= 3: one item by both, one by cheap. Jobs 3 and 4 keep their best.
    assert course(h, first) == [
        (1, {BOTH: 1}, 11.0),
        (2, {BOTH: 1, CHEAP: 1}, 23.0),
        (3, {BOTH: 1}, 34.0),
        (4, {BOTH: 1}, 45.0),
    ]


def test_trace_2_goes_on_to_the_next_job_when_one_floor_is_not_enough(hand) -> None:
    h = hand(policy="mosel")
    first = run_of(h.arrive(1, 0.0))  # ends at 11
    h.arrive(2, 0.0, within_s=0.030, floor=0.9)  # 22 <= 30
    h.arrive(3, 0.0, within_s=0.040)  # 33 <= 40
    h.arrive(4, 0.0, within_s=0.041)  # 44 > 41: deficit 3
    # Job 2 may only go to dear: saves 1, leaves 2. Job 3: dear saves 1 < 2, cheap saves 10. Job 4 keeps its best.
    assert course(h, first) == [
        (1, {BOTH: 1}, 11.0),
        (2, {DEAR: 1}, 21.0),
        (3, {CHEAP: 1}, 22.0),
        (4, {BOTH: 1}, 33.0),
    ]


def test_trace_3_the_late_job_is_dropped_when_floors_do_not_suffice(hand) -> None:
    h = hand(policy="mosel")
    first = run_of(h.arrive(1, 0.0))  # ends at 11
    h.arrive(2, 0.0, within_s=0.025)  # 22 <= 25
    h.arrive(3, 0.0, within_s=0.060, items=3)  # 22 + 33 = 55 <= 60
    # Job 4 (4 items, floor .9, second in line): 22 + 44 = 66 > 53, deficit 13. Job 2 to cheap saves 10, leaves 3;
    # job 4 to three by dear and one by both, 41 ms, saves 3: 12 + 41 = 53. Then job 3: 53 + 33 = 86 > 60, deficit 26.
    # Job 2 is at its floor; job 4 to its floor, 40 ms, saves 1, leaves 25; job 3 to at most 33 - 25 = 8 ms: all by
    # cheap, 3 ms. It ends at 52 + 3 = 55.
    assert refused(h.arrive(4, 0.0, within_s=0.053, items=4, floor=0.9)) == []
    # Job 5 (floor .96, only both will do) is in line after job 2: 12 + 11 = 23 <= 51.5. But job 4: 23 + 40 = 63 > 53,
    # deficit 10, and jobs 2, 5 and 4 are at their floors: the late job is dropped, not the one that came last.
    lost = h.arrive(5, 0.0, within_s=0.0515, floor=0.96)
    assert refused(lost) == [(4, RefusalReason.DEADLINE_UNREACHABLE)]
    # What was lowered on the way stays lowered: 23 + 33 would be in time for job 3.
    assert course(h, first) == [
        (1, {BOTH: 1}, 11.0),
        (2, {CHEAP: 1}, 12.0),
        (5, {BOTH: 1}, 23.0),
        (3, {CHEAP: 3}, 26.0),
    ]


@POLICIES
def test_a_newcomer_that_cannot_be_held_is_dropped_itself(hand, policy) -> None:
    h = hand(policy=policy)
    first = run_of(h.arrive(1, 0.0))  # ends at 11
    h.arrive(2, 0.0, within_s=0.012)  # lowered to cheap at once: 12
    assert refused(h.arrive(3, 0.0, within_s=0.0125)) == [(3, RefusalReason.DEADLINE_UNREACHABLE)]
    assert refused(h.arrive(4, 0.0, within_s=0.0005)) == [(4, RefusalReason.DEADLINE_UNREACHABLE)]
    assert course(h, first) == [(1, {BOTH: 1}, 11.0), (2, {CHEAP: 1}, 12.0)]


@POLICIES
def test_a_batch_that_took_longer_lowers_the_rest_when_it_ends(hand, policy) -> None:
    h = hand(policy=policy)
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.022)
    h.arrive(3, 0.0, within_s=0.0345)
    # It ends at 23 instead of 11: job 2 is past its deadline and is dropped; 23 + 11 = 34 <= 34.5.
    commands = h.finish(first.batch_id, 0.023)
    assert refused(commands) == [(2, RefusalReason.DEADLINE_PASSED)]
    second = run_of(commands)
    assert {p.modalities for p in second.parts} == {BOTH}
    h.arrive(4, 0.023, within_s=0.040)
    # It ends at 60: job 4 has 3 ms left, so it is lowered to cheap.
    assert {p.modalities for p in run_of(h.finish(second.batch_id, 0.060)).parts} == {CHEAP}


@POLICIES
def test_a_job_beyond_the_largest_batch_goes_in_several_at_one_accuracy(hand, policy) -> None:
    h = hand(policy=policy, classes={"normal": {"latency_slo_ms": 1000, "accuracy_floor": 0.75}})
    first = run_of(h.arrive(1, 0.0))  # ends at 11
    h.arrive(2, 0.0, items=40)  # 440 ms: ends at 451
    assert refused(h.arrive(3, 0.0, within_s=0.5, items=40)) == []
    # 11 + 440 + 440 > 500: both must come down; at .75 half the items go by dear, half by cheap: 220 ms.
    batches = course(h, first)
    assert [(job, sum(counts.values())) for job, counts, _ in batches] == [
        (1, 1),
        (3, 32),
        (3, 8),
        (2, 32),
        (2, 8),
    ]
    assert batches[2][2] <= 500
    for job in (2, 3):
        answer = h.outcomes[job]
        assert isinstance(answer, Answer)
        assert not answer.late
        assert answer.accuracy >= 0.75


def test_two_workers_are_predicted_by_who_is_free_first(hand) -> None:
    h = hand(policy="mosel", workers=2)
    one = run_of(h.arrive(1, 0.0, items=4))  # worker 0 until 44
    two = run_of(h.arrive(2, 0.0, items=2))  # worker 1 until 22
    h.arrive(3, 0.0, within_s=0.044, items=2)  # worker 1 until 44
    h.arrive(4, 0.0, within_s=0.055)  # either, until 55
    # Ends at 55 + 11 = 66 on one, or 44 + 11 = 55 on the other: the latter. Nothing is lowered.
    h.arrive(5, 0.0, within_s=0.056)
    assert refused(h.log[-1][1]) == []
    three = run_of(h.finish(two.batch_id, 0.022))
    four = run_of(h.finish(one.batch_id, 0.044))
    assert [(p.job_id, p.modalities, p.items) for b in (three, four) for p in b.parts] == [
        (3, BOTH, 2),
        (4, BOTH, 1),
    ]
    five = run_of(h.finish(three.batch_id, 0.044))
    assert [(p.job_id, p.modalities) for p in five.parts] == [(5, BOTH)]


def test_a_job_whose_lowering_does_not_help_keeps_its_plan(hand) -> None:
    h = hand(policy="mosel", workers=2)
    one = run_of(h.arrive(1, 0.0, items=4))  # worker 0 until 44
    two = run_of(h.arrive(2, 0.0))  # worker 1 until 11
    h.arrive(3, 0.0, within_s=0.058, items=4)  # worker 1 until 55
    # Worker 0 from 44 until 66: deficit 6. Job 3 would go from 44 to 34 ms, and worker 1 be free at 45, after worker
    # 0 still: that does not help. Job 4 itself goes from 22 to 12 ms: ends at 56.
    h.arrive(4, 0.0, within_s=0.060, items=2)
    third = run_of(h.finish(two.batch_id, 0.011))
    assert [(p.job_id, p.modalities, p.items) for p in third.parts] == [(3, BOTH, 4)]
    fourth = run_of(h.finish(one.batch_id, 0.044))
    assert {(p.job_id, p.modalities, p.items) for p in fourth.parts} == {(4, BOTH, 1), (4, CHEAP, 1)}


@POLICIES
def test_floors_hold_for_each_job_in_scope_class_too(hand, policy) -> None:
    h = hand(policy=policy, classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.8}})
    for job in range(4):  # earns 4 × .16
        now_s = 0.05 * job
        h.finish(run_of(h.arrive(job, now_s)).batch_id, now_s + 0.011)
    assert h.scheduler.balances["normal"].credit == pytest.approx(0.64)
    # 5 ms would do for cheap alone, and the credit would cover it.
    assert refused(h.arrive(9, 0.3, within_s=0.005)) == [(9, RefusalReason.DEADLINE_UNREACHABLE)]
    assert {p.modalities for p in run_of(h.arrive(10, 0.3, within_s=0.010)).parts} == {DEAR}


@POLICIES
def test_a_class_that_prefers_deadlines_goes_below_its_floor_before_it_is_dropped(hand, policy) -> None:
    soft = {"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.9, "prefer": "deadline"}}
    h = hand(policy=policy, classes=soft)
    batch = run_of(h.arrive(1, 0.0, within_s=0.005))
    (answer,) = h.finish(batch.batch_id, 0.001)
    assert isinstance(answer, Answer)
    assert (answer.accuracy, answer.below_floor) == (0.6, True)
    assert refused(h.arrive(2, 0.0, within_s=0.0005)) == [(2, RefusalReason.DEADLINE_UNREACHABLE)]


@POLICIES
def test_a_job_uses_only_what_it_has(hand, policy) -> None:
    h = hand(policy=policy)
    assert {p.modalities for p in run_of(h.arrive(1, 0.0, available=DEAR)).parts} == {DEAR}


def test_the_variant_is_part_of_the_plan(hand, make_profile) -> None:
    # *two* answers by dear in 4 ms with .85: between one's dear (10 ms, .9) and cheap (1 ms, .6) on the frontier.
    quick = make_profile(dear_s=0.004, variants=("two",)).variants[0]
    modes = tuple(
        msgspec.structs.replace(m, accuracy={1: 0.85, 2: 0.55}.get(_mask(m), 0.86)) for m in quick.modes
    )
    both = make_profile()
    profile = msgspec.structs.replace(
        both, variants=(*both.variants, msgspec.structs.replace(quick, modes=modes))
    )
    variants = {name: {"runtime": "emulated"} for name in ("one", "two")}
    h = hand(policy="mosel", profile=profile, variants=variants)
    best = run_of(h.arrive(1, 0.0))
    assert best.variant == "one"
    assert best.expected_s == pytest.approx(0.011)
    h.arrive(2, 0.0, within_s=0.0165)  # 22 > 16.5: at most 5.5 ms, two's both (5 ms, .86)
    lower = run_of(h.finish(best.batch_id, 0.011))
    assert lower.variant == "two"
    assert lower.expected_s == pytest.approx(0.005)
    assert h.running[lower.batch_id].parts[0].modalities == BOTH


def _mask(mode) -> int:
    return sum({"dear": DEAR, "cheap": CHEAP}[name] for name in mode.modalities)


@POLICIES
def test_a_worker_that_once_was_slow_gets_jobs_again(hand, policy) -> None:
    h = hand(policy=policy)
    now_s = 0.0
    for job in range(10):  # every batch takes eight times as long as planned
        batch = run_of(h.arrive(job, now_s))
        now_s += 0.088
        commands = h.scheduler.handle(
            BatchDone(now_s, batch.batch_id, 0, 0.088, (("dear", 0.080), ("cheap", 0.008)))
        )
        assert len(commands) == 1
        now_s += 0.05
    assert h.scheduler.workers[0].calibration.factor == pytest.approx(8.0)
    # At a factor of 8 no plan is below 8 ms: dropped, and nothing is measured any more.
    assert refused(h.arrive(20, now_s, within_s=0.005)) == [(20, RefusalReason.DEADLINE_UNREACHABLE)]
    assert run_of(h.arrive(21, now_s + 6.0, within_s=0.005)).parts[0].modalities == CHEAP


def test_a_lost_worker_gives_its_job_back_and_it_is_planned_again(hand) -> None:
    h = hand(policy="mosel")
    run_of(h.arrive(1, 0.0, items=3))
    h.handle(WorkerLost(0.010, 0))
    # 90 ms are left, 33 are enough.
    again = run_of(h.handle(WorkerReady(0.010, 1, ("one",))))
    assert {p.modalities: p.items for p in again.parts} == {BOTH: 3}
    h.handle(WorkerLost(0.040, 1))
    assert h.outcomes[1].reason is RefusalReason.WORKER_KILLER


# mosel-max


def test_the_programme_gives_the_time_to_those_whom_it_helps_most(hand) -> None:
    h = hand(policy="mosel-max")
    first = run_of(h.arrive(1, 0.0))  # ends at 11
    h.arrive(2, 0.0, within_s=0.033, items=2)
    h.arrive(3, 0.0, within_s=0.050)
    h.arrive(4, 0.0, within_s=0.052)  # 55 > 52: deficit 3, 41 ms for the 4 items of three jobs
    # mosel lowers job 2 by 10 ms (2 · .78 + .96 + .96 = 3.48). One step from both to dear costs .06 and saves 1 ms:
    # three items by dear and one by both take 41 ms and reach 3 · .9 + .96 = 3.66.
    ran = course(h, first)
    assert [job for job, _, _ in ran] == [1, 2, 3, 4]
    assert ran[-1][2] == 52.0
    used = [counts for _, counts, _ in ran[1:]]
    assert sum(c.get(DEAR, 0) for c in used) == 3
    assert sum(c.get(BOTH, 0) for c in used) == 1


def test_the_programme_raises_what_was_lowered_where_the_one_sum_allows_it(hand) -> None:
    h = hand(policy="mosel-max")
    first = run_of(h.arrive(1, 0.0))  # ends at 11
    h.arrive(2, 0.0, within_s=0.031, items=2)  # 33 > 31: 20 ms, both items by dear
    # 31 + 11 > 41: 30 ms for three items, all by dear. The sum would hold as well with job 2 at 20 ms and job 3 at
    # 10 ms: the deadline of job 2 still holds.
    assert refused(h.arrive(3, 0.0, within_s=0.041)) == []
    assert course(h, first) == [(1, {BOTH: 1}, 11.0), (2, {DEAR: 2}, 31.0), (3, {DEAR: 1}, 41.0)]


def test_an_earlier_job_that_the_one_sum_made_late_is_planned_for_next(hand) -> None:
    h = hand(policy="mosel-max")
    first = run_of(h.arrive(1, 0.0, items=2))  # ends at 22
    h.arrive(2, 0.0, within_s=0.032)  # 10 ms left: dear
    h.arrive(3, 0.0, within_s=0.060, items=4, floor=0.9)  # 28 ms left and 40 needed: cannot be held
    assert 3 in h.outcomes
    h.arrive(4, 0.0, within_s=0.0430)  # 32 + 11 = 43 <= 43
    h.arrive(5, 0.0, within_s=0.0535)
    # 43 + 11 = 54 > 53.5. One sum of 31.5 ms for jobs 2, 4, 5: two by dear, one by both is 31, and which one is by
    # both is all the same to it; but job 2 by both would end at 33 > 32.
    ran = course(h, first)
    assert [job for job, _, _ in ran] == [1, 2, 4, 5]
    assert ran[1][1] == {DEAR: 1}
    assert all(not h.outcomes[job].late for job in (2, 4, 5))
