"""Arrival processes: what holds always, and their moments for fixed seeds within bounds by theory.

The bounds are five standard deviations, so that a change of numpy's generators does not break them.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.domain.workload import Arrivals
from poise.errors import ConfigError
from poise.workload import draw_arrivals
from poise.workload.arrivals import even, even_in_rates, gamma, mmpp, poisson, poisson_in_rates

processes = st.sampled_from(["poisson", "even", "mmpp", "gamma"])


@given(processes, st.floats(0.1, 200), st.floats(0.1, 20), st.floats(0.2, 5), st.integers(0, 2**32))
def test_sorted_within_the_run_and_the_same_by_seed(process, rate_rps, duration_s, cv, seed):
    arrivals = Arrivals(process=process, rate_rps=rate_rps, duration_s=duration_s, cv=cv)
    times, lasted_s = draw_arrivals(arrivals, np.random.default_rng(seed))
    again, _ = draw_arrivals(arrivals, np.random.default_rng(seed))
    assert lasted_s == duration_s
    assert times.dtype == np.float64
    assert np.array_equal(times, again)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < duration_s)).all()


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30),
    st.sampled_from(["poisson", "even"]),
    st.integers(0, 2**32),
)
def test_a_trace_fills_only_seconds_with_a_rate(rates, within, seed):
    text = "\n".join(map(str, rates))
    times, lasted_s = draw_arrivals(Arrivals(trace="t", within=within), np.random.default_rng(seed), text)
    assert lasted_s == len(rates)
    assert (np.diff(times) >= 0).all()
    counts = np.bincount(times.astype(int), minlength=len(rates))
    assert len(counts) == len(rates)
    if within == "even":
        assert counts.tolist() == rates
    else:
        assert all(rate > 0 for rate, count in zip(rates, counts, strict=True) if count)


def test_even_gaps():
    assert even(4.0, 1.0).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert even_in_rates(np.array([2.0, 0.0, 1.0])).tolist() == [0.25, 0.75, 2.5]


def test_even_carries_the_rest_of_a_rate_over():
    assert len(even_in_rates(np.full(10, 0.3))) == 3
    assert len(even_in_rates(np.full(1000, 1.7))) == 1700


def test_poisson_moments():
    counts = np.array([len(poisson(50.0, 10.0, np.random.default_rng(seed))) for seed in range(400)])
    assert abs(counts.mean() - 500) < 5 * np.sqrt(500 / 400)
    assert 0.65 < counts.var() / 500 < 1.35  # five standard errors: 5·sqrt(2/400)


def test_poisson_within_seconds_has_the_rate_of_each():
    rates = np.array([10.0, 100.0, 0.0, 30.0])
    total = np.zeros(4)
    for seed in range(300):
        total += np.bincount(poisson_in_rates(rates, np.random.default_rng(seed)).astype(int), minlength=4)
    assert (np.abs(total / 300 - rates) <= 5 * np.sqrt(rates / 300)).all()


@pytest.mark.parametrize("cv", [0.3, 1.0, 4.0])
def test_gamma_gaps_have_their_mean_and_variation(cv):
    gaps = np.diff(gamma(100.0, 2000.0, cv, np.random.default_rng(3)))
    assert abs(gaps.mean() * 100.0 - 1.0) < 5 * cv / np.sqrt(len(gaps))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_gamma_is_stationary_from_the_start():
    """A run much shorter than a burst still has the mean rate: on average, as many jobs as rate times duration."""
    counts = [len(gamma(100.0, 0.2, 4.0, np.random.default_rng(seed))) for seed in range(4000)]
    spread = np.std(counts) / np.sqrt(len(counts))
    assert abs(np.mean(counts) - 20.0) < 5 * spread


def test_mmpp_has_its_mean_rate_and_its_two_rates():
    counts = [len(mmpp(100.0, 50.0, np.random.default_rng(seed))) for seed in range(200)]
    assert abs(np.mean(counts) - 5000) < 5 * np.std(counts) / np.sqrt(200)
    # calm and burst last long here: seconds cluster about 100·(30 + 30)/(30 + 4·30) = 40 and 160
    times = mmpp(100.0, 3000.0, np.random.default_rng(1), burst_factor=4.0, burst_s=30.0, calm_s=30.0)
    seconds = np.bincount(times.astype(int), minlength=3000)
    calm, burst = seconds[seconds < 90], seconds[seconds >= 90]
    assert calm.mean() == pytest.approx(40, rel=0.05)
    assert burst.mean() == pytest.approx(160, rel=0.05)


def test_mmpp_without_bursts_is_poisson():
    counts = np.array([len(mmpp(50.0, 10.0, np.random.default_rng(s), burst_factor=1.0)) for s in range(400)])
    assert 0.65 < counts.var() / 500 < 1.35


def test_mmpp_spreads_more_than_poisson():
    counts = np.array([len(mmpp(50.0, 10.0, np.random.default_rng(s), burst_factor=8.0)) for s in range(400)])
    assert counts.var() / 500 > 5


def test_a_trace_that_was_not_read():
    with pytest.raises(ConfigError, match="was not read"):
        draw_arrivals(Arrivals(trace="t"), np.random.default_rng(1))


def test_too_many_jobs_are_refused_before_they_are_drawn():
    with pytest.raises(ConfigError, match="jobs would arrive"):
        draw_arrivals(Arrivals(process="poisson", rate_rps=1e9), np.random.default_rng(1))


def test_scale_multiplies_and_duration_cuts():
    times, lasted_s = draw_arrivals(
        Arrivals(trace="t", within="even", scale=2.0, from_s=1, duration_s=1.5),
        np.random.default_rng(1),
        "9\n2\n2\n2",
    )
    assert lasted_s == 1.5
    assert times.tolist() == [0.125, 0.375, 0.625, 0.875, 1.125, 1.375]
