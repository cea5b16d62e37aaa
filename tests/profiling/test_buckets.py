"""A stage with a free length is measured at each of its buckets, and accuracy at the bucket that a server would use."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.runtimes.lengths import BUCKETS, copy_lengths

from poise.domain.profile import WAY_STAGE, latency_table
from poise.errors import ConfigError
from poise.files import ServiceFolder, load_labelled
from poise.profiling import measure_profile, write_profile
from poise.profiling.accuracy import measure_accuracy
from poise.profiling.latency import sample_inputs, stage_calls, stage_points
from poise.runtimes import open_staged

INDEPENDENT = {"speech": 40, "word": 40}


@pytest.fixture
def folder(tmp_path) -> ServiceFolder:
    return copy_lengths(tmp_path / "lengths")


@pytest.mark.parametrize("file", ["service.yaml", "python.yaml"])
def test_a_whole_profile_has_a_curve_for_each_bucket(tmp_path, file):
    folder = copy_lengths(tmp_path / "lengths", file)
    profile = measure_profile(folder, budget_s=0.0, threads=(1,))
    write_profile(profile, folder.root / "profile.json")
    assert folder.load_profile() == profile
    bucketed = {("late", "speech"), ("whole", "speech"), ("whole", "speech+word")}
    for variant in profile.variants:
        for stage in variant.stages:
            measured = [(point.bucket, point.batch) for point in stage.latency if point.busy_cores == 1]
            buckets = BUCKETS if (variant.name, stage.name) in bucketed else (None,)
            assert measured == [(bucket, batch) for bucket in buckets for batch in (1, 2, 4, 8)]
            for bucket in buckets:
                assert len(latency_table(stage.latency, "p95", threads=1, bucket=bucket)) == 9
        assert variant.stages[-1].name == WAY_STAGE
        assert variant.memory_bytes >= 0
        assert variant.load_time_s > 0
    runtime = "onnxruntime " if file == "service.yaml" else "python 3."
    assert profile.device.runtime.startswith(runtime)


class Noting:
    """Notes what it is asked to run, and runs nothing."""

    stage_names = ("speech", "word", "head")

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def stage_call(self, stage, inputs, rows):
        self.asked.append((stage, inputs["frames"].shape[1], len(rows)))
        return lambda: None

    def run(self, inputs, rows, masks):
        raise AssertionError

    def answer_sets(self, inputs, rows, masks):
        raise AssertionError


def test_what_is_timed_is_as_long_as_its_point_says(folder):
    noting = Noting()
    points = stage_points(folder.service, ["late"])
    stage_calls(folder.service, {"late": noting}, None, points)
    assert [(p.stage, p.bucket or 16, p.batch) for p in points] == noting.asked
    assert len(points) == (3 + 1 + 1) * 4


def test_inputs_to_time_with_are_cut_and_padded(folder):
    items = load_labelled(folder.resolve("validation.npz", "validation"), folder.service)
    for source in (items, None):
        for rung, bucket in enumerate(BUCKETS):
            inputs = sample_inputs(folder.service, source, 60, rung)
            assert inputs["frames"].shape == (60, bucket, 2)
            assert inputs["letters"].shape == (60, 3)
            if source is not None:
                kept = min(7, bucket)
                np.testing.assert_array_equal(inputs["frames"][:40, :kept], items.inputs["frames"][:, :kept])
                assert not inputs["frames"][:, kept:].any()
    rungs = {point.rung: point.bucket for point in stage_points(folder.service, ["late"])}
    assert rungs == {0: 4, 1: 8, 2: 16, None: None}
    assert sample_inputs(folder.service, None, 2)["frames"].shape == (2, 16, 2)


@pytest.mark.parametrize("variant", ["late", "whole"])
def test_accuracy_is_that_of_the_items_padded_to_their_bucket(folder, variant):
    items = load_labelled(folder.resolve("validation.npz", "validation"), folder.service)
    seen: list[np.ndarray] = []

    def metric(outputs, labels, where):
        seen.append(outputs["padded"] if "speech" in where.split("mode ")[1] else outputs["padded"] + 8)
        return (outputs["logits"].argmax(axis=1) == labels).astype(np.float64)

    runner = open_staged(folder.service, variant, folder.resolve)
    modes = measure_accuracy(folder.service, variant, runner, items, metric, independent=INDEPENDENT)
    assert {float(length) for part in seen for length in part[:, 0]} == {8.0}
    best = {mode.label: mode.accuracy for mode in modes}["speech+word"]
    assert best == max(mode.accuracy for mode in modes)
    assert 0.8 < best < 1


def test_validation_items_longer_than_every_bucket_are_the_operator_s_error(folder):
    with np.load(folder.root / "validation.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["frames"] = np.zeros((40, 17, 2), np.float32)
    np.savez(folder.root / "validation.npz", **arrays)
    with pytest.raises(
        ConfigError, match=r"frames: array 'frames' has items of length 17, expected at most 16"
    ):
        measure_profile(folder, budget_s=0.0)


def test_the_accuracy_of_the_operator_s_code_is_measured_again(tmp_path):
    """Whatever files it reads may have changed, so its hash is no proof."""
    folder = copy_lengths(tmp_path / "lengths", "python.yaml")
    known = msgspec.structs.replace(folder.load_profile(), files=folder.file_hashes())
    profile = measure_profile(folder, budget_s=0.0, known=known)
    assert profile.variant("late").modes != known.variant("late").modes
    measured = {mode.label: mode.accuracy for mode in profile.variant("late").modes}
    assert measured["speech+word"] > measured["word"]
