"""``poise train-forecaster`` as a user types it."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from poise.forecasting.base import RateHistory
from poise.forecasting.seasonal import Seasonal, decode_seasonal


def poise(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "poise.cli.main", "train-forecaster", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write five hours around 30 jobs/s, the first of them a gap."""
    rates = np.random.default_rng(1).poisson(30, 5 * 3600)
    rates[:3600] = 0
    path = tmp_path_factory.mktemp("trace") / "load.txt.xz"
    path.write_bytes(lzma.compress("\n".join(map(str, rates.tolist())).encode()))
    return path


def test_a_file_that_forecasts_is_written(trace: Path, tmp_path: Path) -> None:
    to = tmp_path / "load.json"
    done = poise(
        str(trace), "--out", str(to), "--horizon", "10", "--gaps", "--begins-at-s", "86400", "--json"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.pop("took_s") > 0
    assert said == {
        "kind": "seasonal",
        "file": str(to),
        "bytes": to.stat().st_size,
        "horizons_s": [10],
        "observed_s": 4 * 3600,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["load.json"]
    model = decode_seasonal(to.read_bytes(), to.name)
    assert model.until_s == 86_400 + 5 * 3600
    steady = RateHistory(np.random.default_rng(2).poisson(30, 4000).astype(np.float64), 0.0)
    found = Seasonal(model).forecast(steady, 10)
    assert found.forecaster == "seasonal"
    assert 33 < found.at(0.5) < 44  # the largest of ten around 30


def test_only_the_slice_that_is_asked_for_is_read(trace: Path, tmp_path: Path) -> None:
    done = poise(
        str(trace), "--out", str(tmp_path / "m"), "--gaps", "--from-s", "3600", "--duration-s", "7200"
    )
    assert done.returncode == 2
    assert "load.txt.xz: 7,200 s of load are too little to train on" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kind", "magic"), "magic"),
        (("--horizon", "0"), "--horizon: got horizons [0], expected 1 to 600 seconds"),
        (("--horizon", "30", "--horizon", "601"), "expected 1 to 600 seconds"),
        (("--kind", "lstm", "--horizon", "30"), "--horizon: an lstm forecasts the next minute"),
        (("--kind", "lstm", "--duration-s", "3600", "--gaps"), "0 minutes of load were observed"),
        (("--from-s", "18001"), "leaves the trace"),
        (("--duration-s", "20000"), "leaves the trace"),
        (("--begins-at-s", "nan"), "--begins-at-s"),
    ],
)
def test_bad_words_are_told_what_was_expected(
    trace: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = poise(str(trace), "--out", str(tmp_path / "m"), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_used_are_named(trace: Path, tmp_path: Path) -> None:
    assert (
        "nowhere.txt: the trace cannot be read" in poise("nowhere.txt", "--out", str(tmp_path / "m")).stderr
    )
    words = tmp_path / "words.txt"
    words.write_text("12\nmany\n")
    assert "words.txt:2: got 'many'" in poise(str(words), "--out", str(tmp_path / "m")).stderr
    there = poise(str(trace), "--out", str(tmp_path / "no" / "m"))
    assert there.returncode == 2
    assert "--out: there is no folder" in there.stderr
    folder = poise(str(trace), "--out", str(tmp_path), "--horizon", "10", "--gaps")
    assert folder.returncode == 2
    assert "--out" in folder.stderr
