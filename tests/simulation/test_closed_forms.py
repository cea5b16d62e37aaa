"""The simulator against queueing theory: M/D/1, M/M/1, M/M/c, and M/G/1 with times from a profile.

Runs are seeded, so nothing here depends on luck; the tolerance is three standard errors of such a run, or what is
said beside it.
"""

import math
from collections import deque

import numpy as np
import pytest

from poise.domain.job import Job
from poise.planning.service_time import LEVELS, StageTime
from poise.scheduling.commands import Answer, AnswerPart, BatchPart, Command, RunBatch
from poise.scheduling.events import BatchDone, JobArrived, WorkerReady
from poise.scheduling.scheduler import Scheduler
from poise.simulation.driver import Driver
from poise.simulation.simulate import simulate
from poise.simulation.workers import workers_of
from poise.workload import JobDraw
from poise.workload.outcomes import Outcomes

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
    gaps = np.random.default_rng(3).exponential(SERVICE_S / utilisation, count)
    jobs = (
        (at_s, Job(i, "interactive", 1, at_s, at_s + HOUR, 0.0, 3))
        for i, at_s in enumerate(np.cumsum(gaps).tolist())
    )
    outcomes = driven(scheduler, times, setting, jobs)
    assert outcomes.columns.number.tolist() == list(range(count))
    return (outcomes.latency_s - SERVICE_S).tolist()


def driven(scheduler, times, setting, jobs) -> Outcomes:
    service, profile = setting
    driver = Driver(scheduler, times, workers_of(service, profile), service.modality_index)
    driver.run(jobs)
    assert driver.outcomes.answered.all()
    assert not driver.outcomes.late.any()
    return driver.outcomes


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


def erlang_c(load: float, workers: int) -> float:
    """The share of jobs that wait in M/M/c; ``load`` is the arrival rate times the mean service time."""
    terms = [load**k / math.factorial(k) for k in range(workers + 1)]
    waiting = terms[-1] * workers / (workers - load)
    return waiting / (sum(terms[:-1]) + waiting)


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_with_times_without_memory(emulated, workers):
    count, load = 150_000, 0.75 * workers
    rate = load / SERVICE_S
    at_s = np.cumsum(np.random.default_rng(9).exponential(1 / rate, count)).tolist()
    jobs = [(now_s, Job(i, "interactive", 1, now_s, now_s + HOUR, 0.0, 3)) for i, now_s in enumerate(at_s)]
    latency_s = driven(
        FirstComeFirstServed(), Exponential(), emulated(budget={"cores": workers}), jobs
    ).latency_s
    waits_s = erlang_c(load, workers) * SERVICE_S / (workers - load)
    # Those who wait do so as in M/M/1 with one worker that is as fast as all of these: its error is smaller.
    assert latency_s.mean() == pytest.approx(waits_s + SERVICE_S, abs=3 * standard_error_s(0.75, count))


def test_the_latencies_of_one_worker_are_exponential_when_its_times_are(emulated):
    # M/M/1: the time in system is exponential with mean S/(1 − ρ), so each quantile is known.
    count, utilisation = 150_000, 0.6
    setting = emulated(budget={"cores": 1})
    waits = waits_s(FirstComeFirstServed(), Exponential(), setting, utilisation, count)
    latency_s = np.array(waits) + SERVICE_S
    mean_s = SERVICE_S / (1 - utilisation)
    for share in (0.5, 0.9, 0.99):
        # 3 %: neighbouring jobs are alike, so that the run counts for some thousands of independent ones.
        assert np.quantile(latency_s, share) == pytest.approx(-math.log(1 - share) * mean_s, rel=0.03)


def test_a_simulated_profile_waits_as_its_moments_say(emulated):
    # M/G/1 through ``simulate``, with times drawn from the profile's quantiles.
    count, utilisation = 150_000, 0.6
    setting = emulated(
        spread=0.5, budget={"cores": 1}, classes={"interactive": {"latency_slo_ms": HOUR * 1000}}
    )
    mean_s, square_s2 = moments_of_one_item(setting, "small")
    rate = utilisation / mean_s
    at_s = np.cumsum(np.random.default_rng(4).exponential(1 / rate, count)).tolist()
    draws = [JobDraw(i, now_s, "interactive", 1, None, None, 3) for i, now_s in enumerate(at_s)]
    service, profile = setting
    stand_in = FirstComeFirstServed()
    report = simulate(service, profile, draws, duration_s=at_s[-1], scheduler=stand_in, seed=2).report
    wait_s = rate * square_s2 / (2 * (1 - utilisation))
    assert report.latency_s is not None
    # Over eight seeds the error had a standard deviation of 0.5 %.
    assert report.latency_s.mean == pytest.approx(wait_s + mean_s, rel=0.015)


def moments_of_one_item(setting, variant: str) -> tuple[float, float]:
    """The mean and the mean square of a batch of one item, from the quantiles of its stages."""
    _, profile = setting
    mean_s = variance_s2 = 0.0
    for stage in profile.variant(variant).stages:
        knots = StageTime(stage, threads=1).knots[1]
        pieces = list(zip(knots, knots[1:], np.diff(LEVELS), strict=False))
        mean = sum(share * (low + high) / 2 for low, high, share in pieces)
        square = sum(share * (low**2 + low * high + high**2) / 3 for low, high, share in pieces)
        mean_s += mean
        variance_s2 += square - mean**2
    return mean_s, variance_s2 + mean_s**2
