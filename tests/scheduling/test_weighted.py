"""The policy ``weighted``: which variant each job is given, and who answers it when."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.domain.profile import Profile
from poise.errors import InternalError
from poise.scheduling.commands import Answer, Command, Refuse, RunBatch
from poise.scheduling.events import AllocationAdopted, BatchFailed, WorkerLost, WorkerReady, WorkerRetiring
from poise.scheduling.weighted import SmoothRoundRobin

NAMES = ("a", "b", "c")
MS = 0.001


@pytest.fixture
def served(hand, make_profile) -> Callable[..., Any]:
    """A hand over three variants alike, each held by one worker of its own (0: a, 1: b, 2: c), unless told."""

    def build(shares: dict[str, float] | None, *, held: tuple[tuple[str, ...], ...] = (), **fields: Any):
        variants = {name: {"runtime": "emulated"} for name in NAMES}
        h = hand(
            policy="weighted", workers=0, profile=make_profile(variants=NAMES), variants=variants, **fields
        )
        for worker, resident in enumerate(held or tuple((name,) for name in NAMES)):
            h.handle(WorkerReady(0.0, worker, resident))
        if shares is not None:
            h.handle(AllocationAdopted(0.0, {"normal": shares}))
        return h

    return build


def given_to(h: Any) -> str:
    """The variants that jobs 1, 2, … were given, as one text."""
    return "".join(h.scheduler.jobs[job].plan for job in sorted(h.scheduler.jobs))


def batches(commands: list[Command]) -> list[RunBatch]:
    return [command for command in commands if isinstance(command, RunBatch)]


def test_the_exact_smooth_sequence_of_weights_five_one_one(served) -> None:
    h = served({"a": 5, "b": 1, "c": 1})
    for job in range(1, 15):
        h.arrive(job, 0.0)
    assert given_to(h) == "aabacaa" * 2


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 9), min_size=1).filter(
        lambda weights: any(weights.values())
    )
)
def test_whole_weights_come_out_exactly_in_every_round_and_evenly_within(weights) -> None:
    robin, total = SmoothRoundRobin(weights), sum(weights.values())
    for _ in range(2):
        picked = [robin.pick(weights) for _ in range(total)]
        assert Counter(picked) == Counter({name: w for name, w in weights.items() if w})
        for count, name in itertools.product(range(total + 1), weights):
            assert abs(picked[:count].count(name) - weights[name] * count / total) < len(weights)


def test_a_variant_that_is_not_eligible_is_left_out_and_does_not_save_up(served) -> None:
    robin = SmoothRoundRobin({"a": 1, "b": 1})
    assert [robin.pick("a") for _ in range(5)] == ["a"] * 5
    assert Counter(robin.pick("ab") for _ in range(10)) == {"a": 5, "b": 5}
    assert robin.pick("c") is None


@pytest.mark.parametrize("shares", [None, {}, {"a": 0, "b": 0.0}, {"c": 1.0}])
def test_without_a_share_that_counts_the_variants_that_live_workers_hold_have_equal_ones(
    served, shares
) -> None:
    h = served(shares, held=(("a",), ("b",)))
    for job in range(1, 9):
        h.arrive(job, 0.0)
    assert given_to(h) == "abababab"


def test_one_worker_answers_everything_and_none_refuses(served) -> None:
    h = served({"a": 5, "b": 1}, held=(("a",),))
    for job in range(1, 5):
        h.arrive(job, 0.0)
    assert given_to(h) == "aaaa"
    h.handle(WorkerRetiring(0.0, 0))
    h.finish(1, 0.011)
    assert not [c for c in h.arrive(9, 0.02) if isinstance(c, Refuse)]
    run = batches(h.handle(WorkerReady(0.03, 5, ("b",))))
    assert [part.job_id for part in run[0].parts] == [2, 3, 4, 9]


def test_a_worker_serves_only_what_was_given_to_a_variant_it_holds_in_order_of_arrival(served) -> None:
    h = served({"a": 1, "b": 1})
    first, second = batches(h.arrive(1, 0.0) + h.arrive(2, 0.0))
    assert [(r.worker_id, r.variant) for r in (first, second)] == [(0, "a"), (1, "b")]
    for job in range(3, 9):  # a b a b a b
        assert not batches(h.arrive(job, job * MS))
    (run,) = batches(h.finish(second.batch_id, 0.011))
    assert (run.worker_id, run.variant, [p.job_id for p in run.parts]) == (1, "b", [4, 6, 8])
    (run,) = batches(h.finish(first.batch_id, 0.3))
    assert (run.worker_id, [p.job_id for p in run.parts]) == (0, [3, 5, 7])
    h.finish(run.batch_id, 0.4)
    late = h.outcomes[3]
    assert isinstance(late, Answer)
    assert late.late  # nothing is refused for its deadline


def test_one_variant_in_a_batch_the_one_whose_first_job_waits_longest(served) -> None:
    h = served({"a": 1, "b": 1}, held=(("a", "b"),))
    for job in range(1, 6):  # a b a b a: the first runs
        h.arrive(job, job * MS)
    (run,) = batches(h.finish(1, 0.02))
    assert (run.variant, [p.job_id for p in run.parts]) == ("b", [2, 4])
    (run,) = batches(h.finish(run.batch_id, 0.05))
    assert (run.variant, [p.job_id for p in run.parts]) == ("a", [3, 5])


@pytest.mark.parametrize("gone", [WorkerRetiring, WorkerLost])
def test_when_a_variant_loses_its_last_worker_its_waiting_jobs_are_given_anew(served, gone) -> None:
    h = served({"a": 1, "b": 2, "c": 1}, held=(("a",), ("b",), ("b",)))
    for job in range(1, 11):
        h.arrive(job, 0.0)
    waiting = {job: h.scheduler.jobs[job].plan for job in range(4, 11)}
    assert set(waiting.values()) == {"a", "b"}
    h.handle(gone(0.001, 1))
    assert waiting == {job: h.scheduler.jobs[job].plan for job in range(4, 11)}  # one of them is left
    h.handle(gone(0.002, 2))
    h.arrive(11, 0.003)
    left = [job for job, entry in h.scheduler.jobs.items() if entry.queued]
    assert {h.scheduler.jobs[job].plan for job in left} == {"a"}
    if gone is WorkerLost:
        h.running = {batch: run for batch, run in h.running.items() if run.worker_id == 0}
    now_s = 0.003
    while h.running:
        batch = min(h.running)
        now_s += 0.1
        h.finish(batch, now_s)
    assert sorted(h.outcomes) == list(range(1, 12))
    assert all(isinstance(outcome, Answer) for outcome in h.outcomes.values())


def test_items_of_a_failed_batch_wait_again_in_their_place(served) -> None:
    h = served({"a": 1}, held=(("a",),))
    for job in range(1, 4):
        h.arrive(job, job * MS)
    (run,) = batches(h.finish(1, 0.02))
    again = batches(h.handle(BatchFailed(0.03, run.batch_id, 0, "no")))
    assert [p.job_id for p in again[0].parts] == [2]  # each alone now
    (run,) = batches(h.finish(again[0].batch_id, 0.04))
    assert [p.job_id for p in run.parts] == [3]


def test_a_job_that_left_its_line_and_came_back_is_not_forgotten(served) -> None:
    """Another worker looks at the line while the job runs, and finds it gone; then its batch fails."""
    h = served({"a": 1}, held=(("a",), ("a",)))
    (first,) = batches(h.arrive(1, 0.0))
    (second,) = batches(h.arrive(2, 0.001))
    h.finish(second.batch_id, 0.012)
    (again,) = batches(h.handle(BatchFailed(0.013, first.batch_id, first.worker_id, "no")))
    assert [part.job_id for part in again.parts] == [1]


def test_jobs_larger_than_a_batch_are_answered_in_parts(served) -> None:
    h = served({"a": 1}, held=(("a",),))
    (run,) = batches(h.arrive(1, 0.0, items=40))
    h.arrive(2, 0.001)
    (run,) = batches(h.finish(run.batch_id, 1.0))
    assert [(p.job_id, p.first_item, p.items) for p in run.parts] == [(1, 32, 8), (2, 0, 1)]


def test_a_job_is_given_only_to_variants_that_reach_its_floor(hand, make_profile) -> None:
    plain = msgspec.to_builtins(make_profile(variants=NAMES[:2]))
    for mode in plain["variants"][0]["modes"]:
        mode["accuracy"] /= 2
    profile = msgspec.convert(plain, Profile)
    variants = {name: {"runtime": "emulated"} for name in NAMES[:2]}
    h = hand(policy="weighted", profile=profile, variants=variants)
    h.handle(AllocationAdopted(0.0, {"normal": {"a": 3, "b": 1}}))
    for job in range(1, 5):
        h.arrive(job, 0.0)
    assert given_to(h) == "bbbb"
    for job in range(5, 9):
        h.arrive(job, 0.0, floor=0.1)
    assert given_to(h) == "bbbb" + "aaba"


@pytest.mark.parametrize(
    "shares",
    [
        {"normal": {"a": -1.0}},
        {"normal": {"a": float("nan")}},
        {"normal": {"a": float("inf")}},
        {"normal": {"z": 1.0}},
        {"nobody": {"a": 1.0}},
    ],
)
def test_shares_that_are_none_are_our_fault_and_change_nothing(served, shares) -> None:
    h = served({"a": 1})
    with pytest.raises(InternalError, match="share"):
        h.scheduler.handle(AllocationAdopted(0.0, shares))
    assert h.scheduler.shares == {"normal": {"a": 1}}
