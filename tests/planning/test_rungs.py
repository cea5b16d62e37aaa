"""The latency model and the plans of a variant at each rung of its buckets."""

from __future__ import annotations

import pytest

from poise.domain.modalities import ModalityIndex
from poise.domain.profile import LatencyPoint, ModeProfile, StageProfile, VariantProfile
from poise.planning.latency_model import latency_model

INDEX = ModalityIndex(("speech", "word"))
SETS = (("speech",), ("word",), ("speech", "word"))


def points(*curve: tuple[int | None, int, float]) -> tuple[LatencyPoint, ...]:
    return tuple(LatencyPoint(bucket=bucket, batch=batch, mean_s=mean_s) for bucket, batch, mean_s in curve)


def variant(*speech: tuple[int | None, int, float]) -> VariantProfile:
    """Speech as given; words of two buckets; a head of none."""
    word = points((3, 1, 0.25), (3, 8, 0.5), (9, 1, 0.5), (9, 8, 1.0))
    return VariantProfile(
        name="late",
        modes=tuple(ModeProfile(modalities=names, accuracy=0.5) for names in SETS),
        stages=(
            StageProfile(name="speech", modality_sets=(SETS[0], SETS[2]), latency=points(*speech)),
            StageProfile(name="word", modality_sets=(SETS[1], SETS[2]), latency=word),
            StageProfile(name="head", modality_sets=SETS, latency=points((None, 1, 2.0), (None, 8, 2.0))),
        ),
    )


SPEECH = ((4, 1, 10.0), (4, 8, 20.0), (8, 1, 30.0), (8, 8, 40.0), (16, 1, 50.0), (16, 8, 60.0))


@pytest.mark.parametrize(
    ("rung", "speech_s", "word_s"),
    [(0, 10.0, 0.25), (1, 30.0, 0.5), (2, 50.0, 0.5), (7, 50.0, 0.5), (None, 50.0, 0.5)],
)
def test_each_stage_takes_the_curve_of_the_rung_or_of_its_longest_bucket(rung, speech_s, word_s):
    model = latency_model(variant(*SPEECH), INDEX, statistic="mean", threads=1, max_batch=8, rung=rung)
    assert model.sets == (1, 2, 3)
    assert model.latency_s([1, 0, 0]) == speech_s + 2.0
    assert model.latency_s([0, 1, 0]) == word_s + 2.0
    assert model.latency_s([0, 0, 1]) == speech_s + word_s + 2.0


@pytest.mark.parametrize("rung", [0, 1, None])
def test_a_batch_is_as_large_as_every_bucket_was_measured_at(rung):
    uneven = variant((4, 1, 1.0), (4, 8, 1.0), (16, 1, 2.0), (16, 3, 2.0))
    model = latency_model(uneven, INDEX, statistic="mean", threads=1, max_batch=8, rung=rung)
    assert model.max_batch == 3
