"""The policies to compare with, by hand. One item takes 11 ms by both modalities (accuracy .96),
10 ms by *dear* (.9), 1 ms by *cheap* (.6); a batch takes the sum. The SLO is 100 ms unless said otherwise."""

from __future__ import annotations

import msgspec
import pytest

from poise.scheduling.commands import Answer, RunBatch

DEAR, CHEAP, BOTH = 1, 2, 3
AGNOSTIC = ["edf", "edf-open", "fifo", "fifo-open"]


def run_of(commands) -> RunBatch:
    (found,) = [c for c in commands if isinstance(c, RunBatch)]
    return found


def parts_of(batch: RunBatch) -> list[tuple[int, int, int]]:
    return [(part.job_id, part.modalities, part.items) for part in batch.parts]


def totals(batch: RunBatch) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in batch.parts:
        found[part.modalities] = found.get(part.modalities, 0) + part.items
    return found


# edf, fifo


@pytest.mark.parametrize(("policy", "order"), [("edf", [3, 4, 2]), ("fifo", [2, 3, 4])])
@pytest.mark.parametrize("suffix", ["", "-open"])
def test_they_take_what_waits_in_their_order_by_the_most_accurate_mode(hand, policy, order, suffix) -> None:
    h = hand(policy=policy + suffix)
    first = run_of(h.arrive(1, 0.0))
    for job, within_s in ((2, 0.09), (3, 0.06), (4, 0.07)):
        h.arrive(job, 0.001, within_s=within_s)
    batch = run_of(h.finish(first.batch_id, 0.011))
    assert parts_of(batch) == [(job, BOTH, 1) for job in order]
    assert batch.expected_s == pytest.approx(0.033)


@pytest.mark.parametrize("policy", ["edf", "fifo"])
def test_with_admission_no_batch_makes_one_of_its_jobs_late(hand, policy) -> None:
    h = hand(policy=policy)
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.050, items=2)
    h.arrive(3, 0.0, within_s=0.070)
    # From 12 on, two items take until 34 and three until 45: both are in time.
    assert parts_of(run_of(h.finish(first.batch_id, 0.012))) == [(2, BOTH, 2), (3, BOTH, 1)]
    h = hand(policy=policy)
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.050, items=2)
    h.arrive(3, 0.0, within_s=0.070)
    # From 20 on, two take until 42, but three until 53, and job 2 must be back at 50.
    assert parts_of(run_of(h.finish(first.batch_id, 0.020))) == [(2, BOTH, 2)]


def test_fifo_looks_at_every_deadline_of_a_batch_not_only_the_first(hand) -> None:
    h = hand(policy="fifo")
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.090, items=3)
    h.arrive(3, 0.0, within_s=0.065)
    h.arrive(4, 0.0, within_s=0.095)
    assert not h.outcomes
    # From 25 on: job 2 until 58; with job 3 until 69 > 65.
    assert parts_of(run_of(h.finish(first.batch_id, 0.025))) == [(2, BOTH, 3)]


@pytest.mark.parametrize("policy", ["edf-open", "fifo-open"])
def test_without_admission_late_jobs_are_answered_in_full_batches(hand, policy) -> None:
    h = hand(policy=policy)
    first = run_of(h.arrive(1, 0.0, within_s=0.001))
    for job in range(2, 50):
        assert h.arrive(job, 0.0, within_s=0.001 * job) == []
    second = run_of(h.finish(first.batch_id, 0.011))
    assert totals(second) == {BOTH: 32}
    third = run_of(h.finish(second.batch_id, 0.363))
    assert totals(third) == {BOTH: 16}
    h.finish(third.batch_id, 0.539)
    assert all(isinstance(outcome, Answer) and outcome.late for outcome in h.outcomes.values())
    assert len(h.outcomes) == 49


@pytest.mark.parametrize("policy", AGNOSTIC)
def test_jobs_stay_whole_but_for_one_that_is_larger_than_a_batch(hand, policy) -> None:
    slow = {"normal": {"latency_slo_ms": 5000, "accuracy_floor": 0.6}}
    h = hand(policy=policy, classes=slow)
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, items=20)
    h.arrive(3, 0.0, items=20)
    h.arrive(4, 0.0, items=70)
    sizes, batch, now_s = [], first, 0.0
    while True:
        now_s += batch.expected_s
        commands = h.finish(batch.batch_id, now_s)
        if not any(isinstance(c, RunBatch) for c in commands):
            break
        batch = run_of(commands)
        sizes.append([(part.job_id, part.items) for part in batch.parts])
    assert sizes == [[(2, 20)], [(3, 20)], [(4, 32)], [(4, 32)], [(4, 6)]]
    assert all(isinstance(outcome, Answer) for outcome in h.outcomes.values())


@pytest.mark.parametrize("policy", AGNOSTIC)
def test_items_without_a_modality_share_the_batch_by_what_they_have(hand, policy) -> None:
    h = hand(policy=policy)
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.08, available=CHEAP, items=2)
    h.arrive(3, 0.0, within_s=0.08)
    batch = run_of(h.finish(first.batch_id, 0.011))
    assert parts_of(batch) == [(2, CHEAP, 2), (3, BOTH, 1)]
    assert batch.expected_s == pytest.approx(0.013)  # cheap once over three items, dear over one


@pytest.mark.parametrize("policy", AGNOSTIC)
def test_of_several_variants_the_most_accurate_that_a_job_can_use(hand, make_profile, policy) -> None:
    # *two* is better by dear and by both, *one* by cheap.
    two = make_profile(variants=("two",)).variants[0]
    modes = tuple(
        msgspec.structs.replace(mode, accuracy=mode.accuracy + (0.02 if "dear" in mode.modalities else -0.1))
        for mode in two.modes
    )
    one = make_profile()
    profile = msgspec.structs.replace(
        one, variants=(*one.variants, msgspec.structs.replace(two, modes=modes))
    )
    variants = {name: {"runtime": "emulated"} for name in ("one", "two")}
    h = hand(policy=policy, profile=profile, variants=variants)
    first = run_of(h.arrive(1, 0.0))
    assert first.variant == "two"
    h.arrive(2, 0.0, within_s=0.05)
    h.arrive(3, 0.0, within_s=0.06, available=CHEAP)
    h.arrive(4, 0.0, within_s=0.07)
    second = run_of(h.finish(first.batch_id, 0.011))
    assert (second.variant, parts_of(second)) == ("two", [(2, BOTH, 1), (4, BOTH, 1)])
    third = run_of(h.finish(second.batch_id, 0.033))
    assert (third.variant, parts_of(third)) == ("one", [(3, CHEAP, 1)])


# cheapest


def test_cheapest_stays_at_the_floor_however_much_time_there_is(hand) -> None:
    h = hand(policy="cheapest", guarantee={"scope": "job"})
    assert parts_of(run_of(h.arrive(1, 0.0))) == [(1, CHEAP, 1)]
    h = hand(policy="cheapest", guarantee={"scope": "job"})
    batch = run_of(h.arrive(1, 0.0, items=4, floor=0.75))
    assert totals(batch) == {DEAR: 2, CHEAP: 2}  # (2 · .9 + 2 · .6) / 4 = .75 in 22 ms
    assert batch.expected_s == pytest.approx(0.022)


def test_cheapest_spends_the_credit_of_its_class_as_it_is_earned(hand) -> None:
    h = hand(policy="cheapest", classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.8}})
    used, now_s = [], 0.0
    for job in range(6):
        batch = run_of(h.arrive(job, now_s))
        used.append(batch.parts[0].modalities)
        now_s += batch.expected_s
        h.finish(batch.batch_id, now_s)
    # dear earns .1; two of them pay for one by cheap, which owes .2.
    assert used == [DEAR, DEAR, CHEAP, DEAR, DEAR, CHEAP]


def test_cheapest_takes_as_many_as_the_first_deadline_allows(hand) -> None:
    h = hand(policy="cheapest")
    first = run_of(h.arrive(1, 0.0))
    for job in range(2, 12):
        h.arrive(job, 0.0, within_s=0.010 if job == 2 else 0.1)
    # It ends at 5 instead of 1: 5 ms are left to job 2.
    assert totals(run_of(h.finish(first.batch_id, 0.005))) == {CHEAP: 5}


def test_cheapest_of_several_variants_takes_the_least_time_for_each_item(hand, make_profile) -> None:
    slow, quick = make_profile(), make_profile(cheap_s=0.0005, variants=("two",))
    profile = msgspec.structs.replace(slow, variants=(*slow.variants, *quick.variants))
    variants = {name: {"runtime": "emulated"} for name in ("one", "two")}
    h = hand(policy="cheapest", profile=profile, variants=variants)
    batch = run_of(h.arrive(1, 0.0))
    assert batch.variant == "two"
    assert batch.expected_s == pytest.approx(0.0005)


@pytest.mark.parametrize("policy", ["cheapest", "slackfit"])
def test_a_variant_that_cannot_reach_a_floor_does_not_answer_that_job_in_company(
    hand, make_profile, policy
) -> None:
    # Only *two* reaches .97, in twice the time.
    one, two = make_profile(), make_profile(dear_s=0.02, cheap_s=0.002, variants=("two",)).variants[0]
    modes = tuple(msgspec.structs.replace(mode, accuracy=mode.accuracy + 0.02) for mode in two.modes)
    profile = msgspec.structs.replace(
        one, variants=(*one.variants, msgspec.structs.replace(two, modes=modes))
    )
    variants = {name: {"runtime": "emulated"} for name in ("one", "two")}
    h = hand(policy=policy, profile=profile, variants=variants, guarantee={"scope": "job"})
    batch = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.090)
    h.arrive(3, 0.0, within_s=0.095, floor=0.97)
    now_s = 0.0
    while len(h.outcomes) < 3:
        now_s += batch.expected_s
        commands = h.finish(batch.batch_id, now_s)
        if len(h.outcomes) < 3:
            batch = run_of(commands)
    strict = h.outcomes[3]
    assert isinstance(strict, Answer)
    assert strict.accuracy == pytest.approx(0.98)


# slackfit: latencies from 1 ms to 32 · 11 = 352 ms, 16 buckets of 351 / 16 = 21.94 ms each


def waiting(h, jobs: int, within_s: float) -> RunBatch:
    """Let some jobs wait while one runs; return what runs next, at 11 ms."""
    first = run_of(h.arrive(0, 0.0))
    for job in range(1, jobs + 1):
        h.arrive(job, 0.0, within_s=within_s)
    return run_of(h.finish(first.batch_id, 0.011))


def test_slackfit_fills_the_bucket_that_lies_within_the_slack(hand) -> None:
    # 60 ms of slack: two whole buckets, up to 1 + 2 · 21.94 = 44.9 ms. All five by both would take 55 ms, which the
    # slack allows but the bucket does not. Five items within 44.9: three by both, one by dear, one by cheap (44 ms,
    # 4.38); four within it: all by both (44 ms, 3.84).
    batch = waiting(hand(policy="slackfit"), 5, 0.071)
    assert totals(batch) == {BOTH: 3, DEAR: 1, CHEAP: 1}
    assert batch.expected_s == pytest.approx(0.044)


def test_slackfit_with_a_short_queue_takes_the_highest_bucket_that_it_can_fill(hand) -> None:
    # 89 ms of slack is bucket 4, up to 88.75 ms; two items take 22 ms at most.
    batch = waiting(hand(policy="slackfit"), 2, 0.100)
    assert totals(batch) == {BOTH: 2}


def test_slackfit_below_the_first_bucket_uses_the_slack_itself(hand) -> None:
    # 13 ms: less than one bucket. Two items within 13 ms: by both and by cheap, 12 ms, 1.56.
    batch = waiting(hand(policy="slackfit"), 2, 0.024)
    assert totals(batch) == {BOTH: 1, CHEAP: 1}


def test_slackfit_leaves_the_bucket_rather_than_the_floor(hand) -> None:
    # 34 ms of slack: bucket 0, up to 22.9 ms. The first job's floor takes 30 ms (3 items, all by dear).
    h = hand(policy="slackfit", guarantee={"scope": "job"})
    first = run_of(h.arrive(0, 0.0))
    h.arrive(1, 0.0, within_s=0.045, items=3, floor=0.9)
    batch = run_of(h.finish(first.batch_id, 0.011))
    answer = h.finish(batch.batch_id, 0.045)[0]
    assert isinstance(answer, Answer)
    assert answer.accuracy >= 0.9
    assert not answer.late


@pytest.mark.parametrize("policy", ["cheapest", "slackfit", *AGNOSTIC])
def test_a_class_that_prefers_deadlines_says_when_it_is_below_its_floor(hand, policy) -> None:
    soft = {"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.9, "prefer": "deadline"}}
    h = hand(policy=policy, guarantee={"scope": "job"}, classes=soft)
    batch = run_of(h.arrive(1, 0.0, within_s=0.005, available=CHEAP))
    (answer,) = h.finish(batch.batch_id, 0.001)
    assert isinstance(answer, Answer)
    assert (answer.accuracy, answer.below_floor) == (0.6, True)
