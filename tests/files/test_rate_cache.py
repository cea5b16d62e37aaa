"""The kept rate table: used only while it is the profile's own."""

from __future__ import annotations

from pathlib import Path

import msgspec

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.domain.rate_table import Rate, RateTable
from poise.domain.service import Modality, Service, SLOClass, TensorSpec, Variant
from poise.files.rate_cache import RateCache, digest_of

RATE = Rate(
    variant="v",
    modalities="a",
    threads=1,
    device="cpu",
    batch=2,
    accuracy=0.7,
    batch_s=0.01,
    batch_cap_s=0.05,
    slo_s=0.1,
    items_per_s=(80.0, 90.0),
)
TABLE = RateTable(workers=(1, 2), rates=(RATE,))


def service(slo_ms: float = 100.0) -> Service:
    return Service(
        format=1,
        service="s",
        modalities={"a": Modality(inputs={"a": TensorSpec(datatype="FP32", shape=(1,))})},
        outputs={"y": TensorSpec(datatype="FP32", shape=(1,))},
        variants={"v": Variant(runtime="emulated")},
        classes={"normal": SLOClass(latency_slo_ms=slo_ms)},
    )


def profile(mean_s: float = 0.01) -> Profile:
    stage = StageProfile(name="a", modality_sets=(("a",),), latency=(LatencyPoint(batch=1, mean_s=mean_s),))
    modes = (ModeProfile(modalities=("a",), accuracy=0.7),)
    return Profile(format=1, service="s", variants=(VariantProfile(name="v", modes=modes, stages=(stage,)),))


class Builds:
    def __init__(self) -> None:
        self.count = 0
        self.said: list[str] = []

    def __call__(self) -> RateTable:
        self.count += 1
        return TABLE


def test_a_table_is_built_once_for_a_profile_and_again_when_anything_changes(tmp_path: Path) -> None:
    builds = Builds()
    path = tmp_path / "profile.json.rates"
    for _ in range(2):
        found = RateCache(path, builds.said.append).table(service(), profile(), builds)
        assert found == msgspec.structs.replace(TABLE, digest=digest_of(service(), profile()))
    assert builds.count == 1
    RateCache(path, builds.said.append).table(service(), profile(0.02), builds)
    RateCache(path, builds.said.append).table(service(200.0), profile(0.02), builds)
    assert builds.count == 3
    assert builds.said == []
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    builds = Builds()
    path = tmp_path / "profile.json.rates"
    path.write_bytes(b"\x00nonsense")
    RateCache(path, builds.said.append).table(service(), profile(), builds)
    assert builds.count == 1
    assert len(builds.said) == 1
    assert "profile.json.rates" in builds.said[0]
    RateCache(path, builds.said.append).table(service(), profile(), builds)
    assert builds.count == 1


def test_a_table_that_breaks_its_own_rules_is_made_again(tmp_path: Path) -> None:
    builds = Builds()
    path = tmp_path / "profile.json.rates"
    falling = msgspec.structs.asdict(RATE) | {"items_per_s": (90.0, 80.0)}
    path.write_bytes(
        msgspec.msgpack.encode(
            {"format": 1, "digest": digest_of(service(), profile()), "workers": [1, 2], "rates": [falling]}
        )
    )
    assert RateCache(path, builds.said.append).table(service(), profile(), builds).rates == TABLE.rates
    assert builds.count == 1


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    builds = Builds()
    path = tmp_path / "nowhere" / "profile.json.rates"
    assert RateCache(path, builds.said.append).table(service(), profile(), builds).rates == TABLE.rates
    assert "cannot be kept" in builds.said[0]
