"""The tree of spans, whatever the times: a record may come from a job that was split, retried, refused or dropped."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from poise.domain.job import Job
from poise.telemetry.spans import Span, spans_of
from poise.telemetry.tracing import BatchRecord, RequestRecord, TraceContext

times = st.floats(0, 10)
stages = st.lists(st.tuples(st.sampled_from(("a", "b", "head")), st.floats(0, 3)), max_size=4).map(tuple)


def job(arrival_s: float) -> Job:
    return Job(
        id=1,
        slo_class="default",
        items=4,
        arrival_s=arrival_s,
        deadline_s=arrival_s + 1,
        accuracy_floor=0.5,
        available=1,
    )


def batch(number: int, sent_s: float, back_s: float, stage_s=(), failure: str = "") -> BatchRecord:
    return BatchRecord(number, 3, "small", ("a+b",), 2, 8, sent_s, back_s, stage_s, failure)


@st.composite
def records(draw) -> RequestRecord:
    """Records as they can be: begun, arrived, batches one within the other or one after another, ended."""
    begun_s, arrival_s, *between, ended_s = sorted(draw(st.lists(times, min_size=3, max_size=9)))
    pairs = draw(st.permutations(between))
    batches = tuple(
        batch(number, min(pair), max(pair), draw(stages), draw(st.sampled_from(("", "lost"))))
        for number, pair in enumerate(zip(pairs[::2], pairs[1::2], strict=False))
    )
    return RequestRecord(
        name="infer",
        context=TraceContext(1, 2),
        begun_s=begun_s,
        ended_s=ended_s,
        job=job(arrival_s) if draw(st.booleans()) else None,
        batches=batches,
        attributes={},
    )


def everything(span: Span, depth: int = 0):
    yield depth, span
    for child in span.children:
        yield from everything(child, depth + 1)


@given(records())
def test_children_lie_within_their_parents_and_follow_one_another(record):
    root = spans_of(record)
    assert (root.begin_s, root.end_s) == (record.begun_s, record.ended_s)
    for depth, span in everything(root):
        assert span.begin_s <= span.end_s
        assert depth <= 2
        for child in span.children:
            assert span.begin_s - 1e-9 <= child.begin_s <= child.end_s <= span.end_s + 1e-9
        if span.name == "batch":
            assert {child.name for child in span.children} <= {"stage"}
            assert all(one.end_s <= two.begin_s for one, two in pairwise(span.children))
    names = [span.name for span in root.children]
    if record.job is None:
        assert names == ["receive"]
    else:
        assert names == [
            "receive",
            "queue",
            *["batch"] * len(record.batches),
            *["answer"] * bool(record.batches),
        ]
        receive, queue = root.children[:2]
        assert receive.end_s == queue.begin_s
        if record.batches:
            assert root.children[-1].end_s == record.ended_s


def test_the_parts_of_a_request_by_an_example():
    record = RequestRecord(
        name="infer",
        context=TraceContext(1),
        begun_s=1.0,
        ended_s=2.0,
        job=job(1.125),
        batches=(
            batch(8, 1.5, 1.75, (("a", 0.0625), ("head", 0.125))),
            batch(7, 1.25, 1.375, failure="the worker was lost"),
        ),
        attributes={"x": 1},
    )
    root = spans_of(record)
    assert [(span.name, span.begin_s, span.end_s, span.failure) for span in root.children] == [
        ("receive", 1.0, 1.125, ""),
        ("queue", 1.125, 1.25, ""),
        ("batch", 1.25, 1.375, "the worker was lost"),
        ("batch", 1.5, 1.75, ""),
        ("answer", 1.75, 2.0, ""),
    ]
    assert [(s.begin_s, s.end_s, s.attributes["poise.stage"]) for s in root.children[3].children] == [
        (1.53125, 1.59375, "a"),
        (1.59375, 1.71875, "head"),
    ]


def test_stages_longer_than_their_batch_are_left_out():
    record = RequestRecord(
        name="infer",
        context=TraceContext(1),
        begun_s=0.0,
        ended_s=1.0,
        job=job(0.0),
        batches=(batch(1, 0.25, 0.5, (("a", 0.5),)),),
        attributes={},
    )
    assert spans_of(record).children[2].children == ()
