"""The driver against queueing theory: mean waits of M/D/1 and M/M/1.

Runs are seeded, so nothing here depends on luck; the tolerance is three standard errors of such a run.
"""

import math
from collections import deque

import numpy as np
import pytest

from poise.domain.job import Job
from poise.scheduling.commands import Answer, AnswerPart, BatchPart, Command, RunBatch
from poise.scheduling.events import BatchDone, JobArrived, WorkerReady
from poise.scheduling.scheduler import Scheduler
from poise.simulation.driver import Driver
from poise.simulation.workers import workers_of

SERVICE_S = 0.01
HOUR = 3600.0


class FirstComeFirstServed:
    """One item of one job at a time, in order of arrival."""

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()
        self.idle: list[int] = []
        self.running: dict[int, Job] = {}
        self.batches = 0

    def handle(self, event) -> list[Command]:
        out: list[Command] = []
        if isinstance(event, JobArrived):
            self.queue.append(event.job)
        elif isinstance(event, WorkerReady):
            self.idle.append(event.worker_id)
        elif isinstance(event, BatchDone):
            self.idle.append(event.worker_id)
            job = self.running.pop(event.batch_id)
            out.append(Answer(job.id, (AnswerPart(0, 1, 3, "small"),), 0.8, 0.0, 0.0, False))
        while self.queue and self.idle:
            job = self.queue.popleft()
            self.batches += 1
            self.running[self.batches] = job
            part = BatchPart(job.id, 0, 1, 3)
            out.append(RunBatch(self.batches, self.idle.pop(0), "small", (part,), SERVICE_S))
        return out


class Constant:
    """Every batch takes the same time."""

    def prepare(self, variant, threads, device):
        pass

    def draw(self, variant, threads, device, parts):
        return SERVICE_S, ()


class Exponential(Constant):
    """Times without memory."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(7)

    def draw(self, variant, threads, device, parts):
        return float(self.rng.exponential(SERVICE_S)), ()


def waits_s(scheduler, times, setting, utilisation: float, count: int) -> list[float]:
    """How long each job waited, in order of arrival; arrivals are Poisson."""
    service, profile = setting
    gaps = np.random.default_rng(3).exponential(SERVICE_S / utilisation, count)
    jobs = (
        (at_s, Job(i, "interactive", 1, at_s, at_s + HOUR, 0.0, 3))
        for i, at_s in enumerate(np.cumsum(gaps).tolist())
    )
    driver = Driver(scheduler, times, workers_of(service, profile), service.modality_index)
    driver.run(jobs)
    assert [outcome.number for outcome in driver.outcomes] == list(range(count))
    assert all(outcome.on_time for outcome in driver.outcomes)
    return [outcome.latency_s - SERVICE_S for outcome in driver.outcomes]


def theory_s(utilisation: float, squared_variation: float) -> float:
    """Pollaczek and Khinchine: the mean wait of M/G/1."""
    return utilisation / (1 - utilisation) * (1 + squared_variation) / 2 * SERVICE_S


def standard_error_s(utilisation: float, count: int) -> float:
    """Of the mean wait of so many jobs of M/M/1 (Daley 1968); that of M/D/1 is smaller."""
    r = utilisation
    return math.sqrt(r * (2 + 5 * r - 4 * r**2 + r**3) / (1 - r) ** 4 / count) * SERVICE_S


@pytest.mark.parametrize("utilisation", [0.4, 0.8])
@pytest.mark.parametrize(("times", "squared_variation"), [(Constant, 0.0), (Exponential, 1.0)])
def test_mean_wait_of_first_come_first_served(emulated, times, squared_variation, utilisation):
    count = 150_000
    setting = emulated(budget={"cores": 1})
    got = np.mean(waits_s(FirstComeFirstServed(), times(), setting, utilisation, count))
    theory = theory_s(utilisation, squared_variation)
    assert got == pytest.approx(theory, abs=3 * standard_error_s(utilisation, count))


@pytest.mark.parametrize(("times", "squared_variation"), [(Constant, 0.0), (Exponential, 1.0)])
def test_the_scheduler_with_deadlines_alike_and_batches_of_one(emulated, times, squared_variation):
    # Deadlines in order of arrival and an hour away: earliest deadline first is first come first served.
    count = 20_000
    setting = emulated(
        budget={"cores": 1},
        classes={"interactive": {"latency_slo_ms": HOUR * 1000}},
        scheduler={"policy": "edf", "max_batch": 1, "calibrate": False},
    )
    got = waits_s(Scheduler(*setting), times(), setting, 0.6, count)
    theory = theory_s(0.6, squared_variation)
    assert np.mean(got) == pytest.approx(theory, abs=3 * standard_error_s(0.6, count))
    assert got == waits_s(FirstComeFirstServed(), times(), setting, 0.6, count)
