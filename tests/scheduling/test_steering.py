"""How ``poise`` leaves a job to the workers whose variants are within their share, and when it does not any more."""

from __future__ import annotations

from typing import Any

import pytest

from poise.scheduling.commands import Command, RunBatch, WakeAt
from poise.scheduling.events import AllocationAdopted, Woke, WorkerLost, WorkerReady, WorkerRetiring

TWO = {"a": {"runtime": "emulated"}, "b": {"runtime": "emulated"}}


@pytest.fixture
def apart(hand, make_profile) -> Any:
    """Variants alike, each held by a worker of its own (0: a, 1: b); all of the load is to be b's."""
    h = hand(profile=make_profile(variants=TWO), variants=TWO, workers=0)
    for worker, variant in enumerate(TWO):
        h.handle(WorkerReady(0.0, worker, (variant,)))
    h.handle(AllocationAdopted(0.0, {"normal": {"b": 2.0}}))
    return h


def workers_of(commands: list[Command]) -> list[int]:
    return [command.worker_id for command in commands if isinstance(command, RunBatch)]


def test_a_worker_without_a_share_is_left_idle_while_the_other_has_the_time(apart) -> None:
    assert workers_of(apart.arrive(1, 0.0)) == [1]
    commands = apart.arrive(2, 0.001)
    assert workers_of(commands) == []
    assert workers_of(apart.finish(1, 0.011)) == [1]
    assert apart.scheduler.deviations == {"normal": 0}


def test_it_is_looked_at_again_in_time_and_the_departure_is_counted(apart) -> None:
    """The other worker does not come back when it should: the idle one takes the job before it is too late."""
    apart.arrive(1, 0.0)
    commands, taken_s = apart.arrive(2, 0.001), 0.0
    while not workers_of(commands):
        wakes_s = [command.at_s for command in commands if isinstance(command, WakeAt)]
        assert wakes_s
        assert wakes_s[0] > taken_s
        taken_s = wakes_s[0]
        commands = apart.handle(Woke(taken_s))
    assert workers_of(commands) == [0]
    assert 0.02 < taken_s < 0.1 - 0.011
    assert apart.scheduler.deviations == {"normal": 1}


@pytest.mark.parametrize("gone", [WorkerRetiring, WorkerLost])
def test_a_share_without_a_worker_counts_for_nothing(apart, gone) -> None:
    apart.arrive(1, 0.0)
    apart.arrive(2, 0.001)
    assert 0 in workers_of(apart.handle(gone(0.002, 1)))
    assert apart.scheduler.deviations == {"normal": 0}


def test_a_job_with_no_time_to_spare_is_taken_at_once(apart) -> None:
    apart.arrive(1, 0.0)
    assert workers_of(apart.arrive(2, 0.001, within_s=0.015)) == [0]
    assert apart.scheduler.deviations == {"normal": 1}


def test_the_free_policy_leaves_nobody_idle(hand, make_profile) -> None:
    h = hand(profile=make_profile(variants=TWO), variants=TWO, workers=0)
    for worker, variant in enumerate(TWO):
        h.handle(WorkerReady(0.0, worker, (variant,)))
    assert workers_of(h.arrive(1, 0.0) + h.arrive(2, 0.001)) == [0, 1]
