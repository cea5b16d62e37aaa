"""What is run in which order, what counts, and when it is enough: in virtual time."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from tests.profiling.conftest import FakeStopwatch

from poise.profiling import timing
from poise.profiling.timing import CoreStopwatch, Timed, Timings, quiet_collector, time_calls


def steady(name: str, wall_s: float, disturbed: bool = False) -> Callable[[], object]:
    return lambda: (name, wall_s, disturbed)


def run(
    calls: list[Callable[[], object]],
    budget_s: float,
    on_round: Callable[[float], None] = lambda done_frac: None,
) -> tuple[list[Timed], FakeStopwatch]:
    stopwatch = FakeStopwatch()
    results = time_calls(
        calls, stopwatch, budget_s=budget_s, generator=np.random.default_rng(1), on_round=on_round
    )
    return results, stopwatch


def test_the_budget_ends_it():
    results, stopwatch = run([steady("a", 1.0), steady("b", 2.0)], 100.0)
    assert stopwatch.now <= 100
    assert stopwatch.now > 100 - 2 * 3
    assert results[0].clean_s == [1.0] * len(results[1].clean_s)


def test_without_a_budget_each_call_still_runs_some_times():
    results, _ = run([steady("a", 1.0), steady("b", 2.0)], 0.0)
    assert [len(result.clean_s) for result in results] == [timing.LEAST_ROUNDS] * 2


def test_steady_calls_end_it_early():
    results, stopwatch = run([steady("a", 0.01)], 1e9)
    assert len(results[0].clean_s) == timing.STABLE_ROUNDS
    assert stopwatch.now < 1e9


def test_calls_that_never_steady_go_on_to_the_last_round():
    calls = itertools.count()
    results, _ = run([lambda: ("a", 0.01 * (1 + next(calls) % 2), False)], 1e9)
    assert len(results[0].clean_s) == timing.MOST_ROUNDS


def test_calls_take_turns_in_an_order_that_changes():
    _, stopwatch = run([steady(name, 0.1) for name in "abc"], 10.0)
    order = stopwatch.order[3 * timing.WARM_UP_RUNS :]
    rounds = list(zip(order[::3], order[1::3], order[2::3], strict=True))
    assert all(set(names) == set("abc") for names in rounds)
    assert len(set(rounds)) > 1


def test_a_call_that_is_timed_more_often_is_run_uncounted_first():
    room = timing.CHEAP_S
    results, stopwatch = run([steady("cheap", room / 2), steady("dear", room)], 0.0)
    order = stopwatch.order[2 * timing.WARM_UP_RUNS :]
    assert order.count("cheap") == 3 * timing.LEAST_ROUNDS
    assert order.count("dear") == timing.LEAST_ROUNDS
    assert [len(result.clean_s) for result in results] == [2 * timing.LEAST_ROUNDS, timing.LEAST_ROUNDS]


def test_the_same_seed_gives_the_same_order():
    calls = [steady(name, 0.1) for name in "abcdef"]
    assert run(calls, 5.0)[1].order == run(calls, 5.0)[1].order


def test_cheap_calls_are_timed_more_often():
    (cheap, dear), _ = run([steady("cheap", 1e-5), steady("dear", 1.0)], 40.0)
    assert len(cheap.clean_s) == timing.MOST_PASSES * len(dear.clean_s) > 0


def test_a_disturbed_run_does_not_count_and_is_run_again():
    kinds = itertools.cycle([False, True])
    results, _ = run([lambda: ("a", 9.0, True) if next(kinds) else ("a", 1.0, False)], 1000.0)
    (result,) = results
    assert set(result.clean_s) == {1.0}
    assert set(result.disturbed_s) == {9.0}


def test_a_call_that_is_always_disturbed_is_marked_and_still_has_figures():
    results, stopwatch = run([steady("a", 3.0, disturbed=True)], 0.0)
    point = results[0].summary(batch=4, threads=1, busy_cores=1)
    assert point.contaminated
    assert point.p50_s == 3.0
    assert len(stopwatch.order) == 1 + timing.LEAST_ROUNDS * (1 + timing.RETRIES)


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
    run([steady("a", 1.0)], 50.0, on_round=told.append)
    assert told == sorted(told)
    assert 0.9 < told[-1] <= 1.0


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("rounds", [1, 4, 5, 17])
def test_an_interrupted_run_goes_on_where_it_stopped(rounds):
    calls = [steady("a", 1.0), steady("b", 2.0)]

    def go(timings, on_round=lambda done: None) -> FakeStopwatch:
        stopwatch = FakeStopwatch()
        time_calls(
            calls,
            stopwatch,
            budget_s=100.0,
            generator=np.random.default_rng(timings.rounds),
            timings=timings,
            on_round=on_round,
        )
        return stopwatch

    whole, timings = Timings(), Timings()
    go(whole)

    def stop(done: float) -> None:
        if timings.rounds == rounds:
            raise StoppedError

    with pytest.raises(StoppedError):
        go(timings, stop)
    assert [len(result.clean_s) for result in timings.results] == [rounds] * 2
    again = go(timings)
    warming = 2  # each call once: they are dear
    assert len(again.order) == 2 * (timings.rounds - rounds) + warming
    assert [result.rounds for result in timings.results] == [list(range(timings.rounds))] * 2
    assert timings.spent_s <= 100
    assert whole.rounds - timings.rounds in (0, 1, 2)  # it was warmed up, and rested, once more
    assert go(timings).order == []


def test_the_others_are_told_of_each_visit_and_each_rest():
    told: list[int | None] = []
    stopwatch = FakeStopwatch()

    def call(number: int) -> Callable[[], object]:
        def run_it() -> object:
            if told:  # after warming up
                assert told[-1] == number
            return str(number), 0.2, False

        return run_it

    time_calls(
        [call(0), call(1), call(2)],
        stopwatch,
        budget_s=30.0,
        generator=np.random.default_rng(1),
        on_visit=told.append,
    )
    assert told.count(None) == stopwatch.rests + 1
    assert told[-1] is None
    assert set(told) == {0, 1, 2, None}
    assert stopwatch.rests > 3


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


def test_the_core_is_left_to_others_now_and_then():
    _, stopwatch = run([steady("a", 0.1), steady("b", 0.3)], 40.0)
    share = stopwatch.rests * timing.REST_S / stopwatch.now
    assert share >= 0.05


def test_repetitions_leave_the_core_to_others_too():
    """A call that is disturbed again and again must not keep the core by that, and be disturbed by what follows."""
    _, stopwatch = run([steady("a", 0.4, disturbed=True)], 0.0)
    assert stopwatch.rests >= timing.LEAST_ROUNDS * (1 + timing.RETRIES) - 1
