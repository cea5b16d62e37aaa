"""A stage runs at the shortest bucket that holds its items, and never shorter; the answer does not change by it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtimes.lengths import (
    BUCKETS,
    LENGTHS,
    SPEECH,
    WORD,
    arena_of,
    bucket_of,
    copy_lengths,
    logits_of,
)

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.domain.service import TensorSpec, Variant, length_key
from poise.errors import ConfigError, InternalError, WorkerError
from poise.files import open_service
from poise.runtimes import open_staged, open_variant
from poise.runtimes.feed import StageFeed
from poise.runtimes.tensors import padded

SETS = {"late": (1, 2, 3), "whole": (1, 3)}


@pytest.fixture(scope="module", params=["service.yaml", "python.yaml"])
def folder(request, tmp_path_factory):
    return copy_lengths(tmp_path_factory.mktemp("lengths") / "lengths", request.param)


@pytest.fixture(scope="module")
def runners(folder):
    return {name: open_variant(folder.service, name, folder.resolve) for name in SETS}


@pytest.mark.parametrize("variant", SETS)
@given(data=st.data())
def test_every_stage_runs_at_the_bucket_of_its_longest_item(runners, variant, data):
    item = st.tuples(st.integers(1, 16), st.sampled_from(SETS[variant]))
    items = data.draw(st.lists(item, min_size=1, max_size=8))
    arena = arena_of([length for length, _ in items])
    rows = np.array(data.draw(st.permutations(range(len(items)))))
    masks = np.array([items[row][1] for row in rows], np.uint8)
    outputs, _ = runners[variant].run(arena, rows, masks)
    np.testing.assert_allclose(outputs["logits"], logits_of(arena, rows, masks), atol=1e-4)

    def longest(same_stage) -> int:
        return bucket_of([length for length, mask in items if mask & SPEECH and same_stage(mask)])

    for mask, padded_to in zip(masks.tolist(), outputs["padded"][:, 0].tolist(), strict=True):
        if not mask & SPEECH:
            assert padded_to == 0
        elif variant == "late":  # one encoder for all items with speech
            assert padded_to == longest(lambda _: True)
        else:  # a graph for each modality set
            assert padded_to == longest(lambda other, mask=mask: other == mask)


@pytest.mark.parametrize("length", [1, 4, 5, 16])
def test_items_without_lengths_are_as_long_as_the_array(runners, length):
    arena = arena_of([16, 16])
    arena = {"frames": arena["frames"][:, :length], "letters": arena["letters"]}
    outputs, _ = runners["late"].run(arena, np.arange(2), np.array([3, 1]))
    assert outputs["padded"].tolist() == [[length], [length]]


def test_all_sets_at_once_run_at_the_bucket_too(runners):
    arena = padded(
        {"frames": np.ones((3, 5, 2), np.float32), "letters": np.ones((3, 3), np.float32)},
        {
            "frames": TensorSpec(datatype="FP32", shape=(-1, 2), buckets=BUCKETS),
            "letters": TensorSpec(datatype="FP32", shape=(3,)),
        },
    )
    assert arena["frames"].shape == (3, 16, 2)
    assert arena["frames"].sum() == 3 * 5 * 2
    for variant, sets in SETS.items():
        for mask, outputs in zip(sets, runners[variant].answer_sets(arena, np.arange(3), sets), strict=True):
            assert set(outputs["padded"][:, 0].tolist()) == {8.0 if mask & SPEECH else 0.0}


def test_what_is_longer_than_every_bucket(runners):
    arena = arena_of([3, 16])
    arena[length_key("frames")][1] = 17
    with pytest.raises(InternalError, match="input 'frames': got length 17"):
        runners["late"].run(arena, np.arange(2), np.array([3, 3]))
    spec = TensorSpec(datatype="FP32", shape=(-1, 2), buckets=BUCKETS)
    with pytest.raises(
        ConfigError, match="frames: array 'frames' has items of length 17, expected at most 16"
    ):
        padded({"frames": np.zeros((1, 17, 2), np.float32)}, {"frames": spec})


def test_tensors_of_one_stage_are_padded_to_one_rung():
    specs = {
        "ids": TensorSpec(datatype="INT64", shape=(-1,), buckets=(2, 4, 8)),
        "wave": TensorSpec(datatype="FP32", shape=(1, -1), buckets=(10, 30)),
        "fixed": TensorSpec(datatype="FP32", shape=(3,)),
    }
    feed = StageFeed(specs)
    arena = {"ids": np.zeros((4, 8), np.int64), "wave": np.zeros((4, 1, 30)), "fixed": np.zeros((4, 3))}
    arena[length_key("ids")] = np.array([1, 1, 3, 5], np.uint32)
    arena[length_key("wave")] = np.array([5, 20, 5, 5], np.uint32)

    def shapes(*rows: int) -> tuple[int, int]:
        fed = feed(arena, np.array(rows))
        assert fed.keys() == specs.keys()
        assert all(array.flags.c_contiguous and len(array) == len(rows) for array in fed.values())
        return fed["ids"].shape[1], fed["wave"].shape[2]

    assert shapes(0) == (2, 10)
    assert shapes(0, 1) == (4, 30)  # the wave's second bucket, so the second of ids
    assert shapes(2, 0) == (4, 30)
    assert shapes(3) == (8, 30)  # the wave has no third: its longest


def test_an_encoder_whose_embedding_depends_on_the_length_is_refused(tmp_path):
    folder = copy_lengths(tmp_path / "lengths", "python.yaml")
    code = (folder.root / "mine.py").read_text()
    whole = '{"heard": np.concatenate([(frames @ self.w_speech).sum(axis=1), length], axis=1)}'
    assert whole in code
    (folder.root / "mine.py").write_text(code.replace(whole, '{"heard": frames[:, :, 0]}'))
    with pytest.raises(ConfigError) as caught:
        open_staged(folder.service, "late", folder.resolve)
    assert "the embedding at bucket 8 has shape [2, 8], expected [2, 4], as at the shortest" in str(
        caught.value
    )


def test_a_graph_is_tried_at_every_bucket_when_it_is_opened(tmp_path):
    folder = copy_lengths(tmp_path / "lengths", "python.yaml")
    code = (folder.root / "mine.py").read_text()
    whole = "        length = np.full((len(frames), 1), frames.shape[1], np.float32)\n"
    assert whole in code
    (folder.root / "mine.py").write_text(
        code.replace(
            whole, whole + "        if frames.shape[1] == 16:\n            raise ValueError('too long')\n"
        )
    )
    with pytest.raises(WorkerError, match="variant 'whole', stage 'speech': ValueError: too long"):
        open_staged(folder.service, "whole", folder.resolve)


def test_an_emulated_stage_takes_as_long_as_its_bucket():
    service = msgspec.structs.replace(
        open_service(LENGTHS).service, variants={"paper": Variant(runtime="emulated")}
    )
    modes = tuple(ModeProfile(modalities=names, accuracy=0.5) for names in (("speech",), ("word",)))
    curve = tuple(LatencyPoint(bucket=b, batch=n, mean_s=float(b * n)) for b in (8, 16) for n in (1, 2))
    variant = VariantProfile(
        name="paper",
        modes=modes,
        stages=(
            StageProfile(name="speech", modality_sets=(("speech",),), latency=curve),
            StageProfile(
                name="word", modality_sets=(("word",),), latency=(LatencyPoint(batch=2, mean_s=1.0),)
            ),
        ),
    )
    profile = Profile(format=1, service="lengths", variants=(variant,))
    slept: list[float] = []
    runner = open_variant(service, "paper", lambda path, _: Path(path), profile=profile, sleep=slept.append)
    arena = arena_of([2, 8, 9])
    for rows, masks in (([0], [1]), ([0, 1], [1, 1]), ([1, 2], [1, 1]), ([1, 2], [1, 2])):
        runner.run(arena, np.array(rows), np.array(masks))
    # Bucket 4 was not measured: the next longer one stands for it.
    assert slept == [8.0, 16.0, 32.0, 9.0]


def test_word_alone_has_no_bucket(runners):
    arena = arena_of([2, 3])
    _, measured = runners["late"].run(arena, np.arange(2), np.array([WORD, WORD]))
    assert [name for name, _ in measured] == ["word", "head"]
