"""What many workers can do together is reckoned with arrays: to the same as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.scheduling.fleet import FEW, Fleet
from poise.scheduling.view import WorkerState

times_s = st.floats(0.0, 10.0)


def workers(drawn: list[tuple[float, float, float]]) -> list[WorkerState]:
    found = []
    for number, (free_s, factor, overhead_s) in enumerate(drawn):
        worker = WorkerState(number, {}, free_s)
        worker.calibration.factor, worker.calibration.overhead_s = factor, overhead_s
        found.append(worker)
    return found


some = st.lists(
    st.tuples(times_s, st.floats(0.2, 5.0), st.floats(0.0, 0.1)), min_size=FEW + 1, max_size=3 * FEW
)


@given(some, st.lists(times_s, max_size=20), times_s, times_s)
def test_many_are_reckoned_as_few_are(drawn, deadlines_s, now_s, work_s) -> None:
    every = workers(drawn)
    whole = Fleet(every)
    parts = [Fleet(every[at : at + FEW]) for at in range(0, len(every), FEW)]
    at_s = np.array(sorted(deadlines_s))
    assert whole.capacity == pytest.approx(sum(part.capacity for part in parts))
    assert whole.room_s(at_s, now_s) == pytest.approx(
        sum(part.room_s(at_s, now_s) for part in parts), abs=1e-9
    )
    for deadline_s in deadlines_s:
        expected_s = sum(part.room_before_s(deadline_s, now_s) for part in parts)
        assert whole.room_before_s(deadline_s, now_s) == pytest.approx(expected_s, abs=1e-9)
    each_s = [part.first_ends_s(now_s, work_s, 0.0) for part in parts]
    assert whole.first_ends_s(now_s, work_s, 0.0) == pytest.approx(tuple(map(min, zip(*each_s, strict=True))))


@given(some, st.integers(0, FEW), times_s, st.floats(0.2, 5.0))
def test_a_change_of_one_is_heeded(drawn, place, free_s, factor) -> None:
    every = workers(drawn)
    fleet = Fleet(every)
    assert fleet.capacity > 0
    every[place].free_at_s, every[place].calibration.factor = free_s, factor
    fleet.changed(every[place])
    fleet.changed(WorkerState(999, {}, 0.0))  # none of them
    anew = Fleet(every)
    assert fleet.capacity == anew.capacity
    assert fleet.room_before_s(11.0, 0.0) == anew.room_before_s(11.0, 0.0)


def test_nobody_has_no_room() -> None:
    assert Fleet(()).capacity == 0.0
    assert Fleet(()).room_s(np.array([1.0, 2.0]), 0.0).tolist() == [0.0, 0.0]
