"""E2 against its exact oracles, on random queues whose frontiers are not convex, with plateaus and fixed costs."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.planning.queue_accuracy import most_accurate, relax
from poise.planning.queue_job import FreeWorker, JobPoints, QueuedJob, finishes_s
from poise.planning.queue_oracle import best_value, best_value_of_several, enumerated_value
from poise.planning.queue_plan import VirtualJob, holds, plan_queue

SUITE = Path(__file__).resolve().parents[2] / "benchmarks" / "suite"
MEAN_GAP, WORST_GAP = 0.001, 0.01


def load(name: str) -> ModuleType:
    """Load a module of the benchmarks by its path: they are no package of poise."""
    spec = importlib.util.spec_from_file_location(f"poise_benchmarks_{name}", SUITE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


queue_cases = load("queue_cases")

ONE = [FreeWorker(0.0)]


def job(points: list[tuple[float, float]], deadline_s: float, weight: float = 1.0) -> QueuedJob:
    return QueuedJob(JobPoints([t for t, _ in points], [v for _, v in points]), deadline_s, weight)


TWO = [(1.0, 0.6), (4.0, 0.9)]


@st.composite
def queues(draw: st.DrawFn, most: int = 5) -> list[QueuedJob]:
    """Whole numbers, so that finishes meet deadlines exactly; jumps, plateaus of value, ties."""
    jobs = []
    deadline_s = 0.0
    for _ in range(draw(st.integers(1, most))):
        latency = sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=4)))
        value = sorted(draw(st.sets(st.integers(1, 30), min_size=len(latency), max_size=len(latency))))
        deadline_s += draw(st.sampled_from([0, 0, 1, 3, 6, 12]))
        points = JobPoints([float(t) for t in latency], [float(v) for v in value])
        jobs.append(QueuedJob(points, deadline_s, float(draw(st.integers(1, 3)))))
    return jobs


WORKERS = st.lists(st.sampled_from([0.0, 0.0, 1.0, 4.0]), min_size=1, max_size=3).map(
    lambda free: [FreeWorker(free_s) for free_s in free]
)


def cheapest_held(jobs: list[QueuedJob], workers: list[FreeWorker]) -> bool:
    done = finishes_s([each.points.latency_s[0] for each in jobs], workers)
    return all(at_s <= each.deadline_s + 1e-9 for at_s, each in zip(done, jobs, strict=True))


def gap(best: float, found: float) -> float:
    return (best - found) / best


def test_each_deadline_is_held_not_only_their_sum():
    # One sum, 1 + 4 ≤ 6, would let the first job take 4 s and be late. Its own deadline leaves it 1 s.
    plan = plan_queue([job(TWO, 2.0), job(TWO, 6.0)], ONE)
    assert plan.points == (0, 1)
    assert plan.value == pytest.approx(1.5)


def test_time_goes_where_it_buys_most():
    steep = [(1.0, 0.5), (4.0, 0.95)]
    flat = [(1.0, 0.5), (4.0, 0.6)]
    assert plan_queue([job(flat, 5.0), job(steep, 5.0)], ONE).points == (0, 1)
    assert plan_queue([job(steep, 5.0), job(flat, 5.0)], ONE).points == (1, 0)


def test_a_point_below_the_hull_is_taken_where_it_fits_best():
    # The hull runs from (1, 0) to (9, 8); the point (5, 1) lies far below it, and is all that 6 s allow.
    plan = plan_queue([job([(1.0, 0.1), (5.0, 1.0), (9.0, 8.0)], 6.0)], ONE)
    assert plan.points == (1,)


def test_calibration_and_the_time_of_a_worker_count():
    # Twice the profile's time and .5 s a job: 2 · 1 + .5 and 2 · 4 + .5 end at 12 from 1; one nanosecond more is late.
    slow = [FreeWorker(1.0, factor=2.0, overhead_s=0.5)]
    assert plan_queue([job(TWO, 12.0), job(TWO, 12.0)], slow).points in ((0, 1), (1, 0))
    assert plan_queue([job(TWO, 11.99), job(TWO, 11.99)], slow).points == (0, 0)


def test_jobs_that_cannot_be_kept_are_refused_and_cost_nothing():
    plan = plan_queue([job(TWO, 0.5), job(TWO, 4.0)], ONE)
    assert (plan.kept, plan.refused, plan.points) == ((1,), (0,), (None, 1))


def test_no_jobs_is_a_plan():
    assert plan_queue([], ONE).points == ()
    assert plan_queue([job(TWO, 0.5)], ONE).points == (None,)
    assert plan_queue([job(TWO, 0.5)], [FreeWorker(0.0), FreeWorker(0.0)]).points == (None,)


@pytest.mark.parametrize(
    ("latency_s", "value"),
    [
        ([], []),
        ([1.0], []),
        ([1.0, 1.0], [0.5, 0.6]),
        ([1.0, 2.0], [0.6, 0.6]),
        ([math.nan], [0.5]),
        ([1.0], [math.nan]),
        ([1.0, math.inf], [0.5, 0.6]),
        ([-1.0], [0.5]),
    ],
)
def test_impossible_points_are_refused(latency_s, value):
    with pytest.raises(ValueError):
        JobPoints(latency_s, value)


@pytest.mark.parametrize(
    ("jobs", "workers"),
    [
        ([job(TWO, 2.0)], []),
        ([job(TWO, 2.0)], [FreeWorker(0.0, factor=0.0)]),
        ([job(TWO, 2.0, weight=0.0)], ONE),
        ([job(TWO, 2.0), job(TWO, 1.0)], ONE),
        ([job(TWO, math.nan), job(TWO, 1.0)], ONE),
        ([job(TWO, math.nan)], ONE),
    ],
)
def test_impossible_queues_are_refused(jobs, workers):
    with pytest.raises(ValueError):
        plan_queue(jobs, workers)


@settings(max_examples=400, deadline=None)
@given(queues())
def test_small_queues_are_planned_exactly_on_one_worker(jobs):
    plan = plan_queue(jobs, ONE)
    assert holds(jobs, ONE, plan)
    kept = [jobs[at] for at in plan.kept]
    if kept:
        best = enumerated_value(kept, ONE)
        assert best is not None
        assert best_value(kept, ONE[0]) == pytest.approx(best)
        assert plan.value == pytest.approx(best)
        assert plan.bound >= best - 1e-9


@settings(max_examples=200, deadline=None)
@given(queues(most=4), WORKERS)
def test_no_deadline_is_missed_on_several_workers_and_none_refused_that_could_be_held(jobs, workers):
    plan = plan_queue(jobs, workers)
    assert holds(jobs, workers, plan)
    assert not (cheapest_held(jobs, workers) and plan.refused)
    kept = [jobs[at] for at in plan.kept]
    if kept:
        best = enumerated_value(kept, workers)
        assert best is not None
        assert best_value_of_several(kept, workers) == pytest.approx(best)
        assert plan.value <= best + 1e-9 <= plan.bound + 1e-6


@settings(max_examples=200, deadline=None)
@given(
    queues(most=4),
    st.sampled_from([1.0, 0.5, 3.0]),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([0.0, 0.5]),
)
def test_workers_that_differ_hold_the_deadlines_too(jobs, first, second, overhead_s):
    workers = [FreeWorker(0.0, first), FreeWorker(1.0, second, overhead_s)]
    plan = plan_queue(jobs, workers)
    assert holds(jobs, workers, plan)
    assert not (cheapest_held(jobs, workers) and plan.refused)


@settings(max_examples=200, deadline=None)
@given(queues())
def test_the_relaxation_is_a_bound_and_its_prices_fall(jobs):
    if not cheapest_held(jobs, ONE):
        return
    points = [each.points for each in jobs]
    found = relax(points, [each.deadline_s for each in jobs])
    best = enumerated_value(jobs, ONE)
    assert best is not None
    assert found.bound >= best - 1e-6
    assert all(a >= b for a, b in zip(found.prices, found.prices[1:], strict=False))
    lower = sum(each.value[each.hull[v]] for each, v in zip(points, found.vertices, strict=True))
    chosen, _ = most_accurate(points, [each.deadline_s for each in jobs])
    assert lower - 1e-9 <= sum(each.value[p] for each, p in zip(points, chosen, strict=True))


def random_queues(count: int, jobs: int, workers: int, seed: int, points: int | None = None):
    """Random queues; at least half must have a binding deadline and a real spread, or they prove nothing."""
    rng = np.random.default_rng(seed)
    pools = queue_cases.pools(rng, 12)
    if points is not None:
        pools = [kept for pool in pools if (kept := [each for each in pool if len(each) <= points])]
    found = [queue_cases.queue(rng, pools[at % len(pools)], jobs, workers) for at in range(count)]
    assert sum(case.binding and case.spread for case in found) >= count / 2
    return found


@pytest.mark.parametrize(("jobs", "points", "count"), [(4, 6, 24), (7, 4, 12), (12, 2, 6)])
def test_the_gap_to_enumeration(jobs, points, count):
    cases = random_queues(count, jobs, 1, seed=jobs, points=points)
    gaps = []
    for case in cases:
        plan = plan_queue(case.jobs, case.workers)
        assert not plan.refused
        assert holds(case.jobs, case.workers, plan)
        best = enumerated_value(case.jobs, case.workers)
        assert best is not None
        assert best_value(case.jobs, case.workers[0]) == pytest.approx(best)
        gaps.append(gap(best, plan.value))
    assert np.mean(gaps) <= MEAN_GAP
    assert max(gaps) <= WORST_GAP


@pytest.mark.parametrize(("jobs", "count"), [(8, 60), (20, 40), (30, 40)])
def test_the_gap_to_the_exact_programme(jobs, count):
    gaps, lower = [], []
    for case in random_queues(count, jobs, 1, seed=100 + jobs):
        plan = plan_queue(case.jobs, case.workers)
        assert not plan.refused
        assert holds(case.jobs, case.workers, plan)
        best = best_value(case.jobs, case.workers[0])
        assert best is not None
        gaps.append(gap(best, plan.value))
        lower.append(gap(best, sum(each.points.value[0] for each in case.jobs)))
    assert np.mean(gaps) <= MEAN_GAP
    assert max(gaps) <= WORST_GAP
    # The queues would tell: cheapest points for all lose far more than the planner may.
    assert np.mean(lower) > 20 * MEAN_GAP


@pytest.mark.parametrize(("jobs", "workers", "count"), [(4, 2, 30), (6, 2, 30), (5, 3, 20)])
def test_the_gap_on_several_workers(jobs, workers, count):
    gaps = []
    for case in random_queues(count, jobs, workers, seed=200 + jobs, points=5):
        plan = plan_queue(case.jobs, case.workers)
        assert not plan.refused
        assert holds(case.jobs, case.workers, plan)
        best = best_value_of_several(case.jobs, case.workers)
        assert best is not None
        gaps.append(gap(best, plan.value))
    assert np.mean(gaps) <= MEAN_GAP
    assert max(gaps) <= WORST_GAP


@pytest.mark.parametrize(
    ("jobs", "workers", "count", "most"),
    [(30, 2, 40, 0.12), (30, 4, 40, 0.15), (300, 1, 4, 0.005), (300, 3, 4, 0.05)],
)
def test_long_queues_hold_and_lie_near_the_bound(jobs, workers, count, most):
    for case in random_queues(count, jobs, workers, seed=300 + jobs):
        plan = plan_queue(case.jobs, case.workers)
        assert not plan.refused
        assert holds(case.jobs, case.workers, plan)
        assert gap(plan.bound, plan.value) <= most


def test_several_workers_leave_room_for_a_long_job_at_the_end():
    # Two workers. 28 jobs of 1 or some 2 s, then one of 10 s, all due at 36 s. Pooled, all could take 2 s: 66 of
    # 72 s. But the last has to start by 26 s, and the free times of two workers lie within 2 s of each other.
    short = [[(1.0, 0.5), (2.0 + 0.001 * at, 0.9 + 0.0001 * at)] for at in range(28)]
    jobs = [*(job(points, 36.0) for points in short), job([(10.0, 0.5)], 36.0)]
    workers = [FreeWorker(0.0), FreeWorker(0.0)]
    plan = plan_queue(jobs, workers)
    assert holds(jobs, workers, plan)
    assert 24 <= sum(point == 1 for point in plan.points[:28]) <= 26


def test_virtual_jobs_limit_what_is_spent():
    jobs = [job(TWO, 6.0)]
    assert plan_queue(jobs, ONE).points == (1,)
    held = plan_queue(jobs, ONE, [VirtualJob(3.0, 6.5)])
    assert (held.points, held.virtual_kept) == ((0,), 1)
    assert plan_queue(jobs, ONE, [VirtualJob(3.0, 7.0)]).points == (1,)


def test_the_first_job_starts_before_a_virtual_one_that_is_due_earlier():
    # 4 + 1 > 4: the job that starts now has to make room for an urgent one to come. The second stands behind it.
    jobs = [job(TWO, 20.0), job(TWO, 20.0)]
    assert plan_queue(jobs, ONE, [VirtualJob(1.0, 4.0)]).points == (0, 1)


def test_virtual_jobs_never_cost_a_real_job_its_place():
    # The second job and the virtual one cannot both be in time.
    jobs = [job(TWO, 1.0), job(TWO, 3.0)]
    for workers in (ONE, [FreeWorker(0.0), FreeWorker(9.0)]):
        plan = plan_queue(jobs, workers, [VirtualJob(1.5, 2.5)])
        assert (plan.points, plan.virtual_kept) == ((0, 0), 0)


@settings(max_examples=200, deadline=None)
@given(
    queues(most=4),
    WORKERS,
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), max_size=4),
)
def test_virtual_jobs_refuse_nobody_and_the_kept_ones_are_held(jobs, workers, expected):
    virtual = [VirtualJob(float(latency_s), float(deadline_s)) for latency_s, deadline_s in expected]
    alone, plan = plan_queue(jobs, workers), plan_queue(jobs, workers, virtual)
    assert plan.refused == alone.refused
    assert holds(jobs, workers, plan)
    assert plan.virtual_kept <= len(virtual)
    if len(workers) == 1:
        assert plan.value <= alone.value + 1e-9
    if plan.kept and plan.virtual_kept == len(virtual):
        pairs = [
            (each, each.points.latency_s[p])
            for each, p in zip(jobs, plan.points, strict=True)
            if p is not None
        ]
        pairs += [(job([(each.latency_s, 1.0)], each.deadline_s), each.latency_s) for each in virtual]
        pairs[1:] = sorted(pairs[1:], key=lambda pair: pair[0].deadline_s)
        done = finishes_s([latency_s for _, latency_s in pairs], workers)
        assert all(at_s <= each.deadline_s + 1e-9 for at_s, (each, _) in zip(done, pairs, strict=True))
