"""The log: what goes in comes out, to the last bit; what is broken is named."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.domain.job import Job, RefusalReason
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.errors import ConfigError, InternalError
from poise.scheduling.commands import (
    Answer,
    AnswerPart,
    BatchPart,
    Command,
    Refuse,
    ReleaseWorker,
    RunBatch,
    WakeAt,
)
from poise.scheduling.events import (
    AllocationAdopted,
    BatchDone,
    BatchFailed,
    DrainStarted,
    Event,
    JobArrived,
    JobCancelled,
    Woke,
    WorkerLost,
    WorkerReady,
    WorkerRetiring,
)
from poise.scheduling.log import LogHeader, decode_log, encode_entry, encode_header

SERVICE = {
    "format": 1,
    "service": "tiny",
    "modalities": {"a": {"inputs": {"x": {"datatype": "FP32", "shape": [1]}}}},
    "outputs": {"y": {"datatype": "FP32", "shape": [1]}},
    "variants": {"v": {"runtime": "emulated"}},
    "classes": {"default": {"latency_slo_ms": 0.1 + 0.2}},
}
PROFILE = {
    "format": 1,
    "service": "tiny",
    "variants": [
        {
            "name": "v",
            "modes": [{"modalities": ["a"], "accuracy": 1 / 3}],
            "stages": [
                {"name": "all", "modality_sets": [["a"]], "latency": [{"batch": 1, "mean_s": math.pi / 1000}]}
            ],
        }
    ],
}
HEADER = LogHeader(
    poise="0.1",
    service=msgspec.convert(SERVICE, Service),
    profile=msgspec.convert(PROFILE, Profile),
    policy="edf",
)

numbers = st.floats(allow_nan=False, allow_infinity=False)
ids = st.integers(0, 2**53)
texts = st.text(max_size=20)
masks = st.integers(1, 255)
jobs = st.builds(
    Job,
    id=ids,
    slo_class=texts,
    items=ids,
    arrival_s=numbers,
    deadline_s=numbers,
    accuracy_floor=numbers,
    available=masks,
    priority=st.integers(-5, 5),
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(JobArrived, now_s=numbers, job=jobs),
    st.builds(JobCancelled, now_s=numbers, job_id=ids),
    st.builds(
        BatchDone,
        now_s=numbers,
        batch_id=ids,
        worker_id=ids,
        run_s=numbers,
        stage_s=st.lists(st.tuples(texts, numbers), max_size=3).map(tuple),
    ),
    st.builds(BatchFailed, now_s=numbers, batch_id=ids, worker_id=ids, message=texts | st.just("null")),
    st.builds(
        WorkerReady,
        now_s=numbers,
        worker_id=ids,
        variants=st.lists(texts, max_size=3).map(tuple),
        batch_cap_s=st.none() | numbers,
    ),
    st.builds(WorkerRetiring, now_s=numbers, worker_id=ids),
    st.builds(WorkerLost, now_s=numbers, worker_id=ids),
    st.builds(
        AllocationAdopted,
        now_s=numbers,
        shares=st.dictionaries(texts, st.dictionaries(texts, numbers, max_size=3), max_size=2),
    ),
    st.builds(DrainStarted, now_s=numbers),
    st.builds(Woke, now_s=numbers),
)
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        RunBatch,
        batch_id=ids,
        worker_id=ids,
        variant=texts,
        parts=st.lists(st.builds(BatchPart, ids, ids, ids, masks), max_size=3).map(tuple),
        expected_s=numbers,
    ),
    st.builds(
        Answer,
        job_id=ids,
        parts=st.lists(st.builds(AnswerPart, ids, ids, masks, texts), max_size=3).map(tuple),
        accuracy=numbers,
        queue_s=numbers,
        compute_s=numbers,
        late=st.booleans(),
        below_floor=st.booleans(),
    ),
    st.builds(Refuse, job_id=ids, reason=st.sampled_from(RefusalReason), detail=texts),
    st.builds(WakeAt, at_s=numbers),
    st.builds(ReleaseWorker, worker_id=ids),
)


def log(*entries: tuple[Event, list[Command]]) -> list[bytes]:
    return [encode_header(HEADER), *(encode_entry(event, made) for event, made in entries)]


def test_the_header_comes_back():
    header, entries = decode_log(log())
    assert header == HEADER
    assert list(entries) == []


@given(st.lists(st.tuples(events, st.lists(commands, max_size=3)), max_size=5))
def test_entries_come_back_to_the_last_bit(written):
    lines = log(*written)
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    _, entries = decode_log(lines)
    read = list(entries)
    assert read == written
    assert repr(read) == repr(written)  # 0.0 equals -0.0, but does not read like it
    assert entries.truncated_line is None


@given(st.integers(0, 10_000))
def test_a_last_line_cut_short_ends_the_log_and_is_reported(cut):
    whole = encode_entry(Woke(0.1), [WakeAt(0.3)])
    cut = cut % (len(whole) - 1)
    lines = [*log((Woke(0.0), [])), *([whole[:cut]] if cut else [])]
    _, entries = decode_log(lines)
    read = list(entries)
    assert read == [(Woke(0.0), [])]
    assert entries.truncated_line == (3 if cut else None)


def test_a_last_line_without_its_newline_still_counts():
    lines = log((Woke(0.0), []))
    lines[-1] = lines[-1].rstrip(b"\n")
    _, entries = decode_log(lines)
    assert list(entries) == [(Woke(0.0), [])]
    assert entries.truncated_line is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"{\n",
        b"\xff\xfe\n",
        b'{"event": {"type": "Woke", "now_s": 1.0}}\n',
        b'{"event": {"type": "Slept", "now_s": 1.0}, "commands": []}\n',
        b'{"event": {"type": "Woke", "now_s": "1"}, "commands": []}\n',
        b'{"event": {"type": "Woke", "now_s": 1.0, "more": 1}, "commands": []}\n',
        b'{"event": {"type": "Woke", "now_s": 1.0}, "commands": [], "more": 1}\n',
        b'{"event": {"type": "Woke", "now_s": 1.0}, "commands": [{"type": "Woke", "now_s": 1.0}]}\n',
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_garbage_is_named_by_its_line(garbage, last):
    lines = [*log((Woke(0.0), [])), garbage, *([] if last else log((Woke(1.0), []))[1:])]
    _, entries = decode_log(lines, "night.jsonl")
    with pytest.raises(ConfigError, match=r"^night\.jsonl:3: not an entry of a log: ") as caught:
        list(entries)
    assert caught.value.line == 3


def test_a_cut_line_in_the_middle_is_garbage():
    lines = [encode_header(HEADER), encode_entry(Woke(0.0), [])[:-5], encode_entry(Woke(1.0), [])]
    with pytest.raises(ConfigError, match=":2: "):
        list(decode_log(lines)[1])


def test_a_last_line_that_is_whole_but_wrong_is_garbage_even_without_its_newline():
    lines = [encode_header(HEADER), b'{"event": {"type": "Slept", "now_s": 1.0}, "commands": []}']
    with pytest.raises(ConfigError, match=":2: "):
        list(decode_log(lines)[1])


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"{}\n",
        encode_header(HEADER)[:-20],
        encode_header(HEADER).replace(b'"format":1', b'"format":2', 1),
        encode_entry(Woke(0.0), []),
    ],
)
def test_a_broken_header_is_named(first):
    with pytest.raises(ConfigError, match=":1: not a header of a log: "):
        decode_log([first])


def test_an_empty_log_is_named():
    with pytest.raises(ConfigError, match="empty log, expected a header"):
        decode_log([])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_json_cannot_say_is_refused_when_it_is_written(value):
    with pytest.raises(InternalError, match="cannot be recorded"):
        encode_entry(Woke(1.0), [WakeAt(value)])
