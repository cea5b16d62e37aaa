"""Buckets in the service file and in the profile: a length finds the shortest that holds it, or none."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.domain.decoding import decode_json
from poise.domain.profile import LatencyPoint, StageProfile, latency_table, points_at
from poise.domain.service import MAX_BUCKETS, Modality, Service, TensorSpec, Variant

BUCKETS = st.lists(st.integers(1, 500), min_size=1, max_size=8, unique=True).map(lambda b: tuple(sorted(b)))


@given(BUCKETS, st.integers(1, 600))
def test_a_length_takes_the_shortest_bucket_that_holds_it(buckets, length):
    spec = TensorSpec(datatype="FP32", shape=(2, -1), buckets=buckets)
    assert spec.free_axis == 1
    fitting = [bucket for bucket in buckets if bucket >= length]
    if fitting:
        assert spec.shape_at(spec.rung_of(length)) == (2, fitting[0])
    else:
        with pytest.raises(ValueError, match=f"got length {length}, expected at most one of buckets"):
            spec.rung_of(length)
    assert spec.shape_at() == spec.shape_at(len(buckets)) == (2, buckets[-1])


def test_a_fixed_shape_is_the_same_on_every_rung():
    spec = TensorSpec(datatype="FP32", shape=(2, 3))
    assert spec.free_axis is None
    assert spec.shape_at() == spec.shape_at(0) == spec.shape_at(7) == (2, 3)


def service(**modalities: dict[str, TensorSpec]) -> Service:
    return Service(
        format=1,
        service="s",
        modalities={name: Modality(inputs=inputs) for name, inputs in modalities.items()},
        outputs={"logits": TensorSpec(datatype="FP32", shape=(2,))},
        variants={"paper": Variant(runtime="emulated")},
    )


def test_a_stage_has_the_buckets_of_the_first_of_its_inputs_with_most():
    def free(*buckets: int) -> TensorSpec:
        return TensorSpec(datatype="FP32", shape=(-1,), buckets=buckets)

    fixed = TensorSpec(datatype="FP32", shape=(3,))
    made = service(
        text={"ids": free(8, 16), "types": free(9, 18)}, clip={"pixels": free(1, 2, 4)}, age={"years": fixed}
    )
    assert made.buckets_of(["text"]) == (8, 16)
    assert made.buckets_of(["text", "clip"]) == made.buckets_of(["clip"]) == (1, 2, 4)
    assert made.buckets_of(["age"]) == made.buckets_of([]) == ()
    assert list(made.inputs_of(["clip", "text"])) == ["pixels", "ids", "types"]


def test_names_and_numbers_that_are_not_taken():
    with pytest.raises(ValueError, match="expected at most 32"):
        TensorSpec(datatype="FP32", shape=(-1,), buckets=tuple(range(1, MAX_BUCKETS + 2)))
    with pytest.raises(ValueError, match="expected a name that does not begin with 'poise:'"):
        service(text={"poise:length:ids": TensorSpec(datatype="FP32", shape=(2,))})


CURVES = tuple(
    LatencyPoint(bucket=bucket, batch=batch, mean_s=float(bucket * batch))
    for bucket in (16, 4, 8)
    for batch in (1, 3)
)


@pytest.mark.parametrize(
    ("bucket", "table"),
    [
        (None, (0, 16, 32, 48)),
        (16, (0, 16, 32, 48)),
        (9, (0, 16, 32, 48)),
        (8, (0, 8, 16, 24)),
        (1, (0, 4, 8, 12)),
    ],
)
def test_each_bucket_has_its_curve_and_the_longest_is_the_default(bucket, table):
    assert latency_table(CURVES, "mean", threads=1, bucket=bucket) == table


def test_a_length_beyond_what_was_measured_has_no_latency():
    with pytest.raises(ValueError, match="no latency measured at length 17: the longest bucket is 16"):
        latency_table(CURVES, "mean", threads=1, bucket=17)


def test_points_without_buckets_hold_for_any_length():
    plain = (LatencyPoint(batch=1, mean_s=2.0),)
    assert points_at(plain, 99) == plain
    assert latency_table(plain, "mean", threads=1, bucket=99) == (0.0, 2.0)


def test_buckets_are_looked_up_where_they_were_measured():
    mixed = (*CURVES, LatencyPoint(bucket=4, batch=1, mean_s=1.0, threads=2))
    assert latency_table(mixed, "mean", threads=2) == (0.0, 1.0)
    with pytest.raises(ValueError, match="the longest bucket is 4"):
        latency_table(mixed, "mean", threads=2, bucket=8)


def stage(*points: LatencyPoint) -> StageProfile:
    return StageProfile(name="speech", modality_sets=(("speech",),), latency=points)


def test_a_stage_is_measured_at_buckets_or_without():
    assert stage(*CURVES).buckets == (4, 8, 16)
    assert stage(LatencyPoint(batch=1, mean_s=1.0)).buckets == ()
    with pytest.raises(
        ValueError, match="some points of latency have a bucket, expected all of them or none"
    ):
        stage(*CURVES, LatencyPoint(batch=1, mean_s=1.0))
    with pytest.raises(ValueError, match=r"\(device, threads, busy_cores, bucket, batch\) stands twice"):
        stage(*CURVES, CURVES[0])
    with pytest.raises(ValueError, match="bucket"):
        LatencyPoint(bucket=0, batch=1, mean_s=1.0)


def test_a_point_without_a_bucket_reads_and_writes_as_before():
    text = b'{"batch":2,"mean_s":0.5}'
    point = decode_json(text, LatencyPoint, "profile.json")
    assert point.bucket is None
    assert json.loads(msgspec.json.encode(point)) == json.loads(text)
    assert b'"bucket":4' in msgspec.json.encode(CURVES[2])
