"""Frontier tables beside the profile: the same plans as without, and never a reason not to serve."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.files import FrontierCache, ServiceFolder, open_service
from poise.planning.latency_model import LatencyModel
from poise.planning.service_model import ServiceModel, Tables

ALWAYS_S, NEVER_S = -1.0, math.inf
"""Above and below every time that tables can take: whether they are kept does not hang on the machine."""


class Counted(FrontierCache):
    """Counts how often tables were built."""

    built = 0

    def tables(
        self, name: str, model: LatencyModel, keys: tuple[int, ...], build: Callable[[], Tables]
    ) -> Tables:
        def counted() -> Tables:
            self.built += 1
            return build()

        return super().tables(name, model, keys, counted)


class Bench:
    """A copy of the tiny service, and its plans through a cache of its own."""

    def __init__(self, folder: ServiceFolder) -> None:
        self.folder = folder
        self.path = folder.root / "profile.json.frontiers"
        self.warnings: list[str] = []
        self.service = folder.service
        self.profile = folder.load_profile()

    def cache(self, worth_keeping_s: float = ALWAYS_S) -> Counted:
        return Counted(
            self.path, self.service.variants, self.warnings.append, worth_keeping_s=worth_keeping_s
        )

    def plan(
        self, cache: Counted | None, service: Service | None = None, profile: Profile | None = None
    ) -> Any:
        """Every point of every frontier that the service starts with, and how often tables were built."""
        model = ServiceModel(service or self.service, profile or self.profile, cache)
        points = {}
        for name in model.service.variants:
            plans = model.plans(name)
            for available in model.index.every_set():
                for batch in range(1, plans.model.max_batch + 1):
                    frontier = plans.frontier(plans.allowed(available), batch)
                    if frontier is not None:
                        points[name, available, batch] = [frontier.plan(p) for p in range(len(frontier))]
        return points, 0 if cache is None else cache.built


@pytest.fixture
def bench(tiny: ServiceFolder) -> Bench:
    return Bench(tiny)


def test_what_was_kept_is_not_built_again_and_says_the_same_to_the_bit(bench: Bench) -> None:
    fresh, _ = bench.plan(None)
    first, built = bench.plan(bench.cache())
    assert built == 2, "two variants"
    assert bench.plan(bench.cache()) == (first, 0)
    assert first == fresh
    assert any(fresh.values())
    assert bench.warnings == []
    assert [path.name for path in bench.folder.root.glob("*.frontiers*")] == ["profile.json.frontiers"]
    assert list(bench.folder.root.glob(".*")) == [], "no temporary file is left"


def test_tables_that_are_made_quickly_leave_no_file(bench: Bench) -> None:
    assert bench.plan(bench.cache(NEVER_S)) == (bench.plan(None)[0], 2)
    assert not bench.path.exists()


def test_the_cache_lies_beside_the_profile_wherever_that_is(bench: Bench) -> None:
    (bench.folder.root / "measured").mkdir()
    service = msgspec.structs.replace(bench.service, profile="measured/of-today.json")
    folder = ServiceFolder(file=bench.folder.file, service=service)
    path = FrontierCache.beside_profile(folder, bench.warnings.append).path
    assert path == bench.folder.root / "measured" / "of-today.json.frontiers"


def scheduler(**fields: Any) -> Callable[[Bench], tuple[Service, Profile]]:
    def change(bench: Bench) -> tuple[Service, Profile]:
        settings = msgspec.structs.replace(bench.service.scheduler, **fields)
        return msgspec.structs.replace(bench.service, scheduler=settings), bench.profile

    return change


def guarantee(**fields: Any) -> Callable[[Bench], tuple[Service, Profile]]:
    def change(bench: Bench) -> tuple[Service, Profile]:
        kept = msgspec.structs.replace(bench.service.guarantee, **fields)
        return msgspec.structs.replace(bench.service, guarantee=kept), bench.profile

    return change


def measured(edit: Callable[[dict], None]) -> Callable[[Bench], tuple[Service, Profile]]:
    def change(bench: Bench) -> tuple[Service, Profile]:
        plain = msgspec.json.decode(msgspec.json.encode(bench.profile))
        edit(plain["variants"][0])
        return bench.service, msgspec.convert(plain, Profile)

    return change


def slower(variant: dict) -> None:
    for point in variant["stages"][0]["latency"]:
        point.update({"p95_s": point["p95_s"] * 1.5, "p99_s": point["p99_s"] * 1.5})


def less_accurate(variant: dict) -> None:
    variant["modes"][-1]["accuracy"] *= 0.999


def without_a_mode(variant: dict) -> None:
    lost = variant["modes"].pop()
    for stage in variant["stages"]:
        stage["modality_sets"] = [
            s for s in stage["modality_sets"] if sorted(s) != sorted(lost["modalities"])
        ]


@pytest.mark.parametrize(
    ("change", "built"),
    [
        (measured(slower), 1),
        (measured(less_accurate), 1),
        (measured(without_a_mode), 1),
        (scheduler(latency="p50"), 2),
        (scheduler(max_batch=5), 2),
        (guarantee(confidence=0.95), 2),
        (guarantee(scope="job"), 2),
        (scheduler(queue_jobs=7), 0),
    ],
)
def test_a_change_of_what_the_plans_follow_from_makes_them_again(
    bench: Bench, change: Callable[[Bench], tuple[Service, Profile]], built: int
) -> None:
    before, _ = bench.plan(bench.cache())
    service, profile = change(bench)
    fresh, _ = bench.plan(None, service, profile)
    assert bench.plan(bench.cache(), service, profile) == (fresh, built)
    assert bench.plan(bench.cache(), service, profile) == (fresh, 0), "kept in place of what it was"
    if built and service.guarantee.scope == "class":
        assert fresh != before
    assert bench.warnings == []


def test_another_number_of_threads_is_kept_beside_the_first(bench: Bench) -> None:
    plain = msgspec.json.decode(msgspec.json.encode(bench.profile))
    for variant in plain["variants"]:
        for stage in variant["stages"]:
            stage["latency"] += [{**p, "threads": 2, "mean_s": p["mean_s"] / 2} for p in stage["latency"]]
    profile = msgspec.convert(plain, Profile)
    for built in (1, 0):
        for threads in (1, 2):
            cache = bench.cache()
            ServiceModel(bench.service, profile, cache).plans("late", threads)
            assert cache.built == built


def parts_of(path: Path) -> dict[str, Any]:
    parts: dict[str, Any] = msgspec.msgpack.decode(path.read_bytes(), strict=False)["parts"]
    return parts


def test_a_variant_that_is_no_more_is_dropped_with_the_next_change(bench: Bench) -> None:
    bench.plan(bench.cache())
    assert set(parts_of(bench.path)) == {"late/1/cpu", "whole/1/cpu"}
    only = msgspec.structs.replace(bench.service, variants={"late": bench.service.variants["late"]})
    bench.service = msgspec.structs.replace(
        only, scheduler=msgspec.structs.replace(only.scheduler, max_batch=3)
    )
    bench.plan(bench.cache())
    assert set(parts_of(bench.path)) == {"late/1/cpu"}


def flipped(data: bytes) -> bytes:
    """One plan changed: an item of it uses another modality set."""
    file = msgspec.msgpack.decode(data, strict=False)
    table = next(iter(file["parts"]["late/1/cpu"]["tables"].values()))
    counts = bytearray(table["counts"])
    one = next(at for at in range(0, len(counts), 2) if counts[at])
    other = next(at for at in range(0, len(counts), 2) if not counts[at])
    counts[one] -= 1
    counts[other] += 1
    table["counts"] = bytes(counts)
    return msgspec.msgpack.encode(file)


def with_field(name: str, value: Any) -> Callable[[bytes], bytes]:
    return lambda data: msgspec.msgpack.encode({**msgspec.msgpack.decode(data, strict=False), name: value})


@pytest.mark.parametrize(
    ("spoil", "warns"),
    [
        (lambda data: b"", True),
        (lambda data: data[: len(data) // 2], True),
        (lambda data: data + b"\x00", True),
        (lambda data: b"PK\x03\x04 something else", True),
        (lambda data: b'{"format": 1}', True),
        (with_field("format", 2), True),
        (with_field("extra", 1), True),
        (with_field("parts", []), True),
        (with_field("parts", {"late/1/cpu": {"digest": "0", "tables": {}}}), False),
        (flipped, False),
    ],
)
def test_a_file_that_is_not_what_was_written_is_made_again(
    bench: Bench, spoil: Callable[[bytes], bytes], warns: bool
) -> None:
    fresh, _ = bench.plan(bench.cache())
    whole = bench.path.read_bytes()
    bench.path.write_bytes(spoil(whole))
    found, built = bench.plan(bench.cache())
    assert found == fresh
    assert built >= 1
    assert bool(bench.warnings) == warns
    assert all("profile.json.frontiers" in warning and "\n" not in warning for warning in bench.warnings)
    assert bench.plan(bench.cache()) == (fresh, 0)


def test_the_cache_of_another_service_is_not_used(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bench.folder.root, other)
    service, profile = measured(slower)(bench)
    fresh, _ = bench.plan(None)
    bench.plan(bench.cache(), service, profile)
    shutil.copy(bench.path, other / "profile.json.frontiers")
    elsewhere = Bench(open_service(other))
    assert elsewhere.plan(elsewhere.cache())[0] == fresh


@pytest.mark.parametrize("place", ["no folder", "a folder", "a link"])
def test_where_nothing_can_be_kept_it_still_plans(bench: Bench, place: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if place == "no folder":
        bench.path = bench.folder.root / "missing" / "profile.json.frontiers"
    elif place == "a folder":
        bench.path.mkdir()
    else:
        outside.write_bytes(b"theirs")
        bench.path.symlink_to(outside)
    fresh, _ = bench.plan(None)
    assert bench.plan(bench.cache()) == (fresh, 2)
    if place == "a link":
        assert outside.read_bytes() == b"theirs"
        assert not bench.path.is_symlink(), "the link itself was replaced"
        assert bench.warnings == []
    else:
        assert len(bench.warnings) == 2
        assert all("cannot be kept in profile.json.frontiers" in warning for warning in bench.warnings)
        assert bench.plan(bench.cache()) == (fresh, 2)
    assert list(bench.folder.root.glob(".*")) == [], "no temporary file is left"


def test_in_scope_job_every_floor_is_made_ready(bench: Bench) -> None:
    """A floor that no frontier was made for would have it made while jobs wait."""
    classes = {
        name: msgspec.structs.replace(slo, max_floor=1.0) for name, slo in bench.service.classes.items()
    }
    service = msgspec.structs.replace(guarantee(scope="job")(bench)[0], classes=classes)
    model = ServiceModel(service, bench.profile, bench.cache())
    plans = model.plans("late")
    ready = set(parts_of(bench.path)["late/1/cpu"]["tables"])
    for available in model.index.every_set():
        for floor in (0.0, *plans.model.accuracy):
            for least in (floor, floor + 1e-6):
                assert plans.allowed(available, least) in {0, *ready}
