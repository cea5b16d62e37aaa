from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.domain.modalities import ModalityIndex
from poise.domain.workload import Arrivals, Deadline, Floor, Items, Workload
from poise.errors import ConfigError
from poise.workload import JobDraw, draw_jobs, planned_duration_s, streams
from poise.workload.jobs import draw_items

INDEX = ModalityIndex(["clip", "speech", "word"])
CLASSES = ("interactive", "bulk")
BASE = Workload(
    format=1,
    arrivals=Arrivals(process="poisson", rate_rps=200, duration_s=20),
    classes={"interactive": 0.7, "bulk": 0.3},
    items=Items(dist="normal", mean=1, sd=6),
    floor=Floor(uniform=(0.6, 0.743), per="job"),
    missing={"speech": 0.1, "word": 0.5},
)


def draw(workload: Workload = BASE, **kwargs: Any) -> list[JobDraw]:
    return draw_jobs(workload, classes=CLASSES, index=INDEX, **kwargs)


def changed(**fields: Any) -> Workload:
    return msgspec.structs.replace(BASE, **fields)


def column(jobs: Sequence[JobDraw], name: str) -> list[Any]:
    return [getattr(job, name) for job in jobs]


def test_the_same_seed_draws_the_same_jobs():
    assert draw() == draw()
    assert draw() != draw(changed(seed=2))


def test_jobs_are_numbered_in_order_of_arrival():
    jobs = draw()
    assert column(jobs, "number") == list(range(len(jobs)))
    assert column(jobs, "arrival_s") == sorted(column(jobs, "arrival_s"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"classes": {"bulk": 1.0}}, "slo_class"),
        ({"items": Items(mean=3)}, "items"),
        ({"floor": None}, "accuracy_floor"),
        ({"missing": {"clip": 0.5}}, "available"),
        ({"deadline": Deadline(fixed_ms=80)}, "deadline_s"),
    ],
)
def test_changing_one_source_leaves_the_others(change, field):
    before, after = draw(), draw(changed(**change))
    for name in ("arrival_s", "slo_class", "items", "deadline_s", "accuracy_floor", "available"):
        assert (column(before, name) == column(after, name)) == (name != field)


def test_changing_arrivals_leaves_what_each_job_is():
    before = draw()
    after = draw(changed(arrivals=Arrivals(process="even", rate_rps=150, duration_s=20)))
    assert len(after) < len(before)
    for name in ("slo_class", "items", "accuracy_floor", "available"):
        assert column(after, name) == column(before, name)[: len(after)]


def test_shares_of_classes_and_of_missing_modalities():
    jobs = draw(changed(arrivals=Arrivals(process="even", rate_rps=1000, duration_s=20)))
    count = len(jobs)
    of_class = Counter(column(jobs, "slo_class"))
    assert of_class["interactive"] / count == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / count))
    masks = np.array(column(jobs, "available"))
    for name, share in (("clip", 0.0), ("speech", 0.1), ("word", 0.5)):
        gone = (masks & INDEX.mask([name]) == 0).mean()
        assert gone == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / count))


@given(st.dictionaries(st.sampled_from(INDEX.names), st.floats(0, 0.99)), st.integers(0, 1000))
def test_a_job_never_lacks_every_modality(missing, seed):
    workload = Workload(
        format=1,
        arrivals=Arrivals(process="even", rate_rps=100, duration_s=1),
        missing=missing,
        seed=seed,
    )
    assert all(0 < job.available <= INDEX.all for job in draw(workload))


def test_of_a_job_that_would_lack_all_each_modality_is_kept_alike():
    index = ModalityIndex(["a", "b"])
    workload = changed(
        missing={"a": 1.0, "b": 0.999999}, arrivals=Arrivals(process="even", rate_rps=1000, duration_s=4)
    )
    masks = Counter(job.available for job in draw_jobs(workload, classes=CLASSES, index=index))
    assert set(masks) <= {1, 2}
    assert masks[1] / 4000 == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / 4000))


def test_without_classes_every_job_is_of_the_default():
    assert set(column(draw(changed(classes={})), "slo_class")) == {"interactive"}


def test_a_class_of_share_zero_gets_no_job():
    assert set(column(draw(changed(classes={"bulk": 0.0, "interactive": 1.0})), "slo_class")) == {
        "interactive"
    }


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (Items(), {1}),
        (Items(mean=5), {5}),
        (Items(mean=50), {32}),
        (Items(dist="uniform", min=2, max=4), {2, 3, 4}),
    ],
)
def test_items(items, expected):
    assert set(draw_items(items, 200, np.random.default_rng(1)).tolist()) == expected


@given(
    st.sampled_from(["constant", "normal", "uniform", "geometric"]),
    st.floats(1, 60),
    st.floats(0, 30),
    st.integers(1, 8),
    st.integers(0, 40),
)
def test_items_stay_in_range(dist, mean, sd, least, more):
    items = Items(dist=dist, mean=mean, sd=sd, min=least, max=least + more)
    drawn = draw_items(items, 50, np.random.default_rng(1))
    assert ((drawn >= items.min) & (drawn <= items.max)).all()


def test_normal_items_are_cut_as_mosel_cuts_them():
    drawn = draw_items(Items(dist="normal", mean=1, sd=6, max=1000), 1000, np.random.default_rng(5))
    raw = np.random.default_rng(5).normal(1, 6, 1000)
    assert drawn.tolist() == [max(1, int(value)) for value in raw]


def test_geometric_mean():
    drawn = draw_items(Items(dist="geometric", mean=4, max=10_000), 20_000, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(4, abs=5 * np.sqrt(12 / 20_000))


def test_floors_per_run_and_per_job():
    once = column(draw(changed(floor=Floor(uniform=(0.6, 0.743)))), "accuracy_floor")
    assert len(set(once)) == 1
    assert 0.6 <= once[0] <= 0.743
    each = column(draw(), "accuracy_floor")
    assert len(set(each)) == len(each)
    assert all(0.6 <= floor <= 0.743 for floor in each)


def test_deadlines():
    assert set(column(draw(), "deadline_s")) == {None}
    assert set(column(draw(changed(deadline=Deadline(fixed_ms=80))), "deadline_s")) == {0.08}
    jobs = draw(changed(deadline=Deadline(slack_ms=55)), best_latency_s=lambda items: 0.001 * items)
    assert all(job.deadline_s == pytest.approx(0.055 + 0.001 * job.items) for job in jobs)


def test_a_deadline_by_slack_needs_latencies():
    with pytest.raises(ConfigError, match="slack_ms"):
        draw(changed(deadline=Deadline(slack_ms=55)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": {"gold": 1.0}}, "classes.gold"),
        ({"missing": {"smell": 0.1}}, "missing.smell"),
        ({"missing": {"clip": 1.0, "speech": 1.0, "word": 1.0}}, "always missing"),
    ],
)
def test_what_the_service_does_not_have(change, words):
    with pytest.raises(ConfigError, match=words):
        draw(changed(**change))


def test_streams_are_apart():
    first = [generator.random() for generator in msgspec.structs.astuple(streams(1))]
    assert len(set(first)) == len(first)
    assert first == [generator.random() for generator in msgspec.structs.astuple(streams(1))]


def test_planned_duration():
    assert planned_duration_s(BASE) == 20
    assert planned_duration_s(changed(arrivals=Arrivals(process="even", rate_rps=1))) == 60
    trace = changed(arrivals=Arrivals(trace="t", from_s=1))
    assert planned_duration_s(trace, "1\n2\n3\n") == 2
    with pytest.raises(ConfigError, match="nothing"):
        planned_duration_s(trace, "1\n")
