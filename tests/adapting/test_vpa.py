"""VPA+: Kubernetes' recommender on series worked out by hand."""

from __future__ import annotations

import math

import pytest

from poise.adapting.events import ClassCounts, Observed
from poise.adapting.vpa import DecayingHistogram, Recommender, Vpa
from poise.domain.profile import Profile

from .conftest import service_of, situation_at, workers


def bucket_end(value: float) -> float:
    """The end of the bucket that holds a value: buckets begin at .01 · (1.05^n − 1) / .05."""
    n = 0
    while 0.2 * (1.05 ** (n + 1) - 1) <= value:
        n += 1
    return 0.2 * (1.05 ** (n + 1) - 1)


def test_buckets_grow_by_a_twentieth() -> None:
    assert bucket_end(0.005) == pytest.approx(0.01)
    assert bucket_end(4.0) == pytest.approx(4.1246, abs=1e-3)
    histogram = DecayingHistogram()
    assert histogram.percentile(0.9) == 0.0
    histogram.add(4.0, 0.0)
    assert histogram.percentile(0.9) == pytest.approx(bucket_end(4.0))
    assert histogram.percentile(0.01) == pytest.approx(bucket_end(4.0))


def test_a_percentile_is_by_weight() -> None:
    histogram = DecayingHistogram()
    for _ in range(9):
        histogram.add(1.0, 0.0)
    histogram.add(6.0, 0.0)
    assert histogram.percentile(0.9) == pytest.approx(bucket_end(1.0))
    assert histogram.percentile(0.91) == pytest.approx(bucket_end(6.0))


def test_weights_halve_every_half_life() -> None:
    histogram = DecayingHistogram(half_life_s=100.0)
    histogram.add(6.0, 0.0, weight=3.0)
    histogram.add(1.0, 200.0, weight=1.0)  # worth 4 by then
    assert histogram.percentile(4 / 7 - 1e-6) == pytest.approx(bucket_end(1.0))
    assert histogram.percentile(4 / 7 + 1e-6) == pytest.approx(bucket_end(6.0))
    histogram.add(2.0, 100.0 * 1000)  # far beyond what a float could hold
    assert histogram.percentile(0.01) == pytest.approx(bucket_end(2.0))
    assert math.isfinite(histogram.percentile(0.99))


def test_target_and_bounds() -> None:
    recommender = Recommender()
    assert recommender.recommend() == (0.0, 0.0, math.inf)
    recommender.add(2.0, 4.0, 0.0)
    lower, target, upper = recommender.recommend()
    assert (lower, upper) == (0.0, math.inf)
    assert target == pytest.approx(1.15 * bucket_end(2.0))
    for minute in range(1, 1440):
        recommender.add(2.0, 4.0, 60.0 * minute)
    confidence = 1439 / 1440  # days by time; by samples it is one
    lower, target, upper = recommender.recommend()
    assert recommender.confidence == pytest.approx(confidence)
    assert target == pytest.approx(1.15 * bucket_end(2.0))
    assert lower == pytest.approx(target * (1 + 0.001 / confidence) ** -2)
    assert upper == pytest.approx(target * (1 + 1 / confidence))


def beat(now_s: float, busy_s: float, span_s: float = 1.0) -> Observed:
    return Observed(now_s, span_s, (ClassCounts("default", jobs=1, items=1),), busy_s=busy_s)


def test_cores_follow_usage_in_steps_of_the_margin(profile: Profile) -> None:
    """Four workers of four busy: 1.15 · the end of 4's bucket is 4.74, so 5; five of five: 6."""
    policy = Vpa(service_of(variant="large"), profile, 8)
    counts = []
    running = 4
    for period in range(4):
        found = policy.ask(situation_at(100.0, (workers("large", running),), now_s=15.0 * period))()
        assert found is not None
        assert [w.variants for w in found.workers] == [("large",)]
        running = found.workers[0].count
        counts.append(running)
        for second in range(15):
            policy.observe(beat(15.0 * period + second + 1, busy_s=float(running)))
    assert counts[0] == 4  # nothing is known yet
    assert counts[1] == math.ceil(1.15 * bucket_end(4.0)) == 5
    assert counts[2] == math.ceil(1.15 * bucket_end(5.0)) == 6
    assert counts[3] == math.ceil(1.15 * bucket_end(6.0)) == 8


def test_an_idle_service_shrinks_to_the_least(profile: Profile) -> None:
    policy = Vpa(service_of(variant="small", min_cores=2), profile, 8)
    for second in range(30):
        policy.observe(beat(second + 1.0, busy_s=0.05))
    found = policy.ask(situation_at(1.0, (workers("small", 6),)))()
    assert found is not None
    assert found.workers[0].count == 2
