"""Inputs with buckets: short items are planned, admitted and calibrated at their own curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poise.domain.decoding import convert
from poise.domain.job import Job, RefusalReason
from poise.domain.profile import Profile
from poise.planning.service_model import ServiceModel
from poise.scheduling.commands import Command, Refuse, RunBatch
from poise.scheduling.events import BatchDone, JobArrived
from poise.scheduling.policies import POLICIES
from poise.scheduling.stage_plans import StagePlans

from .conftest import ACCURACY, Hand, service_of

SHORT, LONG = 0, 1
DEAR_S = (0.001, 0.010)
"""What an item takes in the dear encoder, by rung."""
CHEAP_S = 0.0005
DEAR, CHEAP, BOTH = 1, 2, 3
PADDED: dict[str, Any] = {
    "modalities": {
        "dear": {"inputs": {"dear": {"datatype": "FP32", "shape": [-1, 2], "buckets": [4, 16]}}},
        "cheap": {"inputs": {"cheap": {"datatype": "FP32", "shape": [2]}}},
    },
    "classes": {"normal": {"latency_slo_ms": 1000, "accuracy_floor": 0.96}},
}


def padded_profile() -> Profile:
    """The pair's two encoders, the dear one ten times as slow at its long bucket."""

    def linear(each_s: float, **bucket: int) -> list[dict[str, Any]]:
        return [{"batch": b, "mean_s": each_s * b, **bucket} for b in (1, 32)]

    dear = linear(DEAR_S[SHORT], bucket=4) + linear(DEAR_S[LONG], bucket=16)
    modes = [{"modalities": label.split("+"), "accuracy": a} for label, a in ACCURACY.items()]
    both = ["cheap", "dear"]
    stages = [
        {"name": "dear", "modality_sets": [["dear"], both], "latency": dear},
        {"name": "cheap", "modality_sets": [["cheap"], both], "latency": linear(CHEAP_S)},
    ]
    variant = {"name": "one", "modes": modes, "stages": stages}
    return convert({"format": 1, "service": "pair", "variants": [variant]}, Profile, "profile.json")


def stage_times(batch: RunBatch) -> tuple[tuple[str, float], ...]:
    """What a worker measures if the profile is right: each encoder at the longest of the items that use it."""
    found = []
    for name, bit in (("dear", DEAR), ("cheap", CHEAP)):
        parts = [part for part in batch.parts if part.modalities & bit]
        if parts:
            each_s = DEAR_S[max(part.bucket for part in parts)] if bit == DEAR else CHEAP_S
            found.append((name, each_s * sum(part.items for part in parts)))
    return tuple(found)


class PaddedHand(Hand):
    """Sends jobs of a rung, and answers batches in just the time that the profile says."""

    def __init__(self, policy: str | None = None, **fields: Any) -> None:
        super().__init__(service_of(**{**PADDED, **fields}), padded_profile(), policy)

    def send(self, job_id: int, now_s: float, rung: int, **fields: Any) -> list[Command]:
        slo = self.service.classes["normal"]
        within_s = fields.pop("within_s", slo.latency_slo_s)
        values = {"accuracy_floor": slo.accuracy_floor, "available": BOTH, "items": 1, **fields}
        job = Job(
            id=job_id,
            slo_class="normal",
            arrival_s=now_s,
            deadline_s=now_s + within_s,
            bucket=rung,
            **values,
        )
        return self.handle(JobArrived(now_s, job))

    def done(self, batch: RunBatch, now_s: float) -> list[Command]:
        del self.running[batch.batch_id]
        stage_s = stage_times(batch)
        run_s = sum(time_s for _, time_s in stage_s)
        return self.handle(BatchDone(now_s, batch.batch_id, batch.worker_id, run_s, stage_s))


def batch_in(commands: list[Command]) -> RunBatch:
    (batch,) = [command for command in commands if isinstance(command, RunBatch)]
    return batch


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rung", [SHORT, LONG])
def test_every_policy_plans_a_job_at_its_own_bucket(policy, rung):
    batch = batch_in(PaddedHand(policy).send(1, 0.0, rung))
    assert [(part.modalities, part.bucket) for part in batch.parts] == [(BOTH, rung)]
    assert batch.expected_s == pytest.approx(DEAR_S[rung] + CHEAP_S)


@pytest.mark.parametrize("policy", ["poise", "edf", "fifo", "cheapest", "slackfit"])
@pytest.mark.parametrize("rungs", [(SHORT,) * 4, (SHORT, SHORT, LONG, SHORT)])
def test_a_batch_takes_as_long_as_its_longest_job_needs(policy, rungs):
    hand = PaddedHand(policy)
    first = batch_in(hand.send(1, 0.0, SHORT))
    for number, rung in enumerate(rungs, start=2):
        assert not hand.send(number, 0.0001 * number, rung)[1:]  # at most a wake-up: the worker is busy
    batch = batch_in(hand.done(first, 0.0015))
    assert batch.expected_s == pytest.approx(
        len(batch.parts) * (DEAR_S[max(p.bucket for p in batch.parts)] + CHEAP_S)
    )
    if max(rungs) == SHORT:
        assert len(batch.parts) == 4


def test_the_deadline_of_a_short_job_is_judged_by_its_own_length():
    hand = PaddedHand()
    batch_in(hand.send(1, 0.0, SHORT, within_s=0.003))
    other = PaddedHand()
    (refused,) = other.send(1, 0.0, LONG, within_s=0.003)
    assert isinstance(refused, Refuse)
    assert refused.reason is RefusalReason.DEADLINE_UNREACHABLE


def test_short_jobs_wait_with_less_work_and_are_taken_where_long_ones_are_refused():
    def answered(rung: int) -> int:
        hand = PaddedHand()
        for number in range(1, 21):
            hand.send(number, 0.0, rung, within_s=0.04)
        return sum(not isinstance(outcome, Refuse) for outcome in hand.outcomes.values()) + sum(
            entry.doomed is None for entry in hand.scheduler.jobs.values()
        )

    assert answered(SHORT) == 20
    assert answered(LONG) <= 4


def test_a_short_job_that_may_share_a_batch_with_a_long_one_is_reckoned_with_its_time():
    hand = PaddedHand()
    hand.send(1, 0.0, SHORT)
    hand.send(2, 0.0, LONG)
    hand.send(3, 0.0, SHORT)
    long, short = hand.scheduler.queue.entries
    costs = hand.scheduler._pool.costs
    assert short.cost.item_work_s == pytest.approx(DEAR_S[SHORT] + CHEAP_S)
    assert long.cost.item_work_s == pytest.approx(DEAR_S[LONG] + CHEAP_S)
    assert costs.beside(short, [long], 1).shared_s(2) == pytest.approx(2 * (DEAR_S[LONG] + CHEAP_S))
    assert costs.beside(short, [long, short], 0) is short.cost
    assert costs.beside(long, [short], 1) is long.cost


def test_calibration_compares_a_batch_with_the_curves_of_its_own_lengths():
    """A long job that leaves its long input out lengthens no stage, so that each is predicted exactly."""
    hand = PaddedHand(classes={"normal": {"latency_slo_ms": 1000, "accuracy_floor": 0.6}})
    now_s, number, sent = 0.0, 0, []
    for lengths in [((SHORT, BOTH),), ((SHORT, DEAR), (LONG, CHEAP)), ((LONG, BOTH), (SHORT, BOTH))] * 8:
        for rung, available in lengths:
            number += 1
            sent += hand.send(number, now_s, rung, available=available)
        while hand.running:
            now_s += 0.05
            batch = min(hand.running.values(), key=lambda batch: batch.batch_id)
            hand.done(batch, now_s)
            factor = hand.scheduler.workers[0].calibration.factor
            assert factor == pytest.approx(1.0, abs=1e-9)
    assert number == len(hand.outcomes) == 40
    assert not any(isinstance(outcome, Refuse) for outcome in hand.outcomes.values())


def test_a_longer_stage_lengthens_the_plans_of_every_length():
    service, profile = service_of(**PADDED), padded_profile()
    model = ServiceModel(service, profile)
    stages = StagePlans(
        profile.variants[0], model.plans("one"), model.index, statistic="p95", threads=1, device="cpu"
    )
    shaped = stages.shaped((("dear", 2.0),))
    for rung, dear_s in enumerate(DEAR_S):
        frontier = shaped.at(rung).frontier(shaped.allowed(BOTH), 3)
        assert frontier is not None
        assert frontier.latency_s[-1] == pytest.approx(3 * (2 * dear_s + CHEAP_S))
        assert shaped.at(rung).model.latency_s([0, 0, 3]) == pytest.approx(3 * (2 * dear_s + CHEAP_S))


def test_a_service_without_buckets_has_one_set_of_plans(make_service: Callable[..., Any], make_profile):
    plans = ServiceModel(make_service(), make_profile()).plans("one")
    assert plans.at(0) is plans
    assert plans.shorter == ()
