"""InfAdapter's policy, and those it is compared with, on series worked out by hand.

Eight cores; of ``small`` a core carries 0.8 · 12.5 = 10 requests/s, of ``large`` 0.8 · 5 = 4.
"""

from __future__ import annotations

import pytest

from poise.adapting.core_policies import Horizontal, InfAdapter, ModelSwitching
from poise.domain.profile import Profile
from poise.errors import ConfigError

from .conftest import service_of, situation_at, workers


def test_infadapter_mixes_variants_and_fills_the_accurate_one_first(profile: Profile) -> None:
    policy = InfAdapter(service_of(beta=0.001), profile, 8)
    found = policy.ask(situation_at(50.0))()
    assert found is not None
    # 3 cores of small carry 30, 5 of large 20: all of the eight, the most of large that still carries 50.
    assert {w.variants: w.count for w in found.workers} == {("small",): 3, ("large",): 5}
    assert found.shares == {"default": {"small": pytest.approx(30.0), "large": pytest.approx(20.0)}}
    assert found.shed == {"default": 0.0}


def test_infadapter_sheds_what_no_core_is_left_for(profile: Profile) -> None:
    found = InfAdapter(service_of(), profile, 8).ask(situation_at(100.0))()
    assert found is not None
    assert [(w.variants, w.count) for w in found.workers] == [(("small",), 8)]
    assert found.shed == {"default": pytest.approx(20.0)}


def test_what_could_not_be_loaded_is_done_without(profile: Profile) -> None:
    excluded = frozenset({workers("large", 1)})
    found = InfAdapter(service_of(beta=0.001), profile, 8).ask(situation_at(8.0, excluded=excluded))()
    assert found is not None
    assert [(w.variants, w.count) for w in found.workers] == [(("small",), 1)]


@pytest.mark.parametrize(
    ("rps", "variant", "count"),
    [
        (4.0, "large", 1),  # .8 − .05/8 beats .7 − .05/8
        (30.0, "large", 8),  # .8 − .05 beats .7 − .05·3/8
        (33.0, "small", 4),  # large carries 32 at most
        (200.0, "small", 8),  # nobody carries it: the most that can be had
        (1e-3, "large", 1),
    ],
)
def test_model_switching_takes_the_best_variant_on_the_fewest_cores(
    profile: Profile, rps: float, variant: str, count: int
) -> None:
    found = ModelSwitching(service_of(), profile, 8).ask(situation_at(rps))()
    assert found is not None
    assert [(w.variants, w.count) for w in found.workers] == [((variant,), count)]


def test_model_switching_weighs_cores(profile: Profile) -> None:
    found = ModelSwitching(service_of(beta=0.2), profile, 8).ask(situation_at(30.0))()
    assert found is not None  # .7 − .2·3/8 = .625 beats .8 − .2 = .6
    assert [(w.variants, w.count) for w in found.workers] == [(("small",), 3)]


def test_horizontal_follows_the_forecast_with_replicas_of_one_variant(profile: Profile) -> None:
    policy = Horizontal(service_of(variant="small"), profile, 8)
    counts = []
    for rps in (5.0, 10.0, 10.1, 42.0, 79.0, 500.0, 0.001):
        found = policy.ask(situation_at(rps))()
        assert found is not None
        assert [w.variants for w in found.workers] == [("small",)]
        counts.append(found.workers[0].count)
    assert counts == [1, 1, 2, 5, 8, 8, 1]


def test_without_a_variant_named_the_most_accurate_one_is_run(profile: Profile) -> None:
    found = Horizontal(service_of(), profile, 8).ask(situation_at(5.0))()
    assert found is not None
    assert [(w.variants, w.count) for w in found.workers] == [(("large",), 2)]


def test_no_variant_has_fewer_than_the_least_cores(profile: Profile) -> None:
    for policy in (
        InfAdapter(service_of(min_cores=2), profile, 8),
        ModelSwitching(service_of(min_cores=2), profile, 8),
        Horizontal(service_of(min_cores=2), profile, 8),
    ):
        found = policy.ask(situation_at(1.0))()
        assert found is not None
        assert all(w.count >= 2 for w in found.workers)


def test_a_profile_without_capacity_is_refused(profile: Profile) -> None:
    import msgspec

    bare = tuple(
        msgspec.structs.replace(
            v,
            capacity=(),
            stages=tuple(
                msgspec.structs.replace(
                    s, latency=tuple(msgspec.structs.replace(p, threads=4) for p in s.latency)
                )
                for s in v.stages
            ),
        )
        for v in profile.variants
    )
    with pytest.raises(ConfigError, match="no latency at batch 1 on 1 thread"):
        InfAdapter(service_of(), msgspec.structs.replace(profile, variants=bare), 8)
