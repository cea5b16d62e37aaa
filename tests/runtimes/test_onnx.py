"""The onnx runtime answers as numpy does, whatever the rows and the modality sets of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.runtimes.conftest import with_variant

from poise.errors import InternalError, WorkerError
from poise.runtimes import open_staged, open_variant

SETS = {"late": (1, 2, 3, 4, 5, 6, 7), "whole": (2, 3, 7)}
IMAGE, SOUND, WORD = 1, 2, 4


@pytest.fixture(scope="module")
def runners(tiny):
    return {name: open_variant(tiny.service, name, tiny.resolve) for name in SETS}


@pytest.mark.parametrize("variant", SETS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_item_gets_the_answer_of_its_own_modality_set(runners, arena, logits, variant, data):
    batch = data.draw(st.lists(st.tuples(st.integers(0, 119), st.sampled_from(SETS[variant])), min_size=1))
    rows = np.array([row for row, _ in batch])
    masks = np.array([mask for _, mask in batch], np.uint8)
    outputs, _ = runners[variant].run(arena, rows, masks)
    expected = logits(arena, rows, masks)
    assert outputs.keys() == {"logits", "score"}
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)
    np.testing.assert_allclose(outputs["score"], expected.max(axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("variant", SETS)
def test_the_answer_for_several_sets_is_that_for_each(runners, arena, logits, variant):
    rows = np.array([4, 8, 15])
    answers = runners[variant].answer_sets(arena, rows, SETS[variant])
    for mask, outputs in zip(SETS[variant], answers, strict=True):
        expected = logits(arena, rows, np.full(3, mask))
        np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)


def test_each_encoder_runs_once_and_in_file_order(runners, arena):
    _, measured = runners["late"].run(arena, np.arange(4), np.array([IMAGE, SOUND, IMAGE | SOUND, SOUND]))
    assert [name for name, _ in measured] == ["image", "sound", "head"]
    assert all(seconds > 0 for _, seconds in measured)


def test_each_graph_runs_once_for_its_set(runners, arena):
    _, measured = runners["whole"].run(arena, np.arange(4), np.array([7, SOUND, 7, SOUND]))
    assert sorted(name for name, _ in measured) == ["image+sound+word", "sound"]


@pytest.mark.parametrize("variant", SETS)
def test_an_encoder_sees_only_the_items_that_use_it(runners, arena, variant):
    mixed = np.array([SOUND, IMAGE | SOUND, 7]) if variant == "whole" else np.array([IMAGE, WORD, SOUND])
    absent = {
        "wave": np.flatnonzero(mixed & SOUND == 0),
        "length": np.flatnonzero(mixed & WORD == 0),
    }
    poisoned = {name: array.copy() for name, array in arena.items()}
    for name, rows in absent.items():
        poisoned[name][rows] = np.nan
    outputs, _ = runners[variant].run(poisoned, np.arange(3), mixed)
    assert np.isfinite(outputs["logits"]).all()


def test_the_head_leaves_out_what_a_mask_leaves_out(runners, arena, logits):
    rows, masks = np.array([3, 1]), np.array([SOUND, IMAGE | SOUND])
    embeddings = {name: runners["late"].encode(name, arena, rows) for name in ("image", "sound")}
    before = embeddings["image"].copy()
    outputs = runners["late"].head(embeddings, masks)
    np.testing.assert_allclose(outputs["logits"], logits(arena, rows, masks), atol=1e-4)
    np.testing.assert_array_equal(embeddings["image"], before)


def test_inputs_need_not_be_contiguous(runners, arena, logits):
    strided = {name: np.repeat(array, 2, axis=0)[::2] for name, array in arena.items()}
    strided["wave"] = np.asfortranarray(arena["wave"])
    rows, masks = np.arange(5, 9), np.full(4, 7)
    outputs, _ = runners["late"].run(strided, rows, masks)
    np.testing.assert_allclose(outputs["logits"], logits(arena, rows, masks), atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "stages"),
    [
        ("late", ("image", "sound", "word", "head")),
        ("whole", ("sound", "image+sound", "image+sound+word")),
    ],
)
def test_stages_can_be_run_alone(runners, arena, variant, stages):
    assert runners[variant].stage_names == stages
    for stage in stages:
        runners[variant].stage_call(stage, arena, np.arange(3))()


@pytest.mark.parametrize(("variant", "mask"), [("whole", IMAGE), ("late", 0), ("whole", 0)])
def test_a_mask_without_an_answer_is_our_fault(runners, arena, variant, mask):
    with pytest.raises(InternalError, match=variant):
        runners[variant].run(arena, np.arange(2), np.array([7, mask]))


def test_a_model_that_fails_says_which_and_harms_no_later_batch(tiny, arena):
    encoders = tiny.service.variants["late"].encoders | {"sound": "odd/failing.onnx"}
    service = with_variant(tiny.service, encoders=encoders)
    runner = open_staged(service, "late", tiny.resolve)
    bad = dict(arena) | {"wave": np.full((120, 4), 9, np.float32)}
    with pytest.raises(WorkerError, match=r"variant 'late', stage 'sound': .*Gather"):
        runner.run(bad, np.arange(2), np.array([SOUND, SOUND]))
    good = dict(arena) | {"wave": np.zeros((120, 4), np.float32)}
    outputs, _ = runner.run(good, np.arange(2), np.array([SOUND, SOUND]))
    assert np.isfinite(outputs["logits"]).all()


def test_several_threads_answer_alike(tiny, arena, logits):
    runner = open_variant(tiny.service, "late", tiny.resolve, threads=2)
    rows, masks = np.arange(8), np.full(8, 7)
    outputs, _ = runner.run(arena, rows, masks)
    np.testing.assert_allclose(outputs["logits"], logits(arena, rows, masks), atol=1e-4)
