"""The demo, short, on a copy of the real example: it ends by itself and leaves its report and plots."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.mark.slow
def test_the_demo_reports_both_policies(tmp_path: Path) -> None:
    service, out = tmp_path / "digits", tmp_path / "out"
    shutil.copytree(DIGITS, service, ignore=shutil.ignore_patterns("cache", "profile.json"))
    command = [
        sys.executable, "-m", "poise.cli.main", "demo", "--service", str(service), "--out", str(out),
        "--seconds", "4", "--budget-s", "4",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    assert set(report["runs"]) == {"edf", "poise"}
    low, high = report["accuracy_range"]
    assert low < report["floor"] < high
    for policy, run in report["runs"].items():
        assert run["run"]["jobs"] > 0, policy
        assert run["run"]["failed"] == {}, policy
        assert set(run["run"]["modality_share"])
    # The same jobs were sent to both; every answer of edf used everything.
    assert report["runs"]["edf"]["run"]["jobs"] == report["runs"]["poise"]["run"]["jobs"]
    assert list(report["runs"]["edf"]["run"]["modality_share"]) == ["clip+speech+word"]
    for name in ("frontier.png", "timeline.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_the_demo_outside_the_repository_says_what_it_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poise.cli.main", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "--service" in done.stderr
