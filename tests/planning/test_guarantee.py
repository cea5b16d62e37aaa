"""The promise of ``guarantee.confidence``, kept count of: validation sets drawn again and again from known truths.

A promise fails where any mode's bound lies above its truth, since then some mix of modes does. That may happen in
at most 1 − confidence of the draws. The bounds must not be vacuous either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.binomial import most_failures

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.domain.service import Guarantee, Service
from poise.planning.accuracy_bounds import promised_accuracy
from poise.planning.service_model import ServiceModel

CONFIDENCE = 0.95
TRUTHS = np.array([0.55, 0.62, 0.70, 0.78, 0.83, 0.90, 0.97])
MODES = len(TRUTHS)
DRAWS = 2000

Scores = NDArray[np.floating]


@cache
def bound(accuracy: float, std: float | None, samples: int, modes: int) -> float:
    mode = ModeProfile(modalities=("a",), accuracy=accuracy, accuracy_std=std, samples=samples)
    return promised_accuracy(mode, CONFIDENCE, modes)


def bounds_of(scores: Scores, modes: int = MODES, *, binary: bool = False) -> Scores:
    """The modes' bounds from one validation set. ``scores[i, m]`` is the score of item *i* in mode *m*."""
    means, stds = scores.mean(axis=0), scores.std(axis=0)
    return np.array(
        [
            bound(float(mean), None if binary else float(std), len(scores), modes)
            for mean, std in zip(means, stds, strict=True)
        ]
    )


def failures(found: Scores, truths: Scores) -> int:
    """In how many draws a promise fails. ``found[d, m]``."""
    return int((found > truths).any(axis=1).sum())


def independent(rng: np.random.Generator, samples: int) -> Scores:
    return (rng.random((samples, MODES)) < TRUTHS).astype(float)


def same_items(rng: np.random.Generator, samples: int) -> Scores:
    """All modes are measured on the same items, of which some are easy for most of them and some are hard."""
    shared, own = rng.random((samples, 1)), rng.random((samples, MODES))
    return (np.where(rng.random((samples, MODES)) < 0.7, shared, own) < TRUTHS).astype(float)


@pytest.mark.parametrize("draw", [independent, same_items])
@pytest.mark.parametrize("samples", [60, 500])
def test_right_or_wrong_scores(draw: Callable[[np.random.Generator, int], Scores], samples: int) -> None:
    rng = np.random.default_rng(11)
    drawn = [draw(rng, samples) for _ in range(DRAWS)]
    found = np.array([bounds_of(scores, binary=True) for scores in drawn])
    assert failures(found, TRUTHS) <= most_failures(DRAWS, 1 - CONFIDENCE)
    # Not vacuous: as far below the truth as a level of 0.05 / 7 asks for, 2.45 standard errors and some whole items.
    gap, error = (TRUTHS - found).mean(axis=0), np.sqrt(TRUTHS * (1 - TRUTHS) / samples)
    assert (gap > 2.3 * error).all()
    assert (gap < 2.6 * error + 4 / samples).all()
    # And the criterion can fail: bounds that do not share the level between the modes break it.
    alone = np.array([bounds_of(scores, 1, binary=True) for scores in drawn])
    assert failures(alone, TRUTHS) > most_failures(DRAWS, 1 - CONFIDENCE)
    assert failures(found, TRUTHS) > 0


def test_a_deviation_of_right_or_wrong_scores_is_recognised() -> None:
    scores = independent(np.random.default_rng(5), 500)
    assert bounds_of(scores) == pytest.approx(bounds_of(scores, binary=True))


def partly_right(rng: np.random.Generator, samples: int) -> tuple[Scores, Scores]:
    """Scores of 0, ½ and 1; and their truths."""
    full, half = TRUTHS * 0.8, TRUTHS * 0.2
    level = rng.random((samples, MODES))
    return (level < full) + 0.5 * ((level >= full) & (level < full + half)), full + half / 2


def graded(rng: np.random.Generator, samples: int) -> tuple[Scores, Scores]:
    """Scores anywhere between 0 and 1, mostly high; and their truths."""
    b = np.linspace(4, 1, MODES)
    return rng.beta(8, b, (samples, MODES)), 8 / (8 + b)


def rarely_wrong(rng: np.random.Generator, samples: int) -> tuple[Scores, Scores]:
    """Scores that vary little but for rare failures, which a small sample may not show; and their truths."""
    wrong = rng.random((samples, MODES)) < 0.004
    return np.where(wrong, 0.0, 0.95), np.full(MODES, 0.996 * 0.95)


@pytest.mark.parametrize("draw", [partly_right, graded, rarely_wrong])
@pytest.mark.parametrize("samples", [100, 2000])
def test_scores_in_between(
    draw: Callable[[np.random.Generator, int], tuple[Scores, Scores]], samples: int
) -> None:
    rng = np.random.default_rng(12)
    _, truths = draw(rng, 1)
    draws = 600
    found = np.array([bounds_of(draw(rng, samples)[0]) for _ in range(draws)])
    assert failures(found, truths) <= most_failures(draws, 1 - CONFIDENCE)
    # Not vacuous: within the bound's own formula of the truth, which narrows as 1/√n and less for calm scores.
    spread = math.log(2 * MODES / (1 - CONFIDENCE))
    std = draw(rng, 100_000)[0].std(axis=0)
    room = std * math.sqrt(2 * spread / samples) + 7 * spread / (3 * (samples - 1))
    assert ((truths - found).mean(axis=0) < 1.1 * room + 1e-3).all()
    if samples == 2000:
        assert (found.mean(axis=0) > truths - 0.06).all()


def test_all_modes_of_all_variants_share_the_level() -> None:
    """A service of two variants with three modes each promises what six modes together may."""
    sets = (("a",), ("b",), ("a", "b"))
    names = ("one", "two")
    stage = StageProfile(name="all", modality_sets=sets, latency=(LatencyPoint(batch=1, mean_s=1.0),))
    modes = tuple(ModeProfile(modalities=s, accuracy=0.8, samples=400) for s in sets)
    variants = tuple(VariantProfile(name=name, modes=modes, stages=(stage,)) for name in names)
    tensor = {"datatype": "FP32", "shape": [1]}
    service = {
        "format": 1,
        "service": "pair",
        "modalities": {name: {"inputs": {name: tensor}} for name in ("a", "b")},
        "outputs": {"y": tensor},
        "variants": {name: {"runtime": "emulated"} for name in names},
    }
    decoded = msgspec.structs.replace(
        msgspec.convert(service, Service), guarantee=Guarantee(confidence=CONFIDENCE)
    )
    model = ServiceModel(decoded, Profile(format=1, service="pair", variants=variants))
    for name in names:
        assert model.plans(name).model.accuracy == (bound(0.8, None, 400, 6),) * 3
        assert model.plans(name).expected_accuracy == (0.8,) * 3


def test_samples_that_are_fewer_than_were_scored_are_not_rounded_up() -> None:
    assert bound(0.7066, None, 100, 1) == bound(0.70, None, 100, 1)
    assert bound(0.29 + 0.0, None, 100, 1) > bound(0.28, None, 100, 1), "0.29 · 100 is 28.999… in floats"
