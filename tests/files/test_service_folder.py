"""No path leaves the service's folder, and what is missing or stale is named."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import pytest
from tests.runtimes.lengths import LENGTHS, copy_lengths

from poise.domain.profile import LatencyPoint, Profile
from poise.domain.service import Variant
from poise.errors import ConfigError
from poise.files import ServiceFolder, check_profile_matches, open_service, open_workload


def refusal(call, *arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


def changed_profile(folder: ServiceFolder, change) -> None:
    path = folder.root / "profile.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_a_folder_opens_by_itself_or_by_its_file(tiny):
    assert open_service(tiny.root) == open_service(tiny.root / "service.yaml") == tiny
    assert open_service(tiny.root / "emulated.yaml").service.variants.keys() == {"paper"}


def test_no_service(tmp_path):
    assert "no service file at" in refusal(open_service, tmp_path)
    assert "no workload file at" in refusal(open_workload, tmp_path / "workload.yaml")


def test_a_service_file_that_is_not_text(tiny):
    tiny.file.write_bytes(b"format: 1\nservice: \xff")
    assert refusal(open_service, tiny.root) == "service.yaml: not UTF-8 text (byte 19)"


@pytest.mark.parametrize("path", ["../other.onnx", "late/../../other.onnx", "{root}/late/head.onnx"])
def test_a_path_that_leaves_the_folder(tiny, path):
    (tiny.root.parent / "other.onnx").write_bytes(b"")
    path = path.format(root=tiny.root)
    assert refusal(tiny.resolve, path, "variants.late.head") == (
        f"service.yaml: variants.late.head: got path {path!r}, expected a path inside the service's folder"
    )


def test_a_link_that_leaves_the_folder(tiny):
    (tiny.root.parent / "other.onnx").write_bytes(b"")
    (tiny.root / "link.onnx").symlink_to(tiny.root.parent / "other.onnx")
    assert "expected a path inside" in refusal(tiny.resolve, "link.onnx", "head")


def test_a_missing_model_is_named_by_its_field(tiny):
    (tiny.root / "whole" / "all.onnx").unlink()
    assert refusal(tiny.check_model_files) == (
        "service.yaml: variants.whole.graphs.image+sound+word: file 'whole/all.onnx' is missing, expected a file"
    )


def test_no_profile_says_what_to_run(tiny):
    (tiny.root / "profile.json").unlink()
    assert refusal(tiny.load_profile).endswith(f"a profile; run: poise profile {tiny.root}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(service="other"), "service: got the profile of service 'other', expected 'tiny'"),
        (lambda p: p["variants"].pop(), "variants: variant 'whole' has no profile"),
        (lambda p: p["variants"][0]["modes"].pop(), "variant 'late' has no mode for ['image+sound+word']"),
        (
            lambda p: p["variants"][0]["modes"][0].update(modalities=["smell"]),
            "smell",
        ),
    ],
)
def test_the_profile_of_something_else(tiny, change, words):
    changed_profile(tiny, change)
    text = refusal(tiny.load_profile)
    assert text.startswith("profile.json: ")
    assert words in text


@pytest.mark.parametrize(
    ("variant", "stage", "change", "words"),
    [
        (
            0,
            0,
            lambda points: [p for p in points if p["bucket"] != 8],
            "stage 'speech' of variant 'late' was measured at buckets 4, 16, expected buckets 4, 8, 16: profile again",
        ),
        (
            1,
            1,
            lambda points: [{**p, "bucket": None} for p in points if p["bucket"] == 16],
            "stage 'speech+word' of variant 'whole' was measured at buckets none, expected buckets 4, 8, 16: profile",
        ),
        (
            0,
            2,
            lambda points: [{**p, "bucket": 4} for p in points],
            "stage 'head' of variant 'late' was measured at buckets 4, expected buckets none: profile again",
        ),
    ],
)
def test_a_stage_measured_at_other_buckets_is_refused(tmp_path, variant, stage, change, words):
    folder = copy_lengths(tmp_path / "lengths")

    def alter(tree):
        measured = tree["variants"][variant]["stages"][stage]
        measured["latency"] = change(measured["latency"])

    folder.load_profile()
    changed_profile(folder, alter)
    assert f"variants.stages.latency.bucket: {words}" in refusal(folder.load_profile)


def test_an_emulated_stage_may_be_of_any_length_and_not_of_other_buckets() -> None:
    folder = open_service(LENGTHS)
    emulated = {name: Variant(runtime="emulated") for name in folder.service.variants}
    service = msgspec.structs.replace(folder.service, variants=emulated)
    profile = folder.load_profile()
    late = profile.variants[0]

    def with_points(points: Iterable[LatencyPoint]) -> Profile:
        speech = msgspec.structs.replace(late.stages[0], name="trunk", latency=tuple(points))
        variant = msgspec.structs.replace(late, stages=(speech, *late.stages[1:]))
        return msgspec.structs.replace(profile, variants=(variant, *profile.variants[1:]))

    points = late.stages[0].latency
    check_profile_matches(service, with_points(points), "profile.json")
    any_length = [msgspec.structs.replace(p, bucket=None) for p in points if p.bucket == 16]
    check_profile_matches(service, with_points(any_length), "profile.json")
    other = [p for p in points if p.bucket != 8]
    words = refusal(check_profile_matches, service, with_points(other), "profile.json")
    assert "stage 'trunk' of variant 'late' was measured at buckets 4, 16" in words


def test_a_file_that_has_changed_makes_the_profile_stale(tiny):
    profile = msgspec.structs.replace(tiny.load_profile(), files=tiny.file_hashes())
    assert tiny.stale_reasons(profile) == []
    model = tiny.root / "late" / "sound.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    assert tiny.stale_reasons(profile) == ["late/sound.onnx has changed since it was profiled"]


def test_every_file_that_a_profile_depends_on_is_hashed(tiny):
    models = {
        path for variant in tiny.service.variants.values() for path in tiny.model_files(variant).values()
    }
    assert tiny.file_hashes().keys() == models | {"validation.npz"}
