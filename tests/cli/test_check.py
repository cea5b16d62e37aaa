"""``poise check`` opens all that a service names, and says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import typer
from tests.tiny import copy_of_tiny
from typer.testing import CliRunner

from poise.cli.check import check, check_service
from poise.errors import ConfigError
from poise.files import ServiceFolder, open_service
from poise.profiling import write_profile
from poise.runtimes.machine import fingerprint, onnx_runtime_name

app = typer.Typer()
app.command()(check)


@pytest.fixture
def tiny(tmp_path: Path) -> ServiceFolder:
    copy_of_tiny(tmp_path / "tiny")
    return open_service(tmp_path / "tiny")


def with_profile(folder: ServiceFolder, **fields) -> ServiceFolder:
    write_profile(msgspec.structs.replace(folder.load_profile(), **fields), folder.root / "profile.json")
    return folder


def test_json_is_one_document(tiny):
    result = CliRunner().invoke(app, [str(tiny.root), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["ok"] is True
    assert found["service"] == "tiny"
    assert found["items"] == {"validation.npz": 120, "test.npz": 60}
    assert found["warnings"] == []
    assert found["variants"][1] == {
        "name": "whole",
        "runtime": "onnx",
        "modality_sets": ["sound", "image+sound", "image+sound+word"],
        "stages": ["sound", "image+sound", "image+sound+word"],
    }


def test_for_people_every_part_has_its_line(tiny):
    result = CliRunner().invoke(app, [str(tiny.root)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "ok service tiny"
    assert "ok variant whole (onnx) answers sound, image+sound, image+sound+word" in lines
    assert "ok validation.npz: 120 items" in lines


def test_an_emulated_service(tiny):
    checked = check_service(open_service(tiny.root / "emulated.yaml"))
    assert [variant.stages for variant in checked.variants] == [("image", "sound", "word", "head")]
    assert checked.warnings == ()


def test_a_missing_profile_is_a_warning_that_says_what_to_run(tiny):
    (tiny.root / "profile.json").unlink()
    checked = check_service(tiny)
    assert checked.ok
    (warning,) = checked.warnings
    assert warning.endswith(f"run: poise profile {tiny.root}")


def test_a_stale_profile_is_a_warning(tiny):
    hashes = tiny.file_hashes() | {"late/head.onnx": "sha256:0"}
    checked = check_service(with_profile(tiny, files=hashes))
    (warning,) = checked.warnings
    assert "late/head.onnx has changed since it was profiled; run: poise profile" in warning


def test_the_profile_of_another_machine_is_a_warning(tiny):
    here = fingerprint(onnx_runtime_name())
    assert check_service(with_profile(tiny, device=here)).warnings == ()
    there = msgspec.structs.replace(here, cpu="Abacus", cores=1000)
    warnings = check_service(with_profile(tiny, device=there)).warnings
    assert len(warnings) == 2
    assert "measured with cpu Abacus, and here it is" in warnings[0]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "late/head.onnx",
            b"junk",
            "late/head.onnx: variants.late.head: not a model that ONNX Runtime can load",
        ),
        ("validation.npz", b"junk", "validation.npz: not an npz of plain arrays"),
        ("test.npz", None, "service.yaml: test: file 'test.npz' is missing"),
        (
            "late/word.onnx",
            None,
            "service.yaml: variants.late.encoders.word: file 'late/word.onnx' is missing",
        ),
        ("profile.json", b"{}", "profile.json: "),
    ],
)
def test_what_cannot_be_used_is_an_error(tiny, file, content, words):
    (tiny.root / file).unlink() if content is None else (tiny.root / file).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_service(tiny)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "service.yaml: metric: file 'met.py' is missing"),
        ("def other(): ...", "service.yaml: metric: met.py has no function 'score'"),
        (
            "import nothing_of_the_kind",
            "service.yaml: metric: met.py fails when imported: ModuleNotFoundError",
        ),
    ],
)
def test_the_metric_is_opened_too(tiny, code, words):
    text = tiny.file.read_text()
    tiny.file.write_text(text + "metric: python:met:score\n")
    if code is not None:
        (tiny.root / "met.py").write_text(code)
    with pytest.raises(ConfigError) as caught:
        check_service(open_service(tiny.root))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words", "status"),
    [
        (
            "{max_batch: 8}",
            "{max_batch: 8, policy: best}",
            "unknown policy 'best', expected one of cheapest, edf",
            2,
        ),
        ("{max_batch: 8}", "{max_batch: 100000}", "expected at most 4096", 2),
        ("accuracy_floor: 0.6", "accuracy_floor: 0.999", "no mode reaches floor 0.999", 0),
        ("latency_slo_ms: 100,", "latency_slo_ms: 0.001,", "no answer takes less than", 0),
        ("budget: ", "adapter: {policy: poise}\nbudget: ", "adapter policy 'poise' has no effect yet", 0),
        (
            "budget: ",
            "allocation: [{variants: [late], threads: 7}]\nbudget: ",
            "no latency measured with 7 threads",
            2,
        ),
    ],
)
def test_what_could_not_be_served_as_asked_is_said(tmp_path, old, new, words, status):
    folder = tmp_path / "tiny"
    copy_of_tiny(folder)
    file = folder / "service.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    command = [sys.executable, "-m", "poise.cli.main", "check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr
