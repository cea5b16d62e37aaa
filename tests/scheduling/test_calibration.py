"""Factor and overhead by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.scheduling.calibration import ENOUGH, LIMIT, WINDOW, Calibration, OrderedRatios, Ratios


def feed(
    calibration: Calibration, times: int, *, predicted_s: float, factor: float, overhead_s: float
) -> None:
    for _ in range(times):
        stages_s = predicted_s * factor
        calibration.observe(
            now_s=0.0,
            run_s=stages_s + 0.0001 + overhead_s,
            variant="one",
            measured_s={"all": stages_s},
            predicted_s={"all": predicted_s},
            way_s=0.0001,
        )


def test_nothing_is_said_before_enough_batches() -> None:
    calibration = Calibration()
    feed(calibration, ENOUGH - 1, predicted_s=0.01, factor=2.0, overhead_s=0.001)
    assert (calibration.factor, calibration.overhead_s) == (1.0, 0.0)
    feed(calibration, 1, predicted_s=0.01, factor=2.0, overhead_s=0.001)
    assert calibration.factor == pytest.approx(2.0)
    assert calibration.overhead_s == pytest.approx(0.001)
    assert calibration.profile_s(calibration.real_s(0.3)) == pytest.approx(0.3)


def test_the_overhead_of_tiny_batches_is_no_factor() -> None:
    """Half a millisecond on top of 0.1 ms batches must not make 10 ms batches look six times as long."""
    calibration = Calibration()
    feed(calibration, 50, predicted_s=0.0001, factor=1.0, overhead_s=0.0005)
    assert calibration.factor == pytest.approx(1.0)
    assert calibration.real_s(0.010) == pytest.approx(0.0105)


def test_large_batches_speak_for_large_batches() -> None:
    calibration = Calibration()
    feed(calibration, 28, predicted_s=0.0001, factor=3.0, overhead_s=0.0)
    feed(calibration, 4, predicted_s=0.010, factor=1.1, overhead_s=0.0)
    assert calibration.factor == pytest.approx(1.1)


def test_outliers_and_nonsense_are_ignored() -> None:
    calibration = Calibration()
    feed(calibration, 20, predicted_s=0.01, factor=1.0, overhead_s=0.0)
    feed(calibration, 12, predicted_s=0.01, factor=40.0, overhead_s=1.0)
    for run_s, stages_s, predicted_s in (
        (-1.0, 0.0, 0.01),
        (0.1, 0.2, 0.01),
        (float("nan"), 0.1, 0.01),
        (1.0, 0.5, 0.0),
    ):
        calibration.observe(
            now_s=0.0,
            run_s=run_s,
            variant="one",
            measured_s={"all": stages_s},
            predicted_s={"all": predicted_s},
            way_s=0.0,
        )
    assert calibration.factor == pytest.approx(1.0)
    assert calibration.overhead_s == pytest.approx(0.0)


def test_the_factor_is_bounded_and_recovers() -> None:
    calibration = Calibration()
    feed(calibration, 40, predicted_s=0.01, factor=100.0, overhead_s=0.0)
    assert calibration.factor == LIMIT
    feed(calibration, 40, predicted_s=0.01, factor=1.0, overhead_s=0.0)
    assert calibration.factor == pytest.approx(1.0)


def test_a_stage_that_takes_longer_than_the_others_is_told_apart() -> None:
    calibration = Calibration()
    for _ in range(ENOUGH):
        calibration.observe(
            now_s=0.0,
            run_s=0.031,
            variant="one",
            measured_s={"slow": 0.020, "right": 0.010},
            predicted_s={"slow": 0.010, "right": 0.010},
            way_s=0.001,
        )
    assert calibration.factor == pytest.approx(1.5)
    shape = dict(calibration.shape("one"))
    assert calibration.factor * shape["slow"] == pytest.approx(2.0, rel=0.05)
    assert calibration.factor * shape["right"] == pytest.approx(1.0, rel=0.05)
    assert calibration.shape("another") == ()


times_s = st.floats(1e-6, 1.0)
alike_s = st.sampled_from([0.125, 0.25, 0.5])  # whose ratios are exact, so that many pairs tie


@given(
    st.lists(st.tuples(times_s, times_s), min_size=1, max_size=2 * WINDOW)
    | st.lists(st.tuples(alike_s, alike_s), min_size=WINDOW + 1, max_size=3 * WINDOW)
)
def test_a_median_kept_in_order_is_that_of_all_pairs(pairs: list[tuple[float, float]]) -> None:
    """To the last bit, after every measurement, whatever is alike."""
    kept, sorted_anew = OrderedRatios(), Ratios()
    for end, (measured_s, predicted_s) in enumerate(pairs, start=1):
        kept.add(measured_s, predicted_s)
        sorted_anew.add(measured_s, predicted_s)
        last = sorted((m / p, p) for m, p in pairs[max(0, end - WINDOW) : end])
        half, seen, at = sum(weight for _, weight in last) / 2, 0.0, -1
        while seen < half and at + 1 < len(last):
            at += 1
            seen += last[at][1]
        expected = min(LIMIT, max(1 / LIMIT, last[at][0]))
        assert kept.median() == sorted_anew.median() == expected
