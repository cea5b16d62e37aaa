"""Cores come from affinity and quota, and what a measurement changes is given back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poise.runtimes import machine


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("garbage", 4)]
)
def test_a_quota_allows_fewer_cores(monkeypatch, tmp_path, text, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5, 7})
    monkeypatch.setattr(machine, "_QUOTA_V2", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert machine.usable_cores() == (0, 2, 5, 7)[:cores]


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("300000", 3)])
def test_a_quota_of_the_first_version(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_QUOTA_V2", Path("/nowhere"))
    monkeypatch.setattr(machine, "_QUOTA_V1", tmp_path / "quota")
    monkeypatch.setattr(machine, "_PERIOD_V1", tmp_path / "period")
    (tmp_path / "quota").write_text(quota)
    (tmp_path / "period").write_text("100000")
    assert len(machine.usable_cores()) == cores


def test_pinning_and_priority_are_given_back():
    affinity, policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    core = machine.usable_cores()[-1]
    with machine.pinned([core]), machine.first_in_line():
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == affinity
    assert os.sched_getscheduler(0) == policy


def test_without_the_right_to_go_first_nothing_changes(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with machine.first_in_line():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_fingerprint_names_the_machine():
    found = machine.fingerprint("onnxruntime 1.2.3")
    assert found.cpu
    assert found.cores == len(machine.usable_cores())
    assert found.runtime == "onnxruntime 1.2.3"
