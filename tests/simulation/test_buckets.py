"""Simulated batches of inputs with buckets take the time of their own lengths."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from tests.runtimes.lengths import LENGTHS

from poise.domain.job import Job
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.files import open_service
from poise.scheduling.commands import BatchPart, Command, RunBatch
from poise.scheduling.events import BatchDone, Event
from poise.scheduling.scheduler import Scheduler
from poise.simulation.driver import Driver
from poise.simulation.service_times import ServiceTimes
from poise.simulation.simulate import arrivals_of
from poise.simulation.workers import workers_of
from poise.workload.jobs import JobDraw

SPEECH, WORD, BOTH = 1, 2, 3
SPEECH_S = (0.0004, 0.0008, 0.0016)
"""What the profile says of an item of speech, by rung: 4, 8 and 16 frames."""


@pytest.fixture(scope="module")
def lengths() -> tuple[Service, Profile]:
    folder = open_service(LENGTHS)
    return folder.service, folder.load_profile()


@pytest.mark.parametrize(
    ("parts", "speech_s"),
    [
        ((BatchPart(1, 0, 3, BOTH, 0),), 3 * SPEECH_S[0]),
        ((BatchPart(1, 0, 3, BOTH, 1), BatchPart(2, 0, 1, SPEECH, 0)), 4 * SPEECH_S[1]),
        ((BatchPart(1, 0, 1, SPEECH, 0), BatchPart(2, 0, 1, SPEECH, 2)), 2 * SPEECH_S[2]),
        ((BatchPart(1, 0, 2, SPEECH, 0), BatchPart(2, 0, 5, WORD, 2)), 2 * SPEECH_S[0]),
        ((BatchPart(1, 0, 2, SPEECH, 7),), 2 * SPEECH_S[2]),
    ],
)
def test_a_stage_takes_the_time_of_the_longest_item_that_uses_it(lengths, parts, speech_s):
    service, profile = lengths
    times = ServiceTimes(profile, service.modality_index, np.random.default_rng(1))
    times.prepare("late", 1, "cpu")
    total_s, measured = times.draw("late", 1, "cpu", parts)
    items = sum(part.items for part in parts)
    words = sum(part.items for part in parts if part.modalities & WORD)
    expected = {"speech": speech_s, **({"word": 0.0001 * words} if words else {}), "head": 0.00001 * items}
    assert dict(measured) == pytest.approx(expected)
    assert total_s == pytest.approx(sum(expected.values()) + 0.00001 * items)


def test_what_the_scheduler_expects_is_what_the_simulator_takes(lengths):
    """Jobs of mixed lengths that all carry speech and words; the profile is right, so each estimate is."""
    service, profile = lengths
    classes = {
        "quick": msgspec.structs.replace(service.classes["patient"], latency_slo_ms=50, accuracy_floor=0.9)
    }
    service = msgspec.structs.replace(service, classes=classes)
    expected: dict[int, float] = {}
    taken: dict[int, float] = {}

    def observe(event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, BatchDone):
            taken[event.batch_id] = event.run_s
        expected.update({c.batch_id: c.expected_s for c in commands if isinstance(c, RunBatch)})

    rng = np.random.default_rng(3)
    jobs = []
    for number, (at_s, rung) in enumerate(
        zip(np.cumsum(rng.exponential(0.001, 2000)).tolist(), rng.integers(0, 3, 2000).tolist(), strict=True)
    ):
        jobs.append((at_s, Job(number, "quick", 1, at_s, at_s + 0.05, 0.9, BOTH, 0, rung)))
    driver = Driver(
        Scheduler(service, profile),
        ServiceTimes(profile, service.modality_index, rng),
        workers_of(service, profile),
        service.modality_index,
        observe=observe,
    )
    driver.run(jobs)
    assert len(taken) > 100
    assert taken == pytest.approx(expected, rel=1e-6)


def test_draws_are_as_long_as_the_longest_bucket(lengths):
    draw = JobDraw(
        number=1,
        arrival_s=0.0,
        slo_class="patient",
        items=1,
        available=BOTH,
        deadline_s=None,
        accuracy_floor=None,
    )
    ((_, job),) = arrivals_of([draw], lengths[0])
    assert job.bucket == 2
