"""A run that is interrupted goes on where it stopped: nothing is missing afterwards, and nothing was measured twice."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from poise.domain.profile import LatencyPoint, Profile
from poise.files import ServiceFolder, open_service
from poise.profiling import PARTIAL_SUFFIX, PartialFile, measure_profile, profiler
from poise.profiling.footprint import Footprint
from poise.profiling.latency import settings
from poise.profiling.partial import Partial, SettingRun
from poise.runtimes.cores import usable_cores

ROUNDS = 5
two_cores = pytest.mark.skipif(len(usable_cores()) < 2, reason="wants two cores")


class StoppedError(Exception):
    pass


class Steps:
    """What was measured, in order; ends the run after some of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[object, ...]] = []
        self.last: int | None = None
        self.begun = 0
        monkeypatch.setattr(profiler, "SAVE_EVERY_S", 0.0)
        monkeypatch.setattr(profiler, "measure_footprint", self.footprint)
        monkeypatch.setattr(profiler, "measure_way", self.way)
        for name, said in (("measure_accuracy", self.accuracy), ("time_stages", self.rounds)):
            monkeypatch.setattr(profiler, name, said(getattr(profiler, name)))

    def note(self, *step: object) -> None:
        self.done.append(step)

    def footprint(self, folder: ServiceFolder, variant: str, *, threads: int) -> Footprint:
        self.note("footprint", variant)
        return Footprint(load_time_s=0.5, memory_bytes=7)

    def way(self, folder, modalities, batches, *, budget_s) -> list[LatencyPoint]:
        self.note("way", modalities)
        return [LatencyPoint(batch=batch, mean_s=1e-5, busy_cores=1) for batch in batches]

    def accuracy(self, real: Callable[..., object]) -> Callable[..., object]:
        def measure(service, variant, *rest, **named):
            found = real(service, variant, *rest, **named)
            self.note("accuracy", variant)
            return found

        return measure

    def rounds(self, real: Callable[..., None]) -> Callable[..., None]:
        def measure(calls, *, timings, on_round, **named):
            self.begun += 1

            def noting(done: float) -> None:
                self.note("round", tuple(named["cores"]), self.begun_setting, timings.rounds)
                on_round(done)

            self.begun_setting = named["on_visit"].__self__._wanted.size + 1  # workers side by side
            real(calls, timings=timings, on_round=noting, **named)

        return measure

    def on_progress(self, done_frac: float, left_s: float, what: str) -> None:
        assert 0 <= done_frac <= 1
        if self.last is not None and len(self.done) >= self.last:
            raise StoppedError


def measure(folder: ServiceFolder, steps: Steps, path: Path | None) -> tuple[Profile, list[str]]:
    told: list[str] = []
    profile = measure_profile(
        folder,
        budget_s=0.0,
        threads=(1,),
        partial=PartialFile(path, told.append),
        on_progress=steps.on_progress,
    )
    return profile, told


def shape(profile: Profile) -> list[object]:
    return [
        (v.name, v.modes, v.memory_bytes, s.name, p.threads, p.busy_cores, p.batch)
        for v in profile.variants
        for s in v.stages
        for p in s.latency
    ]


def test_nothing_is_missing_and_nothing_is_measured_twice(tiny, monkeypatch):
    steps = Steps(monkeypatch)
    path = tiny.root / "profile.json.partial"
    whole, _ = measure(tiny, steps, None)
    everything = steps.done
    count = 1 + (len(usable_cores()) > 1)
    kinds = [step[0] for step in everything]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "accuracy": 2,
        "footprint": 2,
        "way": 1,
        "round": ROUNDS * count,
    }
    for stop in (1, 3, 5, 7, 10, len(everything) - 1):
        steps.done, steps.last = [], stop
        with pytest.raises(StoppedError):
            measure(tiny, steps, path)
        steps.last = None
        assert steps.done == everything[: len(steps.done)]
        assert len(steps.done) >= stop
        profile, told = measure(tiny, steps, path)
        assert steps.done == everything
        assert told[0].startswith("going on with an interrupted run, ")
        assert shape(profile) == shape(whole)
        assert all(
            p.runs is None or p.runs <= 16 * ROUNDS
            for v in profile.variants
            for s in v.stages
            for p in s.latency
        )
        path.unlink()


def test_another_model_means_starting_over(tiny, monkeypatch):
    steps = Steps(monkeypatch)
    path = tiny.root / "profile.json.partial"
    steps.last = 4
    with pytest.raises(StoppedError):
        measure(tiny, steps, path)
    (tiny.root / "late" / "word.onnx").write_bytes((tiny.root / "late" / "word.onnx").read_bytes() + b"\n\0")
    steps.done, steps.last = [], 1
    with pytest.raises(StoppedError):
        measure(open_service(tiny.root), steps, path)
    assert ("accuracy", "late") in steps.done


@pytest.mark.parametrize("changed", ["machine", "batch", "metric", "independent"])
def test_what_else_makes_it_another_run(tiny, rewrite, monkeypatch, changed):
    steps = Steps(monkeypatch)
    path = tiny.root / "profile.json.partial"
    folder = tiny
    if changed == "metric":
        (tiny.root / "mine.py").write_text("def half(outputs, labels): return labels * 0 + 0.5\n")
        folder = rewrite("validation:", "metric: python:mine:half\nvalidation:")
    measure(folder, steps, path)
    assert path.is_file()  # whoever writes the profile removes it
    steps.done = []
    _, told = measure(folder, steps, path)
    assert (told[0][:10], steps.done) == ("going on w", [])
    if changed == "machine":
        monkeypatch.setattr("poise.runtimes.machine._cpu_model", lambda: "another")
    elif changed == "batch":
        folder = rewrite("max_batch: 8", "max_batch: 4")
    elif changed == "metric":
        (tiny.root / "mine.py").write_text("def half(outputs, labels): return labels * 0 + 0.25\n")
    else:
        (tiny.root / "validation.independent.json").write_text('{"word": 7}')
    profile, told = measure(folder, steps, path)
    assert told == [
        "the interrupted run was of other files, another machine or other settings: starting over"
    ]
    assert [step[0] for step in steps.done].count("accuracy") == 2
    if changed == "metric":
        assert {mode.accuracy for variant in profile.variants for mode in variant.modes} == {0.25}


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\xc1"])
def test_a_broken_file_means_starting_over(tiny, monkeypatch, content):
    steps = Steps(monkeypatch)
    path = tiny.root / "profile.json.partial"
    path.write_bytes(content)
    _, told = measure(tiny, steps, path)
    assert told[0].startswith("profile.json.partial cannot be used (")
    assert len(steps.done) > 5


def test_where_nothing_can_be_kept_it_is_said_once(tiny, monkeypatch):
    steps = Steps(monkeypatch)
    _, told = measure(tiny, steps, tiny.file / "below a file")
    assert told == ["below a file cannot be written (Not a directory): an interrupted run would start over"]


def test_settings_have_runs_of_their_own():
    kept = Partial("key")
    alone, beside = (settings((1,), cores)[-1] for cores in (1, 2))
    run = kept.at(beside)
    assert kept.at(alone) is not run
    assert kept.at(beside) is run
    assert kept.latency == [SettingRun(beside), SettingRun(alone)]
    assert kept.latency[0].timings is not kept.latency[1].timings


def command(folder: ServiceFolder, *words: str) -> list[str]:
    return [sys.executable, "-m", "poise.cli.main", "profile", str(folder.root), *words]


@two_cores
def test_a_command_that_is_interrupted_goes_on(tiny):
    kept = tiny.root / f"profile.json{PARTIAL_SUFFIX}"
    # where a shell runs the tests in its background, they ignore SIGINT, and so would what they start
    arguments = ["env", "--default-signal=INT", *command(tiny, "--budget-s", "500", "--threads", "1")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as first:
        while first.poll() is None and not kept.exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                first.wait(0.01)
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 130, said
    assert "interrupted; the same command goes on from here" in said
    assert not (tiny.root / "profile.json").exists()
    assert kept.is_file()
    arguments = command(tiny, "--budget-s", "0", "--threads", "1", "--json")
    again = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    assert "going on with an interrupted run" in again.stderr
    assert [variant["name"] for variant in json.loads(again.stdout)["variants"]] == ["late", "whole"]
    assert not kept.exists()
    kept.write_bytes(b"junk")
    fresh = subprocess.run([*arguments, "--fresh"], capture_output=True, text=True, check=True, timeout=120)
    assert "cannot be used" not in fresh.stderr
    assert not kept.exists()
