"""One simulated run of one system on one slice of the trace, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np

from poise.adapting.policies import Served
from poise.domain.rate_table import RateTable
from poise.forecasting.base import Forecaster, RateHistory
from poise.forecasting.burst import Burst
from poise.forecasting.lstm import open_lstm
from poise.simulation.adapted import AdaptedRun, simulate_adapted
from poise.simulation.rate_table import build_rate_table
from poise.workload.arrivals import poisson_in_rates
from poise.workload.jobs import JobDraw

from . import reference

LSTM = Path(__file__).resolve().parents[1] / "forecasting" / "lstm.onnx"
SLICES = {"bursty": reference.BURSTY_FROM_S, "calm": reference.CALM_FROM_S}
SYSTEMS = {
    "poise": ("poise", "poise"),
    "infadapter": ("infadapter", "weighted"),
    "infadapter, late binding": ("infadapter", "poise"),
    "model-switching": ("model-switching", "weighted"),
    "vpa": ("vpa", "weighted"),
    "hpa": ("hpa", "weighted"),
}
"""Name -> (allocation policy, scheduling policy). With *late binding* InfAdapter's workers are given jobs by poise."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; ``variant`` for systems of one. ``seconds``: of the slice, from its beginning."""

    slice: str
    system: str
    seed: int
    beta: float = 0.05
    variant: str | None = None
    seconds: int = reference.SLICE_S
    standby: bool = True
    series: bool = False

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.system if self.variant is None else f"{self.system}, ResNet-{self.variant}"


class Series(msgspec.Struct, frozen=True):
    """A run over time, a point for every ``step_s`` seconds. Units: jobs/s, seconds, cores."""

    step_s: int
    load_rps: list[float]
    planned_rps: list[float]
    cores: list[float]
    accuracy: list[float | None]
    p99_s: list[float | None]
    violations: list[float]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to. Shares as shares, ``loss`` in accuracy. Units: seconds, cores, bytes."""

    task: Task
    jobs: int
    violations: float
    p99_s: float | None
    loss: float
    cores: float
    surge_cores: float
    resident_bytes: float
    reconfigurations: int
    loads: int
    lost: int
    series: Series | None = None


def run(task: Task) -> Row:
    """Simulate one run."""
    adapter, policy = SYSTEMS[task.system]
    service = reference.service(
        policy=policy, adapter=adapter, beta=task.beta, variant=task.variant, standby=task.standby
    )
    served = Served(service, reference.profile(), _rates() if adapter == "poise" else None)
    from_s = SLICES[task.slice]
    found = simulate_adapted(
        served,
        draws(from_s, task.seconds, task.seed),
        duration_s=task.seconds,
        adapter=adapter,
        forecaster=_forecaster(adapter),
        past=RateHistory(reference.past(from_s), float(from_s)),
        seed=task.seed,
    )
    report = found.report
    return Row(
        task=task,
        jobs=report.jobs,
        violations=1.0 - report.attainment,
        p99_s=None if report.latency_s is None else report.latency_s.p99,
        loss=reference.BEST - (report.mean_accuracy or 0.0),
        cores=report.mean_cores,
        surge_cores=report.mean_surge_cores,
        resident_bytes=report.mean_resident_bytes,
        reconfigurations=report.reconfigurations,
        loads=report.loads,
        lost=report.lost_jobs,
        series=_series(found) if task.series else None,
    )


def draws(from_s: int, seconds: int, seed: int) -> list[JobDraw]:
    """Return the jobs of a slice: Poisson within each second."""
    rates = reference.rates()[from_s : from_s + seconds]
    times = poisson_in_rates(rates, np.random.default_rng(seed))
    return [JobDraw(i, at_s, "default", 1, None, None, 1) for i, at_s in enumerate(times.tolist())]


def run_all(tasks: Iterable[Task], processes: int, say: Callable[[str], None]) -> list[Row]:
    """Simulate runs, some at once, and return them in order."""
    wanted = list(tasks)
    if processes <= 1:
        found = []
        for task in wanted:
            found.append(run(task))
            say(_brief(found[-1]))
        return found
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        rows = []
        for row in pool.map(run, wanted):
            say(_brief(row))
            rows.append(row)
        return rows


def _brief(row: Row) -> str:
    task = row.task
    return (
        f"{task.slice} {task.name} β {task.beta:g} seed {task.seed}: {row.violations:.2%} violations, "
        f"{row.cores + row.surge_cores:.1f} cores, {100 * row.loss:.2f} points lost"
    )


@cache
def _rates() -> RateTable:
    service = reference.service(policy="poise", adapter="poise")
    return build_rate_table(service, reference.profile())


def _forecaster(adapter: str) -> Forecaster:
    return Burst() if adapter == "poise" else open_lstm(LSTM.read_bytes(), LSTM.name)


def _series(found: AdaptedRun, step_s: int = 10) -> Series:
    beats, columns = found.beats, found.outcomes.columns
    ends = columns.done_s
    took_s = ends - columns.sent_s
    planned, at = [], 0
    for beat in beats[::step_s]:
        while at + 1 < len(found.decisions) and found.decisions[at + 1].at_s <= beat.at_s:
            at += 1
        planned.append(sum(found.decisions[at].planned_rps.values()))
    load, cores, accuracy, p99_s, violations = [], [], [], [], []
    for first in range(0, len(beats), step_s):
        part = beats[first : first + step_s]
        items = sum(beat.answered_items for beat in part)
        outcomes = sum(beat.met + beat.missed for beat in part)
        load.append(sum(beat.jobs for beat in part) / len(part))
        cores.append(sum(beat.cores + beat.surge_cores for beat in part) / len(part))
        accuracy.append(sum(beat.accuracy_sum for beat in part) / items if items else None)
        violations.append(sum(beat.missed for beat in part) / outcomes if outcomes else 0.0)
        here = took_s[(ends >= part[0].at_s - 1) & (ends < part[-1].at_s)]
        p99_s.append(float(np.quantile(here, 0.99)) if len(here) else None)
    return Series(step_s, load, planned, cores, accuracy, p99_s, violations)
