"""``poise plan`` as a user types it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import TINY, copy_of_tiny


def poise(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "poise.cli.main", "plan", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_frontier_point_as_json() -> None:
    done = poise(str(TINY), "--json")
    assert done.returncode == 0, done.stderr
    found = {one["variant"]: one["batches"] for one in json.loads(done.stdout)}
    assert set(found) == {"late", "whole"}
    for batches in found.values():
        assert [points[0]["batch"] for points in batches] == list(range(1, 9))
        for points in batches:
            for before, after in itertools.pairwise(points):
                assert before["latency_s"] < after["latency_s"]
                assert before["accuracy"] < after["accuracy"]
            for point in points:
                assert sum(point["counts"].values()) == point["batch"]
    labels = {label for points in found["whole"] for point in points for label in point["counts"]}
    assert labels <= {"sound", "image+sound", "image+sound+word"}


def test_one_plan_is_the_cheapest_of_all_that_reach_the_accuracy() -> None:
    every = json.loads(poise(str(TINY), "--json").stdout)
    points = [p for one in every for points in one["batches"] for p in points if p["batch"] == 4]
    target = sorted(p["accuracy"] for p in points)[len(points) // 2]
    done = poise(str(TINY), "--batch", "4", "--accuracy", str(target), "--json")
    found = json.loads(done.stdout)
    assert list(found) == ["variant", "threads", "batch", "latency_s", "accuracy", "counts"]
    assert found["accuracy"] >= target - 1e-9
    assert found["latency_s"] == min(p["latency_s"] for p in points if p["accuracy"] >= target - 1e-9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch", "4", "--accuracy", "1.0"), "not achievable: the highest is"),
        (("--accuracy", "0.5"), "--accuracy goes with --batch"),
        (("--batch", "99", "--accuracy", "0.5"), "expected 1 to 8"),
        (("--batch", "9"), "expected 1 to 8"),
        (("--variant", "huge"), "expected one of ['late', 'whole']"),
        (("--threads", "7"), "no latency measured with 7 threads"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words: tuple[str, ...], said: str) -> None:
    done = poise(str(TINY), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_every_point_has_the_documented_fields() -> None:
    points = [p for one in json.loads(poise(str(TINY), "--json").stdout) for b in one["batches"] for p in b]
    assert all(list(point) == ["batch", "latency_s", "accuracy", "counts"] for point in points)
    labels = {label for point in points for label in point["counts"]}
    assert all(label.split("+") == sorted(label.split("+")) for label in labels)
    assert any("+" in label for label in labels)
    assert all(count > 0 for point in points for count in point["counts"].values())


def test_the_highest_accuracy_that_is_named_can_be_had() -> None:
    refused = poise(str(TINY), "--batch", "3", "--accuracy", "1.0", "--json")
    highest = refused.stderr.split("the highest is ")[1].strip()
    done = poise(str(TINY), "--batch", "3", "--accuracy", highest, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] >= float(highest)


def test_kept_frontiers_that_are_spoilt_change_nothing_but_for_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    copy_of_tiny(folder)
    before = poise(str(folder), "--json")
    assert before.stderr == ""
    (folder / "profile.json.frontiers").write_bytes(b"spoilt")
    after = poise(str(folder), "--json")
    assert after.returncode == 0
    assert after.stdout == before.stdout
    assert "profile.json.frontiers cannot be used and is made again" in after.stderr


def test_a_missing_profile_says_what_to_run(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    copy_of_tiny(folder)
    (folder / "profile.json").unlink()
    done = poise(str(folder))
    assert done.returncode == 2
    assert "poise profile" in done.stderr


def test_the_plot_is_written(tmp_path: Path) -> None:
    plot = tmp_path / "frontier.png"
    assert poise(str(TINY), "--plot", str(plot), "--json").returncode == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert poise(str(TINY), "--plot", str(tmp_path / "no" / "such" / "f.png")).returncode == 2
