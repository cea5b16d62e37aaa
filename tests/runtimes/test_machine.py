"""Cores come from affinity and quota, and what a measurement changes is given back."""

from __future__ import annotations

import os

from poise.runtimes import machine
from poise.runtimes.cores import usable_cores


def test_pinning_and_priority_are_given_back():
    affinity, policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
    core = usable_cores()[-1]
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
    assert found.cores == len(usable_cores())
    assert found.runtime == "onnxruntime 1.2.3"
