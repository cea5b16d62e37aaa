"""No path leaves the service's folder, and what is missing or stale is named."""

from __future__ import annotations

import json

import msgspec
import pytest

from poise.errors import ConfigError
from poise.files import ServiceFolder, open_service, open_workload


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
