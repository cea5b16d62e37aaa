"""The queue's arrays say what its entries say, whichever leave; jobs that some worker cannot answer are counted."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from poise.domain.job import Job
from poise.scheduling.costs import Terms
from poise.scheduling.queue import DeadlineQueue, Waiting


def terms(soft: bool) -> Terms:
    return Terms(
        "normal",
        0.5,
        1,
        soft=soft,
        ordinary=True,
        each=False,
        rate=(0.01, 1),
        batches_s=(0.0, 0.01),
        slo_s=1.0,
    )


TERMS = {soft: terms(soft) for soft in (False, True)}


def waiting(number: int, deadline_s: float, floor: float, soft: bool, particular: bool) -> Waiting:
    job = Job(number, "normal", 1, 0.0, deadline_s, floor, 1)
    entry = Waiting(job, TERMS[soft], TERMS[soft], floor, 1)
    entry.particular = particular
    return entry


drawn = st.lists(
    st.tuples(st.floats(0, 10), st.sampled_from([0.2, 0.5]), st.booleans(), st.booleans()), max_size=40
)


def check(queue: DeadlineQueue, expected: list[Waiting]) -> None:
    ordered = sorted(expected, key=lambda entry: (entry.job.deadline_s, entry.job.id))
    assert [entry.job.id for entry in queue.entries] == [entry.job.id for entry in ordered]
    assert queue.deadlines_s.tolist() == [entry.job.deadline_s for entry in ordered]
    assert queue.work_s.tolist() == [entry.work_s for entry in ordered]
    assert queue.items == len(ordered)
    assert math.isclose(queue.total_work_s, 0.01 * len(ordered), abs_tol=1e-9)
    particular = [entry for entry in ordered if entry.particular]
    assert queue.particular == len(particular)
    assert queue.needs == Counter((1, entry.least_accuracy) for entry in particular)


@given(drawn, st.data())
def test_some_jobs_may_leave_together_from_anywhere(jobs, data) -> None:
    queue = DeadlineQueue(capacity=4)
    entries = [waiting(number, *job) for number, job in enumerate(jobs)]
    for entry in entries:
        queue.insert(entry)
    check(queue, entries)
    left = list(entries)
    while left:
        gone = data.draw(st.lists(st.sampled_from(left), min_size=1, unique_by=id))
        for entry in gone:
            entry.waiting_items = 0
        queue.taken(gone, len(gone))
        left = [entry for entry in left if not any(entry is other for other in gone)]
        check(queue, left)
        assert not any(entry.queued for entry in gone)
