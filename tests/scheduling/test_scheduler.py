"""The scheduler by hand: known figures, known answers."""

from __future__ import annotations

import msgspec
import pytest

from poise.domain.decoding import convert
from poise.domain.job import Job, RefusalReason
from poise.domain.profile import Profile
from poise.errors import ConfigError, InternalError
from poise.planning.accuracy_bounds import clopper_pearson_lower
from poise.planning.service_model import ServiceModel
from poise.scheduling.commands import Answer, Refuse, RunBatch, WakeAt
from poise.scheduling.events import (
    BatchDone,
    BatchFailed,
    DrainStarted,
    JobArrived,
    JobCancelled,
    Woke,
    WorkerLost,
    WorkerReady,
)

from .conftest import Hand

DEAR, CHEAP, BOTH = 1, 2, 3


def refusal(found: object) -> Refuse:
    assert isinstance(found, Refuse)
    return found


def run_of(commands) -> RunBatch:
    (found,) = [c for c in commands if isinstance(c, RunBatch)]
    return found


def finish_all(h: Hand, now_s: float) -> float:
    """End what runs, one batch after another; return when the last one ended."""
    while h.running:
        batch_id = min(h.running)
        now_s += h.running[batch_id].expected_s
        h.finish(batch_id, now_s)
    return now_s


def test_an_idle_worker_answers_a_job_by_the_most_accurate_mode(hand) -> None:
    h = hand()
    batch = run_of(h.arrive(1, 0.0))
    assert [(p.job_id, p.first_item, p.items, p.modalities) for p in batch.parts] == [(1, 0, 1, BOTH)]
    assert batch.expected_s == pytest.approx(0.011)
    (answer,) = h.finish(batch.batch_id, 0.011)
    assert isinstance(answer, Answer)
    assert (answer.accuracy, answer.late, answer.below_floor) == (0.96, False, False)
    assert answer.compute_s == pytest.approx(0.011)


def test_a_job_without_a_modality_is_answered_from_what_it_has(hand) -> None:
    h = hand()
    assert run_of(h.arrive(1, 0.0, available=CHEAP)).parts[0].modalities == CHEAP
    h = hand()
    assert run_of(h.arrive(1, 0.0, available=DEAR)).parts[0].modalities == DEAR


def test_a_tight_deadline_costs_accuracy_not_the_job(hand) -> None:
    h = hand()
    batch = run_of(h.arrive(1, 0.0, within_s=0.005))
    assert batch.parts[0].modalities == CHEAP


def test_jobs_run_in_deadline_order_and_share_batches(hand) -> None:
    h = hand()
    first = run_of(h.arrive(1, 0.0))
    for job, within in ((2, 0.09), (3, 0.08), (4, 0.085)):
        h.arrive(job, 0.001, within_s=within)
    batch = run_of(h.finish(first.batch_id, 0.011))
    assert [p.job_id for p in batch.parts] == [3, 4, 2]


def test_a_deadline_that_cannot_be_met_is_refused_on_arrival_and_costs_nothing(hand) -> None:
    h = hand()
    assert refusal(h.arrive(1, 0.0, within_s=0.0005)[0]).reason is RefusalReason.DEADLINE_UNREACHABLE
    assert run_of(h.arrive(2, 0.0)).parts[0].job_id == 2


def test_a_job_that_would_cost_another_its_deadline_is_refused(hand) -> None:
    h = hand(policy="edf")
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.0335)  # can start at 11 ms and end at 22 ms
    assert refusal(h.arrive(3, 0.0, within_s=0.030, items=2)[0]).reason is RefusalReason.DEADLINE_UNREACHABLE
    h.finish(first.batch_id, 0.011)
    assert len(h.running) == 1


def test_a_large_job_is_split_and_its_answer_is_whole(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 5000, "accuracy_floor": 0.6}})
    commands = h.arrive(1, 0.0, items=80)
    now = 0.0
    while 1 not in h.outcomes:
        batch = run_of(commands)
        assert sum(p.items for p in batch.parts) <= 32
        now += batch.expected_s
        commands = h.finish(batch.batch_id, now)
    answer = h.outcomes[1]
    assert isinstance(answer, Answer)
    covered = [item for part in answer.parts for item in range(part.first_item, part.first_item + part.items)]
    assert covered == list(range(80))


def test_floor_beyond_the_modalities_is_refused_in_scope_job(hand) -> None:
    h = hand(guarantee={"scope": "job"})
    found = refusal(h.arrive(1, 0.0, floor=0.8, available=CHEAP)[0])
    assert found.reason is RefusalReason.FLOOR_UNREACHABLE
    assert "0.6000" in found.detail


def test_scope_job_holds_each_jobs_mean(hand) -> None:
    h = hand(guarantee={"scope": "job"}, classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.75}})
    used: dict[int, int] = {}
    commands, now = h.arrive(1, 0.0, items=4, within_s=0.030), 0.0
    while 1 not in h.outcomes:  # in parts: one batch of 22 ms could block others with deadlines as short
        batch = run_of(commands)
        for part in batch.parts:
            used[part.modalities] = used.get(part.modalities, 0) + part.items
        now += batch.expected_s
        commands = h.finish(batch.batch_id, now)
    assert sum({BOTH: 0.96, DEAR: 0.9, CHEAP: 0.6}[m] * n for m, n in used.items()) / 4 >= 0.75
    assert now <= 0.030


def test_scope_class_spends_only_credit_that_was_earned(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.8}})
    # No credit yet: a job that only has the cheap modality cannot reach .8.
    assert refusal(h.arrive(1, 0.0, available=CHEAP)[0]).reason is RefusalReason.FLOOR_UNREACHABLE
    now = 0.0
    for job in (2, 3):  # earns 2 × .16
        batch = run_of(h.arrive(job, now))
        now += batch.expected_s
        h.finish(batch.batch_id, now)
    assert h.scheduler.balances["normal"].credit == pytest.approx(0.32)
    assert run_of(h.arrive(4, now, available=CHEAP)).parts[0].modalities == CHEAP
    assert h.scheduler.balances["normal"].credit == pytest.approx(0.12)
    assert refusal(h.arrive(5, now, available=CHEAP)[0]).reason is RefusalReason.FLOOR_UNREACHABLE


def test_a_class_that_prefers_deadlines_goes_below_its_floor_and_says_so(hand) -> None:
    classes = {"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.9, "prefer": "deadline"}}
    h = hand(guarantee={"scope": "job"}, classes=classes)
    batch = run_of(h.arrive(1, 0.0, within_s=0.005))
    assert batch.parts[0].modalities == CHEAP
    (answer,) = h.finish(batch.batch_id, 0.001)
    assert isinstance(answer, Answer)
    assert answer.below_floor
    strict = hand(
        guarantee={"scope": "job"}, classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.9}}
    )
    assert refusal(strict.arrive(1, 0.0, within_s=0.005)[0]).reason is RefusalReason.DEADLINE_UNREACHABLE


def test_a_lost_workers_jobs_are_tried_once_more_each_alone(hand) -> None:
    h = hand(workers=1)
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0)
    h.arrive(3, 0.0)
    both = run_of(h.finish(first.batch_id, 0.011))
    assert {p.job_id for p in both.parts} == {2, 3}
    assert not any(isinstance(c, Refuse) for c in h.handle(WorkerLost(0.012, 0)))
    again = run_of(h.handle(WorkerReady(0.013, 1, ("one",))))
    assert {p.job_id for p in again.parts} == {2}
    commands = h.handle(WorkerLost(0.014, 1))
    assert [(c.job_id, c.reason) for c in commands if isinstance(c, Refuse)] == [
        (2, RefusalReason.WORKER_KILLER)
    ]
    alone = run_of(h.handle(WorkerReady(0.015, 2, ("one",))))
    assert {p.job_id for p in alone.parts} == {3}
    h.finish(alone.batch_id, 0.02)
    assert isinstance(h.outcomes[3], Answer)


def test_a_job_is_no_killer_where_a_worker_died_before_it_took_it_up(hand) -> None:
    """Two workers are killed at once: the job of the first is sent to the second, which is dead already."""
    h = hand(workers=2)
    first = run_of(h.arrive(1, 0.0))
    second = run_of(h.handle(WorkerLost(0.001, first.worker_id)))
    assert second.worker_id != first.worker_id
    commands = h.handle(WorkerLost(0.001, second.worker_id, untouched=True))
    assert not any(isinstance(command, Refuse) for command in commands)
    third = run_of(h.handle(WorkerReady(0.002, 2, ("one",))))
    assert [part.job_id for part in third.parts] == [1]
    commands = h.handle(WorkerLost(0.003, 2))
    assert [c.reason for c in commands if isinstance(c, Refuse)] == [RefusalReason.WORKER_KILLER]


def test_a_job_whose_deadline_passes_after_its_worker_died_says_so_though_it_was_not_taken_up(hand) -> None:
    h = hand(workers=1)
    run_of(h.arrive(1, 0.0, within_s=0.05))
    h.handle(WorkerLost(0.01, 0, untouched=True))
    h.handle(Woke(0.06))
    assert h.outcomes[1].reason is RefusalReason.WORKER_LOST


def test_jobs_that_were_not_taken_up_may_share_a_batch_again(hand) -> None:
    h = hand(workers=1)
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0)
    h.arrive(3, 0.0)
    h.finish(first.batch_id, 0.011)
    h.handle(WorkerLost(0.012, 0, untouched=True))
    again = run_of(h.handle(WorkerReady(0.013, 1, ("one",))))
    assert {part.job_id for part in again.parts} == {2, 3}


def test_a_model_that_fails_twice_on_a_job_fails_only_that_job(hand) -> None:
    h = hand()
    batch = run_of(h.arrive(1, 0.0))
    again = run_of(h.handle(BatchFailed(0.001, batch.batch_id, 0, "boom")))
    commands = h.handle(BatchFailed(0.002, again.batch_id, 0, "boom"))
    assert refusal(commands[0]).reason is RefusalReason.MODEL_FAILED
    assert run_of(h.arrive(2, 0.003)).parts[0].job_id == 2


def test_credit_of_a_lost_batch_comes_back(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.8}})
    batch = run_of(h.arrive(1, 0.0))
    h.finish(batch.batch_id, 0.011)
    batch = run_of(h.arrive(2, 0.02))
    h.finish(batch.batch_id, 0.031)
    batch = run_of(h.arrive(3, 0.04))
    for job in range(4, 10):
        h.arrive(job, 0.041, within_s=0.050)
    run_of(h.finish(batch.batch_id, 0.051))  # too little time: some items by the cheap mode
    earned = 3 * (0.96 - 0.8)
    assert h.scheduler.balances["normal"].credit < earned - 0.05
    h.handle(WorkerLost(0.052, 0))
    assert h.scheduler.balances["normal"].credit == pytest.approx(earned)


def test_a_cancelled_job_leaves_at_once_or_when_its_batch_is_back(hand) -> None:
    h = hand()
    batch = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0)
    assert refusal(h.handle(JobCancelled(0.001, 2))[0]).reason is RefusalReason.CANCELLED
    assert h.handle(JobCancelled(0.002, 1)) == []
    assert refusal(h.finish(batch.batch_id, 0.011)[0]).reason is RefusalReason.CANCELLED
    assert h.handle(JobCancelled(0.012, 99)) == []


def test_waiting_jobs_are_refused_when_their_deadline_passes(hand) -> None:
    h = hand()
    h.arrive(1, 0.0)
    commands = h.arrive(2, 0.0, within_s=0.05)
    wakes = [c.at_s for _, cs in h.log for c in cs if isinstance(c, WakeAt)]
    assert wakes[-1] == pytest.approx(0.05)
    assert not any(isinstance(c, Refuse) for c in commands)
    # The worker hangs: nothing but the wake-up happens.
    commands = h.handle(Woke(0.0501))
    assert refusal(commands[0]).reason is RefusalReason.DEADLINE_PASSED


def test_draining_takes_no_new_job_and_answers_the_accepted_ones(hand) -> None:
    h = hand()
    batch = run_of(h.arrive(1, 0.0))
    h.handle(DrainStarted(0.001))
    assert refusal(h.arrive(2, 0.002)[0]).reason is RefusalReason.DRAINING
    h.finish(batch.batch_id, 0.011)
    assert isinstance(h.outcomes[1], Answer)


def test_queue_bounds(hand) -> None:
    h = hand(scheduler={"queue_jobs": 2, "queue_items": 3})
    h.arrive(1, 0.0)
    h.arrive(2, 0.0)
    assert refusal(h.arrive(3, 0.0, items=3)[0]).reason is RefusalReason.QUEUE_FULL
    h.arrive(4, 0.0)
    assert refusal(h.arrive(5, 0.0)[0]).reason is RefusalReason.QUEUE_FULL


def test_without_a_worker_jobs_are_refused(hand) -> None:
    h = hand(workers=0)
    assert refusal(h.arrive(1, 0.0)[0]).reason is RefusalReason.NO_WORKER


def test_what_cannot_be_is_an_internal_error_with_its_story(hand) -> None:
    h = hand()
    batch = run_of(h.arrive(1, 0.0))
    job = Job(1, "normal", 1, 0.0, 1.0, 0.6, 3)
    with pytest.raises(InternalError, match="arrived twice"):
        h.handle(JobArrived(0.001, job))
    with pytest.raises(InternalError, match="was not given"):
        h.handle(BatchDone(0.001, 77, 0, 0.1))
    with pytest.raises(InternalError, match="ready twice"):
        h.handle(WorkerReady(0.001, 0, ("one",)))
    h.finish(batch.batch_id, 0.011)


def test_an_unknown_policy_names_the_known_ones(hand) -> None:
    with pytest.raises(ConfigError, match="cheapest, edf, edf-open"):
        hand(policy="best")


def test_edf_uses_only_the_most_accurate_mode_and_fits_the_first_deadline(hand) -> None:
    h = hand(policy="edf")
    first = run_of(h.arrive(1, 0.0))
    for job in range(2, 8):
        h.arrive(job, 0.0, within_s=0.09)
    batch = run_of(h.finish(first.batch_id, 0.011))
    assert {p.modalities for p in batch.parts} == {BOTH}
    assert batch.expected_s <= 0.079


def test_a_slow_worker_is_noticed_and_its_deadlines_hold_again(hand) -> None:
    h = hand()
    now = 0.0
    for job in range(1, 13):
        batch = run_of(h.arrive(job, now))
        now += batch.expected_s
        h.finish(batch.batch_id, now, run_s=3 * 0.011)
        now += 0.05
    assert h.scheduler.workers[0].calibration.factor == pytest.approx(3.0)
    assert h.scheduler.workers[0].calibration.overhead_s == pytest.approx(0.0)
    # 20 ms were enough for both modalities by the profile; not on this worker.
    assert run_of(h.arrive(99, now, within_s=0.020)).parts[0].modalities == CHEAP


def test_a_floor_at_the_very_highest_accuracy_is_served(hand) -> None:
    h = hand(guarantee={"scope": "job"})
    assert run_of(h.arrive(1, 0.0, floor=0.96)).parts[0].modalities == BOTH
    assert refusal(h.arrive(2, 0.0, floor=0.9601)[0]).reason is RefusalReason.FLOOR_UNREACHABLE


def test_clients_floors_do_not_fill_the_caches(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 1000, "accuracy_floor": 0.6}})
    sizes = []
    for job in range(400):
        batch = run_of(h.arrive(job, job * 0.02, floor=0.6 + job * 1e-7))
        h.finish(batch.batch_id, job * 0.02 + batch.expected_s)
        costs = h.scheduler._pool.costs
        sizes.append(len(costs._rate) + len(costs._batch) + len(costs._price))
    assert sizes[-1] == sizes[10]


def test_a_job_that_lowers_its_floor_earns_no_credit_for_others(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.8}})
    batch = run_of(h.arrive(1, 0.0, floor=0.0))
    assert batch.parts[0].modalities == BOTH
    h.finish(batch.batch_id, 0.011)
    assert h.scheduler.balances["normal"].credit == 0.0
    assert refusal(h.arrive(2, 0.02, available=CHEAP)[0]).reason is RefusalReason.FLOOR_UNREACHABLE


def test_a_client_that_leaves_takes_its_gain_with_it(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.8}})
    batch = run_of(h.arrive(1, 0.0))
    h.handle(JobCancelled(0.001, 1))
    h.finish(batch.batch_id, 0.011)
    assert h.scheduler.balances["normal"].credit == 0.0


def test_workers_of_different_variants_each_get_what_they_can_answer(hand, make_profile) -> None:
    """One worker holds a variant that cannot reach the first job's floor: it passes it over, and refuses nothing."""
    profile = make_profile(variants=("one", "two"))
    weak = msgspec.structs.replace(
        profile.variants[0],
        modes=tuple(
            msgspec.structs.replace(mode, accuracy=mode.accuracy / 2) for mode in profile.variants[0].modes
        ),
    )
    profile = msgspec.structs.replace(profile, variants=(weak, profile.variants[1]))
    h = hand(
        profile=profile,
        workers=0,
        guarantee={"scope": "job"},
        variants={"one": {"runtime": "emulated"}, "two": {"runtime": "emulated"}},
    )
    h.handle(WorkerReady(0.0, 0, ("one",)))
    h.handle(WorkerReady(0.0, 1, ("two",)))
    first = run_of(h.arrive(1, 0.0, floor=0.9))
    assert (first.worker_id, first.variant) == (1, "two")
    assert h.arrive(2, 0.0, floor=0.9, within_s=0.09) == [
        WakeAt(0.09)
    ]  # waits for worker 1; worker 0 is idle
    third = run_of(h.arrive(3, 0.0, floor=0.4))
    assert (third.worker_id, third.variant) == (0, "one")
    assert {p.job_id for p in run_of(h.finish(first.batch_id, 0.011)).parts} == {2}


def test_a_worker_that_looked_too_slow_is_tried_again(hand) -> None:
    """Refused jobs measure nothing: without forgetting, a slow minute would refuse everything for ever."""
    h = hand(classes={"normal": {"latency_slo_ms": 20, "accuracy_floor": 0.9}})
    now = 0.0
    for job in range(1, 9):
        batch = run_of(h.arrive(job, now))
        now += batch.expected_s
        h.finish(batch.batch_id, now, run_s=8 * 0.011)
    assert refusal(h.arrive(50, now)[0]).reason is RefusalReason.DEADLINE_UNREACHABLE
    assert run_of(h.arrive(51, now + 6.0)).parts[0].job_id == 51


def test_a_job_split_over_workers_that_die_together_is_still_tried_alone(hand) -> None:
    h = hand(workers=2, classes={"normal": {"latency_slo_ms": 5000, "accuracy_floor": 0.6}})
    h.arrive(1, 0.0, items=64)
    assert len(h.running) == 2
    commands = h.handle(WorkerLost(0.01, 0)) + h.handle(WorkerLost(0.011, 1))
    assert not any(isinstance(c, Refuse) for c in commands)
    again = run_of(h.handle(WorkerReady(0.02, 2, ("one",))))
    assert {p.job_id for p in again.parts} == {1}


def test_what_a_split_job_banked_is_taken_back_when_its_client_leaves(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 5000, "accuracy_floor": 0.8}})
    batch = run_of(h.arrive(1, 0.0, items=64))
    second = run_of(h.finish(batch.batch_id, batch.expected_s))
    assert h.scheduler.balances["normal"].credit > 0
    h.handle(JobCancelled(0.5, 1))
    h.finish(second.batch_id, 0.6)
    assert isinstance(h.outcomes[1], Refuse)
    assert h.scheduler.balances["normal"].credit <= 1e-9


def test_credit_drawn_by_a_job_that_is_not_answered_comes_back(hand) -> None:
    h = hand(classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.8}})
    now = 0.0
    for job in (1, 2):
        batch = run_of(h.arrive(job, now))
        now += batch.expected_s
        h.finish(batch.batch_id, now)
    h.arrive(3, now)
    earned = h.scheduler.balances["normal"].credit
    h.arrive(4, now, available=CHEAP)
    assert h.scheduler.balances["normal"].credit == pytest.approx(earned - 0.2)
    h.handle(JobCancelled(now, 4))
    assert h.scheduler.balances["normal"].credit == pytest.approx(earned)


def test_the_cap_on_credit(hand) -> None:
    h = hand(
        guarantee={"scope": "class", "credit_items": 2},
        classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.6}},
    )
    for job in range(10):
        batch = run_of(h.arrive(job, job * 0.05))
        h.finish(batch.batch_id, job * 0.05 + 0.011)
    assert h.scheduler.balances["normal"].credit == pytest.approx(2 * 0.4)


def test_scope_job_counts_what_earlier_parts_of_a_job_bought(hand) -> None:
    """A first batch above the floor lets the rest of the same job lie below it."""
    h = hand(guarantee={"scope": "job"}, classes={"normal": {"latency_slo_ms": 5000, "accuracy_floor": 0.9}})
    first = run_of(h.arrive(1, 0.0, items=33))
    assert all(p.modalities == BOTH for p in first.parts)  # 32 items at .96
    h.handle(WorkerReady(0.0, 7, ("one",)))
    last = next(batch for batch in h.running.values() if batch.worker_id == 7)
    h.finish(first.batch_id, first.expected_s)
    (answer,) = h.finish(last.batch_id, 0.5)
    assert isinstance(answer, Answer)
    assert answer.accuracy >= 0.9


def test_a_long_batch_leaves_room_for_those_behind(hand) -> None:
    """The slack of the jobs left behind bounds a batch: a slow answer for one may not cost the next its deadline."""
    h = hand(scheduler={"max_batch": 1}, classes={"normal": {"latency_slo_ms": 1000, "accuracy_floor": 0.6}})
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.0214)
    h.arrive(3, 0.0, within_s=0.0215)
    second = run_of(h.finish(first.batch_id, 0.011))
    assert second.parts[0].job_id == 2
    assert second.parts[0].modalities == CHEAP  # the dear one would fit job 2, and end the chance of job 3
    third = run_of(h.finish(second.batch_id, 0.011 + second.expected_s))
    assert third.parts[0].job_id == 3


def test_no_batch_is_longer_than_half_the_shortest_slo_while_shorter_ones_do(hand) -> None:
    classes = {
        "bulk": {"latency_slo_ms": 10_000, "accuracy_floor": 0.6},
        "urgent": {"latency_slo_ms": 60, "accuracy_floor": 0.6},
    }
    h = hand(classes=classes)
    first = run_of(h.arrive(1, 0.0))
    for job in range(2, 40):
        h.arrive(job, 0.0)
    batch = run_of(h.finish(first.batch_id, 0.011))
    assert batch.expected_s <= 0.030 + 1e-9


def test_confidence_promises_less_than_the_mean_over_all_modes(make_service, make_profile) -> None:
    service = make_service(guarantee={"confidence": 0.95})
    plans = ServiceModel(service, make_profile()).plans("one")
    for s, mask in enumerate(plans.model.sets):
        accuracy = {DEAR: 0.9, CHEAP: 0.6, BOTH: 0.96}[mask]
        assert plans.model.accuracy[s] == pytest.approx(clopper_pearson_lower(accuracy, 1000, 0.05 / 3))
        assert plans.expected_accuracy[s] == accuracy


def test_time_that_small_items_leave_buys_accuracy_later(hand) -> None:
    """At a rate whose share is less than the dear mode, what is saved lets some items have it."""
    h = hand(classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.6}})
    used: list[int] = []
    for job in range(1, 400):
        now = job * 0.0095
        commands = h.arrive(job, now)
        for batch in [c for c in commands if isinstance(c, RunBatch)]:
            used.extend(p.modalities for p in batch.parts)
        while h.running:
            (batch_id,) = h.running
            expected = h.running[batch_id].expected_s
            for batch in [c for c in h.finish(batch_id, now + expected) if isinstance(c, RunBatch)]:
                used.extend(p.modalities for p in batch.parts)
    tail = used[100:]
    assert sum(m != CHEAP for m in tail) / len(tail) > 0.3


def test_a_job_larger_than_what_a_stage_was_measured_at_is_split(hand, make_profile) -> None:
    profile = make_profile()
    (variant,) = profile.variants
    short = msgspec.structs.replace(variant.stages[0], latency=variant.stages[0].latency[:3])  # up to 4
    variant = msgspec.structs.replace(variant, stages=(short, variant.stages[1]))
    h = hand(profile=msgspec.structs.replace(profile, variants=(variant,)))
    commands, now = h.arrive(1, 0.0, items=6), 0.0
    sizes = []
    while 1 not in h.outcomes:
        batch = run_of(commands)
        sizes.append(sum(p.items for p in batch.parts))
        now += batch.expected_s
        commands = h.finish(batch.batch_id, now)
    assert sizes == [4, 2]


@pytest.fixture
def blocking_service(make_service):
    """Batches cost four items' time beside the items: 20 ms for one item by the dearest set, 32 ms for four."""
    modes = {"dear": (0.723, 0.003), "cheap": (0.660, 0.0016), "cheap+dear": (0.743, 0.004)}
    profile = {
        "format": 1,
        "service": "pair",
        "variants": [
            {
                "name": "one",
                "modes": [
                    {"modalities": label.split("+"), "accuracy": accuracy, "samples": 1000}
                    for label, (accuracy, _) in modes.items()
                ],
                "stages": [
                    {
                        "name": label,
                        "modality_sets": [label.split("+")],
                        "latency": [{"batch": b, "mean_s": (4 + b) * item_s} for b in (1, 32)],
                    }
                    for label, (_, item_s) in modes.items()
                ],
            }
        ],
    }
    service = make_service(
        classes={"normal": {"latency_slo_ms": 161, "accuracy_floor": 0.7016}}, guarantee={"scope": "job"}
    )
    return Hand(service, convert(profile, Profile, "profile.json"), "poise")


def test_a_job_is_split_only_while_what_is_left_of_it_can_still_be_in_time(blocking_service) -> None:
    """Where batches cost much beside items, accurate parts first would leave no time for the rest."""
    h = blocking_service
    now_s = 0.0
    for job_id in range(1, 60):  # most deadlines are short: batches are to be, too
        items = 11 if job_id % 10 == 0 else 1
        h.arrive(job_id, now_s, items=items, within_s=0.017 + (4 + items) * 0.004)
        now_s = finish_all(h, now_s) + 0.1
    assert [
        outcome for outcome in h.outcomes.values() if not isinstance(outcome, Answer) or outcome.late
    ] == []


def test_the_items_of_one_job_are_reckoned_as_the_batch_that_they_are(blocking_service) -> None:
    """With short deadlines about, efficient batches are small; a job of seven items does not need seven of them."""
    h = blocking_service
    now_s = 0.0
    for job_id in range(1, 40):
        h.arrive(job_id, now_s, items=1, within_s=0.037)
        now_s = finish_all(h, now_s) + 0.1
    h.arrive(100, now_s, items=4, within_s=0.030)  # 24 ms
    h.arrive(101, now_s + 0.018, items=1, within_s=0.037)
    h.arrive(102, now_s + 0.020, items=7, within_s=0.061)  # free in 4 ms, then 15 ms, then 33 ms
    finish_all(h, now_s)
    assert all(isinstance(h.outcomes[job_id], Answer) for job_id in (100, 101, 102))
