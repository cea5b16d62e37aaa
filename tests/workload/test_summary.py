"""Summaries, with examples worked out by hand."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.workload import Interval, JobOutcome, RunReport, attained, latency_figures, summarise, timeline


def outcome(number: int = 0, **fields: Any) -> JobOutcome:
    defaults: dict[str, Any] = {
        "slo_class": "a",
        "items": 1,
        "sent_s": 0.0,
        "done_s": 0.1,
        "deadline_s": 0.2,
        "status": "answered",
    }
    return JobOutcome(number=number, **{**defaults, **fields})


# Four items answered in time, of which three right; two late, both right; one job refused, one failed.
RUN = [
    outcome(
        0,
        items=2,
        modalities={"x": 1, "x+y": 1},
        variants={"small": 2},
        expected_accuracy=0.8,
        correct=1.0,
    ),
    outcome(
        1,
        items=2,
        sent_s=1.0,
        done_s=1.2,
        modalities={"x+y": 2},
        variants={"big": 2},
        expected_accuracy=0.9,
        correct=2.0,
    ),
    outcome(
        2,
        slo_class="b",
        items=2,
        sent_s=2.0,
        done_s=2.4,
        modalities={"x": 2},
        variants={"big": 2},
        expected_accuracy=0.7,
        correct=2.0,
    ),
    outcome(3, slo_class="b", items=3, sent_s=3.0, done_s=3.0, status="refused", reason="queue_full"),
    outcome(4, items=1, sent_s=3.5, done_s=3.6, status="failed", reason="reset"),
]


def test_a_run_by_hand():
    report = summarise(RUN, 4.0)
    assert (report.jobs, report.items, report.answered, report.attained, report.late) == (5, 10, 3, 2, 1)
    assert report.offered_rps == 1.25
    assert report.goodput_rps == 0.5
    assert report.attainment == 0.4
    assert report.mean_accuracy == pytest.approx((2 * 0.8 + 2 * 0.9 + 2 * 0.7) / 6)
    assert report.served_accuracy == pytest.approx(5 / 6)
    assert report.effective_accuracy == pytest.approx(3 / 10)
    assert report.effective_accuracy_source == "labels"
    assert report.refused == {"queue_full": 1}
    assert report.failed == {"reset": 1}
    assert report.modality_share == {"x": 0.5, "x+y": 0.5}
    assert report.variant_share == {"big": pytest.approx(4 / 6), "small": pytest.approx(2 / 6)}
    assert report.latency_s is not None
    assert report.latency_s.p50 == pytest.approx(0.2)
    assert report.latency_s.max == pytest.approx(0.4)
    assert report.latency_s.mean == pytest.approx(0.7 / 3)


def test_its_classes_by_hand():
    report = summarise(RUN, 4.0, classes=("b", "a"))
    assert list(report.per_class) == ["b", "a"]
    b = report.per_class["b"]
    assert (b.jobs, b.items, b.answered, b.attained, b.late) == (2, 5, 1, 0, 1)
    assert b.attainment == 0
    assert b.effective_accuracy == 0
    assert b.deadline_s == pytest.approx(0.2)
    assert report.per_class["a"].effective_accuracy == pytest.approx(3 / 5)


def test_without_labels_effective_accuracy_is_expected():
    run = [msgspec.structs.replace(each, correct=None) for each in RUN]
    report = summarise(run, 4.0)
    assert report.served_accuracy is None
    assert report.effective_accuracy == pytest.approx((2 * 0.8 + 2 * 0.9) / 10)
    assert report.effective_accuracy_source == "expected"


def test_without_either_it_is_not_there():
    run = [msgspec.structs.replace(each, correct=None, expected_accuracy=None) for each in RUN]
    report = summarise(run, 4.0)
    assert (report.effective_accuracy, report.effective_accuracy_source) == (None, "none")
    assert report.mean_accuracy is None
    assert report.attained == 2


def test_an_empty_run():
    report = summarise([], 1.0)
    assert (report.jobs, report.attainment, report.goodput_rps) == (0, 1.0, 0.0)
    assert report.latency_s is None
    assert report.effective_accuracy is None
    assert timeline([], 1.0).offered == [0]


def test_nothing_answered():
    report = summarise([RUN[3], RUN[4]], 1.0)
    assert report.attainment == 0
    assert report.effective_accuracy == 0
    assert report.mean_accuracy is None


def test_an_answer_on_the_deadline_is_in_time():
    assert outcome(sent_s=0.0, done_s=0.25, deadline_s=0.25).on_time
    assert outcome(sent_s=0.0, done_s=0.2500001, deadline_s=0.25).late
    assert not outcome(status="refused", done_s=9.0).late


def test_floors_of_jobs():
    run = [
        outcome(0, accuracy_floor=0.8, expected_accuracy=0.8 - 1e-12),
        outcome(1, accuracy_floor=0.8, expected_accuracy=0.79),
        outcome(2, accuracy_floor=0.8, expected_accuracy=None),
        outcome(3, accuracy_floor=0.0, expected_accuracy=0.1),
    ]
    assert attained(run, "job") == [True, False, True, True]


def test_floors_of_classes():
    # items·(accuracy − floor): +0.2, −0.1, −0.2, and the class b: −0.1
    run = [
        outcome(0, items=2, accuracy_floor=0.8, expected_accuracy=0.9),
        outcome(1, items=1, accuracy_floor=0.8, expected_accuracy=0.7),
        outcome(2, items=2, accuracy_floor=0.8, expected_accuracy=0.7),
        outcome(3, slo_class="b", accuracy_floor=0.8, expected_accuracy=0.7),
    ]
    assert attained(run[:2], "class") == [True, True]
    assert attained(run, "class") == [True, True, False, False]
    assert attained(run, "job") == [True, False, False, False]


def test_a_late_answer_counts_in_the_mean_of_its_class_but_does_not_attain():
    late = outcome(0, accuracy_floor=0.8, expected_accuracy=1.0, done_s=9.0)
    cheap = outcome(1, accuracy_floor=0.8, expected_accuracy=0.7)
    assert attained([late, cheap], "class") == [False, True]
    assert attained([cheap], "class") == [False]


runs = st.lists(
    st.builds(
        lambda accuracy, floor, items, late: outcome(
            items=items, accuracy_floor=floor, expected_accuracy=accuracy, done_s=9.0 if late else 0.1
        ),
        st.floats(0, 1),
        st.floats(0, 1),
        st.integers(1, 5),
        st.booleans(),
    ),
    max_size=12,
)


@given(runs)
def test_scope_class_attains_at_least_as_much_as_scope_job_and_holds_the_mean(run):
    in_time = [each for each in run if each.on_time]
    by_job, by_class = attained(in_time, "job"), attained(in_time, "class")
    assert all(of_class for of_job, of_class in zip(by_job, by_class, strict=True) if of_job)
    kept = [each for each, mark in zip(run, attained(run, "class"), strict=True) if mark or not each.on_time]
    excess = sum((each.expected_accuracy - each.accuracy_floor) * each.items for each in kept)
    assert excess >= -1e-6 or not any(each.on_time for each in kept)


@given(st.lists(st.sampled_from(RUN), max_size=30), st.floats(0.1, 10))
def test_every_job_is_counted_once(run, duration_s):
    report = summarise(run, duration_s)
    assert report.jobs == report.answered + sum(report.refused.values()) + sum(report.failed.values())
    assert report.answered >= report.attained + report.late
    course = timeline(run, 1.0, 4.0)
    assert sum(course.offered) == len(run)
    assert sum(course.attained) == report.attained
    assert sum(course.refused) == sum(report.refused.values())
    assert sum(course.late) == report.late


@pytest.mark.parametrize(
    ("count", "p99"), [(1, 0.0), (100, 98.0), (101, 99.0), (1000, 989.0)]
)  # the least value that 99 % of values do not exceed
def test_quantiles_are_observed_values(count, p99):
    figures = latency_figures([float(i) for i in range(count)][::-1])
    assert figures is not None
    assert figures.p99 == p99
    assert figures.max == count - 1


def test_timeline_by_hand():
    course = timeline(RUN, 2.0, 4.0)
    assert course.start_s == [0.0, 2.0]
    assert course.offered == [2, 3]
    assert course.offered_items == [4, 6]
    assert course.attained == [2, 0]
    assert course.refused == [0, 1]
    assert course.late == [0, 1]
    assert course.failed == [0, 1]
    assert course.p99_latency_s == [pytest.approx(0.2), pytest.approx(0.4)]
    assert course.mean_accuracy == [pytest.approx(0.85), pytest.approx(0.7)]
    assert course.modality_share == {"x": [0.25, 1.0], "x+y": [0.75, 0.0]}
    assert course.per_class["b"].mean_accuracy == [None, pytest.approx(0.7)]


def test_a_bin_without_answers():
    course = timeline([outcome(sent_s=0.0), outcome(sent_s=2.5)], 1.0)
    assert course.offered == [1, 0, 1]
    assert course.p99_latency_s[1] is None


def test_a_job_sent_after_the_end_falls_in_the_last_bin():
    assert timeline([outcome(sent_s=7.0)], 1.0, 3.0).offered == [0, 0, 1]


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan")])
def test_a_duration_that_cannot_be(duration_s):
    with pytest.raises(ValueError, match="duration_s"):
        summarise([], duration_s)


def test_a_bin_that_cannot_be():
    with pytest.raises(ValueError, match="bin_s"):
        timeline([], 0.0)


def test_the_report_survives_json():
    report = summarise(RUN, 4.0, served_accuracy_interval=Interval(0.1, 0.2, 0.95))
    assert msgspec.json.decode(msgspec.json.encode(report), type=RunReport) == report


def test_the_fields_of_the_report_are_pinned():
    assert list(msgspec.json.decode(msgspec.json.encode(summarise(RUN, 4.0)))) == [
        "jobs", "items", "answered", "attained", "late", "offered_rps", "goodput_rps", "attainment",
        "mean_accuracy", "served_accuracy", "effective_accuracy", "effective_accuracy_source", "refused",
        "failed", "latency_s", "modality_share", "variant_share", "format", "duration_s", "floor_scope",
        "per_class", "served_accuracy_interval",
    ]  # fmt: skip
