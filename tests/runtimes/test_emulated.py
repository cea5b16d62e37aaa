"""The emulated runtime sleeps what the profile says, for the items that use each stage."""

from __future__ import annotations

import numpy as np
import pytest
from tests.tiny import TINY

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.errors import ConfigError, InternalError
from poise.files import open_service
from poise.runtimes import VariantRunner, open_variant


def constant(name: str, sets: list[str], per_item_s: float, *, largest: int = 4) -> StageProfile:
    points = tuple(LatencyPoint(batch=batch, mean_s=per_item_s * batch) for batch in range(1, largest + 1))
    return StageProfile(name=name, modality_sets=tuple(tuple(s.split("+")) for s in sets), latency=points)


@pytest.fixture(scope="module")
def folder():
    return open_service(TINY / "emulated.yaml")


@pytest.fixture
def profile():
    sets = ["image", "sound", "image+sound"]
    variant = VariantProfile(
        name="paper",
        modes=tuple(ModeProfile(modalities=tuple(s.split("+")), accuracy=0.5) for s in sets),
        stages=(
            constant("image", ["image", "image+sound"], 10.0),
            constant("sound", ["sound", "image+sound"], 1.0),
            constant("way", sets, 1000.0),
        ),
    )
    return Profile(format=1, service="tiny", variants=(variant,))


def test_it_sleeps_for_the_items_that_use_each_stage_and_answers_zeros(folder, profile):
    slept: list[float] = []
    runner = open_variant(folder.service, "paper", folder.resolve, profile=profile, sleep=slept.append)
    outputs, measured = runner.run({}, np.arange(3), np.array([1, 3, 2]))
    assert runner.stage_names == ("image", "sound")
    assert measured == [("image", 20.0), ("sound", 2.0)]
    assert slept == [22.0]
    assert outputs["logits"].shape == (3, 5)
    assert outputs["logits"].dtype == np.float32
    assert not outputs["logits"].any()
    assert outputs["score"].shape == (3, 1)


def test_the_same_seed_draws_the_same(folder):
    def drawn(seed: int) -> list[float]:
        slept: list[float] = []
        runner = open_variant(
            folder.service,
            "paper",
            folder.resolve,
            profile=folder.load_profile(),
            seed=seed,
            sleep=slept.append,
        )
        for _ in range(5):
            runner.run({}, np.arange(2), np.array([7, 7]))
        return slept

    assert drawn(1) == drawn(1)
    assert len(set(drawn(1))) == 5
    assert drawn(1) != drawn(2)


def test_what_the_profile_does_not_have_is_refused(folder, profile):
    def open_it(**options: object) -> VariantRunner:
        return open_variant(folder.service, "paper", folder.resolve, sleep=lambda _: None, **options)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="emulated variant 'paper' has no profile"):
        open_it()
    with pytest.raises(ConfigError, match=r"stage 'image': no latency measured with 2 threads"):
        open_it(profile=profile, threads=2)
    runner = open_it(profile=profile)
    with pytest.raises(InternalError, match="mask 4"):
        runner.run({}, np.arange(1), np.array([4]))
    with pytest.raises(InternalError, match="5 items, and is profiled up to 4"):
        runner.run({}, np.arange(5), np.array([1] * 5))
