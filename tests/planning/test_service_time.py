"""StageTime: the profile's quantiles and mean come back out of it."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from poise.domain.profile import LatencyPoint, StageProfile
from poise.planning.service_time import LEVELS, StageTime, batch_time_s, interpolate, place

levels = st.floats(0, 1) | st.sampled_from(LEVELS)
seconds = st.floats(1e-6, 10)
some = st.sampled_from([None, 0.5])


def stage(*points: LatencyPoint) -> StageProfile:
    return StageProfile(name="s", modality_sets=(("a",),), latency=points)


@st.composite
def measured(draw, batch: int = 1) -> LatencyPoint:
    """A point as a profiler would write it, with a mean that its quantiles allow or rare hiccups explain."""
    p50, p95, p99 = sorted(draw(st.tuples(seconds, seconds, seconds)))
    least = 0.5 * p50 / 2 + 0.45 * (p50 + p95) / 2 + 0.04 * (p95 + p99) / 2 + 0.01 * p99
    mean = least + draw(st.floats(0, 2)) * p99
    return LatencyPoint(batch=batch, mean_s=mean, p50_s=p50, p95_s=p95, p99_s=p99)


def mean_of(time: StageTime, batch: int) -> float:
    """The exact mean of a piecewise linear quantile function."""
    knots = [time.at(batch, level) for level in LEVELS]
    widths = np.diff(LEVELS)
    return float(np.sum(widths * (np.array(knots[1:]) + np.array(knots[:-1])) / 2))


@given(measured())
def test_quantiles_come_back_exactly(point):
    time = StageTime(stage(point), threads=1)
    assert (time.at(1, 0.5), time.at(1, 0.95), time.at(1, 0.99)) == (point.p50_s, point.p95_s, point.p99_s)


@given(measured())
def test_the_mean_comes_back(point):
    assert mean_of(StageTime(stage(point), threads=1), 1) == pytest.approx(point.mean_s, rel=1e-9)


@given(measured())
def test_a_mean_that_the_quantiles_do_not_allow_leaves_them_as_they_are(point):
    assert point.p50_s is not None
    low = LatencyPoint(batch=1, mean_s=0.0, p50_s=point.p50_s, p95_s=point.p95_s, p99_s=point.p99_s)
    time = StageTime(stage(low), threads=1)
    assert (time.at(1, 0.0), time.at(1, 0.5), time.at(1, 1.0)) == (0.0, point.p50_s, point.p99_s)


@given(measured(), measured(batch=4), st.integers(1, 4), levels, levels)
def test_latency_never_falls_as_the_level_rises(one, four, batch, low, high):
    assume(low <= high)
    time = StageTime(stage(one, four), threads=1)
    assert 0 <= time.at(batch, low) <= time.at(batch, high)


@given(seconds, st.tuples(some, some, some), levels, levels)
def test_points_with_some_quantiles_still_rise(mean_s, quantiles, low, high):
    p50_s, p95_s, p99_s = quantiles
    point = LatencyPoint(batch=1, mean_s=mean_s, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s)
    time = StageTime(stage(point), threads=1)
    low, high = min(low, high), max(low, high)
    assert 0 <= time.at(1, low) <= time.at(1, high)


@given(levels)
def test_without_quantiles_latency_is_constant(level):
    time = StageTime(stage(LatencyPoint(batch=2, mean_s=0.25)), threads=1)
    assert (time.at(0, level), time.at(1, level), time.at(2, level)) == (0.0, 0.25, 0.25)


def test_draws_have_the_mean_of_the_profile():
    point = LatencyPoint(batch=1, mean_s=0.0105, p50_s=0.010, p95_s=0.013, p99_s=0.02)
    time = StageTime(stage(point), threads=1)
    drawn = [time.at(1, level) for level in np.random.default_rng(1).random(100_000).tolist()]
    assert np.mean(drawn) == pytest.approx(point.mean_s, rel=2e-3)
    assert np.quantile(drawn, 0.95) == pytest.approx(0.013, rel=2e-2)


def test_between_measured_batches_quantiles_are_linear():
    one = LatencyPoint(batch=1, mean_s=1.0, p50_s=1.0, p95_s=2.0, p99_s=3.0)
    three = LatencyPoint(batch=3, mean_s=2.0, p50_s=2.0, p95_s=4.0, p99_s=6.0)
    time = StageTime(stage(one, three), threads=1)
    assert (time.at(2, 0.5), time.at(2, 0.95), time.at(2, 0.99)) == (1.5, 3.0, 4.5)
    assert time.max_batch == 3
    with pytest.raises(IndexError):
        time.at(4, 0.5)


def test_other_threads_and_devices_are_not_guessed():
    point = LatencyPoint(batch=1, mean_s=1.0, threads=2)
    assert StageTime(stage(point), threads=2).at(1, 0.5) == 1.0
    with pytest.raises(ValueError, match="no latency measured with 1 threads on cpu"):
        StageTime(stage(point), threads=1)
    with pytest.raises(ValueError, match="no latency measured with 2 threads on cuda"):
        StageTime(stage(point), threads=2, device="cuda")


@given(levels)
def test_a_place_leads_back_to_its_level(level):
    i, left = place(level)
    assert 1 <= i < len(LEVELS)
    assert 0 <= left <= 1
    assert interpolate(LEVELS, i, left) == pytest.approx(level, abs=1e-12)


def test_a_batch_takes_the_sum_of_its_stages():
    fixed = StageTime(stage(LatencyPoint(batch=4, mean_s=1.0)), threads=1)
    spread = StageTime(stage(LatencyPoint(batch=4, mean_s=2.0, p50_s=2.0, p95_s=3.0, p99_s=4.0)), threads=1)
    assert batch_time_s([(fixed, 3), (spread, 4), (spread, 0)], [0.1, 0.95, 0.5]) == 4.0


def test_the_ends_are_as_documented():
    # The top is one p99 - p95 span above p99, the bottom what the mean leaves.
    knots = (0.85, 1.0, 1.4, 1.9, 2.4)
    mean = 0.5 * 1.85 / 2 + 0.45 * 2.4 / 2 + 0.04 * 3.3 / 2 + 0.01 * 4.3 / 2
    usual = StageTime(stage(LatencyPoint(batch=1, mean_s=mean, p50_s=1.0, p95_s=1.4, p99_s=1.9)), threads=1)
    assert [usual.at(1, level) for level in LEVELS] == pytest.approx(knots)
    # Rare hiccups: a mean beyond what the quantiles explain lies in the last hundredth.
    rare = StageTime(stage(LatencyPoint(batch=1, mean_s=1.1, p50_s=1.0, p95_s=1.0, p99_s=1.0)), threads=1)
    assert [rare.at(1, level) for level in LEVELS] == pytest.approx((1.0, 1.0, 1.0, 1.0, 21.0))


def test_a_value_never_falls_below_its_segment():
    # 1e16 - (1e16 - 0.1) is 0 in floating point.
    assert interpolate((0.1, 1e16, 1e16, 1e16, 1e16), 1, 1.0) == 0.1


def test_a_quantile_below_the_mean_that_stands_in_for_others_is_raised():
    point = LatencyPoint(batch=1, mean_s=2.0, p99_s=0.5)
    time = StageTime(stage(point), threads=1)
    assert [time.at(1, level) for level in LEVELS] == [2.0] * 5
