"""Which jobs are kept, against every subset."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.planning import moore_hodgson
from poise.planning.moore_hodgson import kept_jobs
from poise.planning.queue_job import FreeWorker, JobPoints, QueuedJob, all_held
from poise.planning.queue_oracle import most_weight_in_time

ONE = [FreeWorker(0.0)]


def job(latency_s: float, deadline_s: float, weight: float = 1.0) -> QueuedJob:
    return QueuedJob(JobPoints([latency_s], [0.5]), deadline_s, weight)


@st.composite
def queues(draw: st.DrawFn, weights: st.SearchStrategy[float]) -> list[QueuedJob]:
    found, deadline_s = [], 0.0
    for _ in range(draw(st.integers(1, 8))):
        deadline_s += draw(st.sampled_from([0, 0, 1, 2, 4]))
        found.append(job(float(draw(st.integers(1, 6))), deadline_s, draw(weights)))
    return found


def weight_kept(jobs: list[QueuedJob], workers: list[FreeWorker]) -> float:
    kept = [each for each, stays in zip(jobs, kept_jobs(jobs, workers), strict=True) if stays]
    assert all_held(kept, [each.points.latency_s[0] for each in kept], workers)
    return sum(each.weight for each in kept)


def test_the_longest_job_makes_room():
    # 4 + 2 + 2 > 5: without the first, both others are in time.
    assert kept_jobs([job(4, 5), job(2, 5), job(2, 5)], ONE) == [False, True, True]


def test_a_heavy_long_job_stays():
    assert kept_jobs([job(4, 5, weight=3), job(2, 5), job(2, 5)], ONE) == [True, False, False]


def test_jobs_that_may_not_be_dropped_stay():
    jobs = [job(4, 5), job(2, 5), job(2, 5)]
    assert kept_jobs(jobs, ONE, [False, True, True]) == [True, False, False]
    two = [FreeWorker(0.0), FreeWorker(3.0)]
    assert kept_jobs([job(4, 4), job(4, 4)], two, [False, True]) == [True, False]


@settings(max_examples=300, deadline=None)
@given(queues(st.just(1.0)))
def test_the_rule_keeps_as_many_as_any_subset(jobs):
    assert weight_kept(jobs, ONE) == most_weight_in_time(jobs, ONE)


@settings(max_examples=300, deadline=None)
@given(queues(st.sampled_from([1.0, 2.0, 2.5, 7.0])))
def test_the_programme_keeps_as_much_weight_as_any_subset(jobs):
    assert weight_kept(jobs, ONE) == pytest.approx(most_weight_in_time(jobs, ONE))


@settings(max_examples=100, deadline=None)
@given(queues(st.sampled_from([1.0, 2.0, 2.5, 7.0])))
def test_with_too_few_states_it_still_holds_every_deadline(jobs):
    before, moore_hodgson.MOST_STATES = moore_hodgson.MOST_STATES, 2
    try:
        assert weight_kept(jobs, ONE) > 0 or most_weight_in_time(jobs, ONE) == 0
    finally:
        moore_hodgson.MOST_STATES = before


@settings(max_examples=300, deadline=None)
@given(
    queues(st.sampled_from([1.0, 3.0])),
    st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=2, max_size=3),
)
def test_several_workers_keep_a_queue_that_can_be_held_whole(jobs, free_s):
    workers = [FreeWorker(at_s) for at_s in free_s]
    best = most_weight_in_time(jobs, workers)
    kept = weight_kept(jobs, workers)
    assert kept <= best
    if all_held(jobs, [each.points.latency_s[0] for each in jobs], workers):
        assert kept == sum(each.weight for each in jobs)
    # A heuristic: no worse than the heaviest job that can be in time by itself.
    assert kept >= max(most_weight_in_time([each], workers) for each in jobs)
