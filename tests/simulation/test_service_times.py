"""Service times: which stages a batch pays for, and how."""

from typing import Any

import msgspec
import numpy as np
import pytest

from poise.errors import ConfigError, InternalError
from poise.planning.service_time import StageTime, place
from poise.scheduling.commands import BatchPart
from poise.simulation.service_times import ServiceTimes

CLIP, SPEECH, BOTH = 1, 2, 3


def times_of(setting: Any, **options: Any) -> ServiceTimes:
    service, profile = setting
    times = ServiceTimes(profile, service.modality_index, np.random.default_rng(1), **options)
    times.prepare("small", 1, "cpu")
    return times


def parts(*counts: tuple[int, int]) -> tuple[BatchPart, ...]:
    return tuple(BatchPart(job, 0, items, mask) for job, (mask, items) in enumerate(counts))


def test_each_stage_runs_once_over_the_items_that_use_it(emulated):
    times = times_of(emulated(spread=0))
    total_s, stage_s = times.draw("small", 1, "cpu", parts((CLIP, 1), (BOTH, 3), (SPEECH, 4)))
    clip_s, speech_s, head_s, way_s = 0.003 + 3 * 0.002, 0.001 + 6 * 0.0005, 0.0005 + 7 * 0.0001, 0.00017
    assert dict(stage_s) == pytest.approx({"clip": clip_s, "speech": speech_s, "head": head_s})
    assert total_s == pytest.approx(clip_s + speech_s + head_s + way_s)


def test_a_stage_that_no_item_uses_costs_nothing(emulated):
    _, stage_s = times_of(emulated(spread=0)).draw("small", 1, "cpu", parts((SPEECH, 2)))
    assert [name for name, _ in stage_s] == ["speech", "head"]


def test_the_profile_error_multiplies_everything(emulated):
    batch = parts((BOTH, 2))
    right_s, stages_right = times_of(emulated()).draw("small", 1, "cpu", batch)
    wrong_s, stages_wrong = times_of(emulated(), error_factor=1.5).draw("small", 1, "cpu", batch)
    assert wrong_s == pytest.approx(1.5 * right_s)
    assert [t for _, t in stages_wrong] == pytest.approx([1.5 * t for _, t in stages_right])


def test_draws_are_those_of_stage_time_at_one_level_a_stage(emulated):
    setting = emulated(spread=0.2)
    times = times_of(setting)
    stages = {s.name: StageTime(s, threads=1) for s in setting[1].variant("small").stages}
    levels = iter(np.random.default_rng(1).random(1 << 14).tolist())
    for items in (1, 2, 3, 16):
        _, stage_s = times.draw("small", 1, "cpu", parts((BOTH, items)))
        expected = {name: stages[name].at(items, next(levels)) for name in ("clip", "speech", "head")}
        next(levels)  # the way's
        assert dict(stage_s) == pytest.approx(expected, rel=1e-12)


def test_block_after_block_the_levels_are_uniform(emulated):
    times = times_of(emulated(spread=0.2))
    drawn = [times.draw("small", 1, "cpu", parts((SPEECH, 1)))[1][0][1] for _ in range(30_000)]
    assert np.quantile(drawn, [0.5, 0.95, 0.99]) == pytest.approx([0.001, 0.0012, 0.0014], rel=0.03)
    assert place(0.5) == (1, 0.0)


def test_what_was_not_measured_is_not_guessed(emulated):
    times = times_of(emulated())
    with pytest.raises(InternalError, match="17 items at once, at most 16"):
        times.draw("small", 1, "cpu", parts((BOTH, 17)))
    with pytest.raises(InternalError, match="modality set 4"):
        times.draw("small", 1, "cpu", parts((4, 1)))
    with pytest.raises(ConfigError, match="variant 'small': no latency measured with 2 threads on cpu"):
        times.prepare("small", 2, "cpu")
    with pytest.raises(ConfigError, match="variant 'huge' has no profile"):
        times.prepare("huge", 1, "cpu")


def test_a_way_that_lists_no_sets_is_still_used_by_all(emulated):
    service, profile = emulated(spread=0)
    small = profile.variant("small")
    way = msgspec.structs.replace(small.stages[3], modality_sets=(("clip",),))
    lean = msgspec.structs.replace(small, stages=(*small.stages[:3], way))
    lean_profile = msgspec.structs.replace(profile, variants=(lean,))
    batch = parts((SPEECH, 2))
    assert times_of((service, lean_profile)).draw("small", 1, "cpu", batch) == times_of(
        (service, profile)
    ).draw("small", 1, "cpu", batch)
