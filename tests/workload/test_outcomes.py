"""Outcomes in columns: the same values as one by one, and floors as their definition says them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.workload import JobOutcome, attained
from poise.workload.outcomes import ACCURACY_TOLERANCE, Outcomes

shares = st.floats(0, 1)
counts = st.dictionaries(st.sampled_from(["x", "y", "x+y"]), st.integers(1, 4), max_size=3)


def build(ending: tuple[str, str], known: bool, **fields: Any) -> JobOutcome:
    status, reason = ending
    if status != "answered":
        fields |= {"modalities": {}, "variants": {}, "expected_accuracy": None, "correct": None}
    if not known:
        fields |= {"correct": None}
    return JobOutcome(status=status, reason=reason, **fields)  # type: ignore[arg-type]


outcomes = st.lists(
    st.builds(
        build,
        st.sampled_from(
            [("answered", "")] * 3 + [("refused", "queue_full"), ("refused", ""), ("failed", "reset")]
        ),
        st.booleans(),
        number=st.integers(0, 1 << 40),
        slo_class=st.sampled_from(["a", "b", "c"]),
        items=st.integers(1, 5),
        sent_s=shares,
        done_s=st.floats(1, 3),
        deadline_s=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
        accuracy_floor=st.sampled_from([0.0, 0.5, 0.8]),
        modalities=counts,
        variants=counts,
        expected_accuracy=st.none() | st.sampled_from([0.4, 0.5, 0.8, 0.9]) | shares,
        correct=st.floats(0, 5),
    ),
    max_size=15,
)


@given(outcomes)
def test_columns_give_back_what_they_were_made_of(run):
    columns = Outcomes.of(run)
    assert list(columns) == run
    assert columns == run
    assert Outcomes.of(columns) is columns
    assert columns[::-2] == run[::-2]
    assert columns[2:5] == run[2:5]
    assert len(columns) == len(run)
    if run:
        assert columns[-1] == run[-1]
        assert columns != run[:-1]
        assert columns[1:] != run[:-1] or run[1:] == run[:-1]


@given(outcomes)
def test_marks_are_those_of_each_outcome(run):
    columns = Outcomes.of(run)
    assert columns.answered.tolist() == [each.answered for each in run]
    assert columns.late.tolist() == [each.late for each in run]
    assert columns.latency_s.tolist() == [each.latency_s for each in run]
    assert columns.having("failed").tolist() == [each.status == "failed" for each in run]
    assert columns.of_class("b").tolist() == [each.slo_class == "b" for each in run]
    assert not columns.of_class("nobody's").any()
    assert columns.seen_classes() == {each.slo_class for each in run}
    assert columns.chosen(columns.late) == [each for each in run if each.late]


def test_a_place_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        Outcomes.of([])[0]


def test_what_is_taken_out_may_be_changed_without_changing_the_rest():
    answer = JobOutcome(0, "a", 2, 0.0, 1.0, 2.0, "answered", modalities={"x": 2}, variants={"m": 2})
    run = Outcomes.of([answer, answer])
    run[0].modalities["x"] = 9
    assert run[0].modalities == run[1].modalities == {"x": 2}


def plainly_attained(run: list[JobOutcome]) -> list[bool]:
    """Scope ``class`` by its definition: leave out the worst in time, one by one."""
    marks = [each.on_time for each in run]
    for name in {each.slo_class for each in run}:

        def excess(place: int) -> float:
            each = run[place]
            if each.expected_accuracy is None:
                return 0.0
            return (each.expected_accuracy - each.accuracy_floor) * each.items

        kept = [i for i, each in enumerate(run) if each.slo_class == name and each.answered]
        while sum(map(excess, kept)) < -ACCURACY_TOLERANCE * sum(run[i].items for i in kept):
            worst = min((i for i in kept if marks[i]), key=excess, default=None)
            if worst is None:
                break
            kept.remove(worst)
            marks[worst] = False
    return marks


@given(outcomes)
def test_floors_of_classes_are_as_defined(run):
    assert attained(run, "class") == plainly_attained(run)


@given(outcomes)
def test_floors_of_jobs_are_as_defined(run):
    floors = [each.expected_accuracy is None or each.expected_accuracy >= each.accuracy_floor for each in run]
    assert attained(run, "job") == [each.on_time and held for each, held in zip(run, floors, strict=True)]


def test_unknown_figures_are_nan_in_columns_and_none_outside():
    run = Outcomes.of([JobOutcome(0, "a", 1, 0.0, 1.0, 2.0, "answered")])
    assert np.isnan(run.columns.expected_accuracy).all()
    assert run[0].expected_accuracy is None
