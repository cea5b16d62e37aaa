"""What is run in which order, what counts, and when it is enough: in virtual time."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from tests.profiling.conftest import FakeStopwatch

from poise.profiling import timing
from poise.profiling.timing import CoreStopwatch, Timed, quiet_collector, time_calls


def steady(name: str, wall_s: float, disturbed: bool = False) -> Callable[[], object]:
    return lambda: (name, wall_s, disturbed)


def run(
    chains: list[list[Callable[[], object]]],
    budget_s: float,
    on_round: Callable[[float], None] = lambda done_frac: None,
) -> tuple[list[list[Timed]], FakeStopwatch]:
    stopwatch = FakeStopwatch()
    results = time_calls(
        chains, stopwatch, budget_s=budget_s, generator=np.random.default_rng(1), on_round=on_round
    )
    return results, stopwatch


def test_the_budget_ends_it():
    results, stopwatch = run([[steady("a", 1.0)], [steady("b", 2.0)]], 100.0)
    assert stopwatch.now <= 100
    assert stopwatch.now > 100 - 3 * 3
    assert results[0][0].clean_s == [1.0] * len(results[1][0].clean_s)


def test_without_a_budget_each_call_still_runs_some_times():
    results, _ = run([[steady("a", 1.0)], [steady("b", 2.0)]], 0.0)
    assert [len(result.clean_s) for (result,) in results] == [timing.LEAST_ROUNDS] * 2


def test_steady_calls_end_it_early():
    results, stopwatch = run([[steady("a", 0.01)]], 1e9)
    assert len(results[0][0].clean_s) == timing.STABLE_ROUNDS
    assert stopwatch.now < 1e9


def test_calls_that_never_steady_go_on_to_the_last_round():
    calls = itertools.count()  # two in a round
    results, _ = run([[lambda: ("a", 0.01 * (1 + next(calls) // 2 % 2), False)]], 1e9)
    assert len(results[0][0].clean_s) == timing.MOST_ROUNDS


def test_chains_keep_their_order_and_take_turns():
    chains = [[steady("a1", 0.1), steady("a2", 0.1)], [steady("b1", 0.1), steady("b2", 0.1)]]
    _, stopwatch = run(chains, 10.0)
    order = stopwatch.order[4 * timing.WARM_UP_RUNS :]
    pairs = list(zip(order[::2], order[1::2], strict=True))
    assert set(pairs) == {("a1", "a2"), ("b1", "b2")}
    assert pairs[::2] == pairs[1::2], "each is run uncounted before it is timed"
    rounds = list(zip(pairs[::4], pairs[2::4], strict=True))
    assert all(len(set(pair)) == 2 for pair in rounds)
    assert len(set(rounds)) == 2, "the order changes from round to round"


def test_the_same_seed_gives_the_same_order():
    chains = [[steady(name, 0.1)] for name in "abcdef"]
    assert run(chains, 5.0)[1].order == run(chains, 5.0)[1].order


def test_cheap_chains_are_timed_more_often():
    ((cheap,), (dear,)), _ = run([[steady("cheap", 1e-5)], [steady("dear", 1.0)]], 40.0)
    assert len(cheap.clean_s) == timing.MOST_PASSES * len(dear.clean_s) > 0


def test_a_disturbed_run_does_not_count_and_is_run_again():
    kinds = itertools.cycle([False, True, False])
    results, _ = run([[lambda: ("a", 9.0, True) if next(kinds) else ("a", 1.0, False)]], 1000.0)
    (result,) = results[0]
    assert set(result.clean_s) == {1.0}
    assert set(result.disturbed_s) == {9.0}


def test_a_call_that_is_always_disturbed_is_marked_and_still_has_figures():
    results, stopwatch = run([[steady("a", 3.0, disturbed=True)]], 0.0)
    point = results[0][0].summary(batch=4, threads=1, busy_cores=1)
    assert point.contaminated
    assert point.p50_s == 3.0
    assert len(stopwatch.order) == timing.WARM_UP_RUNS + timing.LEAST_ROUNDS * (1 + 1 + timing.RETRIES)


def test_a_summary_has_the_quantiles_of_the_clean_runs():
    times = [i / 100 for i in range(1, 102)]
    result = Timed(clean_s=times, rounds=list(range(101)), disturbed_s=[50.0])
    point = result.summary(batch=8, threads=2, busy_cores=1)
    assert (point.batch, point.threads, point.busy_cores, point.runs) == (8, 2, 1, 101)
    assert not point.contaminated
    assert point.p50_s == pytest.approx(0.51)
    assert point.p95_s == pytest.approx(0.96)
    assert point.p99_s == pytest.approx(1.0)
    assert point.mean_s == pytest.approx(0.51)


def test_progress_rises_to_one():
    told: list[float] = []
    run([[steady("a", 1.0)]], 50.0, on_round=told.append)
    assert told == sorted(told)
    assert 0.9 < told[-1] <= 1.0


def test_the_collector_is_quiet_meanwhile_and_as_before_after():
    assert gc.isenabled()
    with quiet_collector():
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 0
    assert gc.isenabled()
    gc.disable()
    try:
        with quiet_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_real_stopwatch_times_the_call_and_sees_a_wait():
    import select

    stopwatch = CoreStopwatch()
    done: list[int] = []
    assert stopwatch.time(lambda: done.append(1)).wall_s > 0
    assert done == [1]
    # 10 ms without the CPU
    waited = stopwatch.time(lambda: select.select([], [], [], 0.01))
    assert waited.disturbed
    assert stopwatch.now_s() <= stopwatch.now_s()
