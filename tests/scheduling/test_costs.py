"""What jobs cost at least, and how idle the workers are: the figures behind admission and buying."""

from __future__ import annotations

import math

import pytest

from poise.domain.job import RefusalReason
from poise.planning.frontier import Frontier
from poise.planning.service_model import ServiceModel
from poise.scheduling.boldness import Boldness
from poise.scheduling.costs import LeastCosts, Terms
from poise.scheduling.events import WorkerReady
from poise.scheduling.policies import policy_named
from poise.scheduling.worker_pool import WorkerPool


def terms(batches_s: tuple[float, ...], rate: tuple[float, int]) -> Terms:
    return Terms(
        "normal", 0.5, 3, soft=False, ordinary=True, each=False, rate=rate, batches_s=batches_s, slo_s=0.1
    )


def test_work_is_the_lesser_of_efficient_batches_and_one_of_its_own() -> None:
    known = terms((0.0, 0.010, 0.012, 0.020, 0.050), rate=(0.008, 2))
    assert [known.work_s(items) for items in range(5)] == [0.0, 0.008, 0.012, 0.020, 0.032]
    assert [known.tail_s(items) for items in range(5)] == pytest.approx([0.0, 0.002, 0.0, 0.0, 0.018])
    assert known.work_s(10) == pytest.approx(0.080)  # beyond the largest batch


def test_two_batches_cost_what_they_take_more_than_one() -> None:
    known = terms((0.0, 0.010, 0.012, 0.020, math.inf), rate=(0.008, 2))
    assert known.parted_s(1, 2) == pytest.approx(0.002)
    assert known.parted_s(1, 1) == pytest.approx(0.008)
    assert known.parted_s(1, 3) == 0.0  # one batch of them cannot be
    assert known.parted_s(3, 3) == 0.0  # nor could it be that large


def test_what_accuracy_is_worth_follows_the_plans_asked_about(hand) -> None:
    """Workers plan with stages repriced as they were measured, and old prices are dropped: none may be mistaken."""
    h = hand()
    worker, costs = h.scheduler.workers[0], h.scheduler._pool.costs
    stages = worker.stages["one"]
    for k in range(200):  # more than are kept
        shape = (("cheap", 0.5 + (k * 53 % 89) / 40), ("dear", 0.5 + (k * 37 % 101) / 50))
        plans = stages.shaped(shape)
        frontier = plans.frontier(plans.allowed(3), 4)
        assert frontier is not None
        prices_s, latencies_s = Frontier(
            4, frontier.sets, frontier.latency_s, frontier.accuracy, frontier.counts
        ).rises
        most_s = 1.6 * 4 * costs.accuracy_price_s(3, 0.7)
        expected = latencies_s[sum(price <= most_s for price in prices_s)]
        assert frontier.worth_s(most_s) == expected


def test_what_is_kept_does_not_grow_with_the_floors_and_deadlines_that_clients_choose(
    hand, monkeypatch
) -> None:
    asked = [(floor / 100, slo_s / 100) for floor in range(60) for slo_s in range(10, 20)]

    def figures(costs: LeastCosts) -> list[object]:
        return [
            (
                costs.terms("normal", floor, 3, False, each, 0.0, slo_s).work_s(40),
                costs.efficient(3, floor, slo_s, each=each),
                costs.accuracy_price_s(3, floor),
                costs.latency_s(3, floor, 2, each=each),
            )
            for floor, slo_s in asked
            for each in (False, True)
        ]

    unbounded, bounded = hand().scheduler._pool.costs, hand().scheduler._pool.costs
    expected = figures(unbounded)
    monkeypatch.setattr("poise.scheduling.costs.MOST_TERMS", 20)
    monkeypatch.setattr("poise.scheduling.costs.MOST_FIGURES", 40)
    assert figures(bounded) == expected
    kept = {name: len(held) for name, held in vars(bounded).items() if isinstance(held, dict)}
    assert max(kept.values()) <= 40, kept
    assert max(len(held) for held in vars(unbounded).values() if isinstance(held, dict)) > 100


def test_boldness_stays_with_few_losses_and_goes_with_many() -> None:
    few, many = Boldness(), Boldness()
    for batch in range(1, 1001):
        few.ran()
        many.ran()
        if batch % 100 == 0:
            few.refused(RefusalReason.DEADLINE_UNREACHABLE)
        if batch % 10 == 0:
            many.refused(RefusalReason.DISPLACED)
    assert few.share == pytest.approx(0.5, abs=0.01)  # just after a loss
    assert many.share < 0.11
    for _ in range(100):
        few.ran()
    few.refused(RefusalReason.QUEUE_FULL)
    assert few.share == 1.0


def test_the_idle_share_is_that_of_late(make_service, make_profile) -> None:
    model = ServiceModel(make_service(), make_profile())
    pool = WorkerPool(model, policy_named("poise"), window_s=1.0)
    assert pool.idle_share == 0.0
    variant = model.profile.variants[0].name
    pool.add(WorkerReady(0.0, 0, (variant,), 1))
    worker = pool.all[0]
    now_s = 0.0
    for batch_id in range(1000):  # 10 ms of work, 30 ms without
        pool.occupy(worker, batch_id, now_s, now_s + 0.01)
        pool.release(worker, now_s + 0.01)
        now_s += 0.04
    assert pool.idle_share == pytest.approx(0.75, abs=0.01)
    for batch_id in range(1000, 2000):
        pool.occupy(worker, batch_id, now_s, now_s + 0.01)
        now_s += 0.01
        pool.release(worker, now_s)
    assert pool.idle_share < 0.001
