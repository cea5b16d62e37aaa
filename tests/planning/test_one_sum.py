"""The multiple-choice knapsack against two oracles that share nothing with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.planning.one_sum import best_under_sum


def by_trying_all(times_s, values, limit_s) -> float | None:
    """The highest sum of values over every combination of choices."""
    best = None
    for choice in itertools.product(*(range(len(times)) for times in times_s)):
        if sum(times[c] for times, c in zip(times_s, choice, strict=True)) <= limit_s + 1e-9:
            worth = sum(value[c] for value, c in zip(values, choice, strict=True))
            best = worth if best is None else max(best, worth)
    return best


def by_table(times, values, limit: int) -> float:
    """The same for whole times, by a table over every sum up to the limit."""
    best = np.zeros(limit + 1)
    for own_times, own_values in zip(times, values, strict=True):
        grown = np.full(limit + 1, -np.inf)
        for time, value in zip(own_times, own_values, strict=True):
            if time <= limit:
                grown[time:] = np.maximum(grown[time:], best[: limit + 1 - time] + value)
        best = grown
    return float(best[limit])


# Few distinct numbers: ties, dominated choices and equal slopes; none need be in order.
times = st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.5, 2.25, 4.0])
worths = st.sampled_from([0.0, 0.2, 0.5, 0.5, 0.9, 1.0, 3.0])
jobs = st.lists(st.lists(st.tuples(times, worths), min_size=1, max_size=5), min_size=1, max_size=5)


@settings(max_examples=400, deadline=None)
@given(jobs=jobs, limit_s=st.sampled_from([0.0, 0.4, 1.0, 2.5, 3.75, 6.0, 9.0, 20.0]))
def test_no_combination_is_better(jobs, limit_s) -> None:
    times_s = [[time for time, _ in job] for job in jobs]
    values = [[value for _, value in job] for job in jobs]
    chosen = best_under_sum(times_s, values, limit_s)
    best = by_trying_all(times_s, values, limit_s)
    if chosen is None:
        assert best is None
        return
    assert sum(t[c] for t, c in zip(times_s, chosen, strict=True)) <= limit_s + 1e-9
    assert sum(v[c] for v, c in zip(values, chosen, strict=True)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(12))
def test_thirty_jobs_are_chosen_for_as_well_as_a_table_of_every_sum_does(seed) -> None:
    rng = np.random.default_rng(seed)
    whole = [np.sort(rng.integers(1, 400, 25)) for _ in range(30)]
    values = [np.sort(rng.uniform(0.5, 1.0, 25)) * rng.integers(1, 20) for _ in range(30)]
    least, most = sum(int(t[0]) for t in whole), sum(int(t[-1]) for t in whole)
    limit = int(least + (most - least) * rng.uniform(0.05, 0.9))
    chosen = best_under_sum([(t * 1e-3).tolist() for t in whole], [v.tolist() for v in values], limit * 1e-3)
    assert chosen is not None
    assert sum(int(t[c]) for t, c in zip(whole, chosen, strict=True)) <= limit
    reached = sum(float(v[c]) for v, c in zip(values, chosen, strict=True))
    assert reached == pytest.approx(by_table(whole, values, limit), rel=1e-12)


def test_the_relaxation_rounded_down_is_not_the_best() -> None:
    # Steepest step first takes job 0's (value 1 for 1 s) and leaves 2 s unused; job 1's alone is worth 2.5.
    assert best_under_sum([[0.0, 1.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 2.5]], 3.0) == [0, 1]


def test_the_quickest_choices_must_fit() -> None:
    assert best_under_sum([[2.0, 1.0], [3.0]], [[5.0, 1.0], [1.0]], 3.9) is None
    assert best_under_sum([[2.0, 1.0], [3.0]], [[5.0, 1.0], [1.0]], 4.0) == [1, 0]


def test_enough_time_gives_every_job_its_best_choice_by_its_own_number() -> None:
    assert best_under_sum([[3.0, 1.0, 2.0], [1.0, 1.0]], [[0.9, 0.1, 0.5], [0.3, 0.7]], 9.0) == [0, 1]


def test_no_jobs_need_no_time() -> None:
    assert best_under_sum([], [], 0.0) == []
