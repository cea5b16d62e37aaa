"""What is simulated, as values: one task is one cell of a table, and its answer goes into the file of finished cells.

A task runs in a process of its own choosing: it names a setting, and everything drawn follows from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
from suite.load_search import highest_held

from poise.domain.service import SLOClass
from poise.domain.workload import Arrivals
from poise.scheduling.commands import Command
from poise.scheduling.events import BatchDone, Event
from poise.simulation.faults import Faults, SlowWorker
from poise.simulation.simulate import SimulatedRun, simulate
from poise.workload import JobDraw, RunReport, attained, summarise

from .settings import Scope, Setting

TARGET = 0.99
FULL_JOBS = 2500
"""About so many jobs arrive in a run."""
LEAST_SLOS = 25.0
"""A run is at least so many SLOs long, since what waits at its end is still served."""
MOST_JOBS = 250_000
"""But no longer than it takes so many jobs to arrive, fewer in quick runs."""
SETTLING_BATCHES = 50
"""The batches after a change that are reported apart."""


class Task(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What every task has: the setting, changed or not, the policy, and how many seeds.

    ``jitter``, ``scale``, ``cores``: see ``Setting.changed``.
    """

    setting: str
    policy: str
    floor_share: float
    scope: Scope
    seeds: int
    jitter: float = 0.0
    scale: float = 1.0
    cores: int = 1


class Search(Task, frozen=True, kw_only=True):
    """The highest load with 99 % attainment, for each seed. Units: jobs/s.

    ``guess_rps`` is where the search begins; ``jobs`` is how many arrive in a run, about.
    """

    guess_rps: float
    jobs: int
    tolerance: float


class Sample(Task, frozen=True, kw_only=True):
    """Runs at one load. Units: jobs/s, seconds. ``mmpp``: bursts of 1 s at four times the rate of calms of 4 s."""

    load_rps: float
    duration_s: float
    mmpp: bool = False


class Wrong(Task, frozen=True, kw_only=True):
    """Runs with latencies that the profile does not know. Units: jobs/s, seconds.

    ``error`` multiplies all of them, from the start; ``slow`` those of worker 0, from the middle on.
    """

    load_rps: float
    duration_s: float
    calibrate: bool
    error: float = 1.0
    slow: float = 1.0


class TenantClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several classes: its SLO, its floor as a share of the range, its load, and that of its burst.

    Units: seconds, jobs/s. ``items``: of each of its jobs.
    """

    name: str
    slo_s: float
    floor_share: float
    weight: float
    load_rps: float
    burst_rps: float = 0.0
    items: int = 1


class Tenants(Task, frozen=True, kw_only=True):
    """Runs with several classes. Units: seconds, from the start of the run.

    Between ``burst_from_s`` and ``burst_to_s`` each class has the load of its burst in addition.
    """

    classes: tuple[TenantClass, ...]
    duration_s: float
    burst_from_s: float
    burst_to_s: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One run, or a part of it. Units: jobs/s, seconds; accuracies are expected ones."""

    jobs: int
    attainment: float
    mean_accuracy: float
    effective_accuracy: float
    goodput_rps: float
    refused: int
    late: int
    mean_s: float
    p50_s: float
    p99_s: float


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One seed's run: the whole, and its parts by name."""

    whole: Figures
    parts: dict[str, Figures] = {}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a task came to: loads of a search, or runs; one for each seed. ``took_s``: real time, all seeds."""

    loads_rps: list[float] = []
    runs: list[Run] = []
    took_s: float = 0.0


AnyTask = Search | Sample | Wrong | Tenants


def run_length_s(setting: Setting, load: float, jobs: float) -> float:
    """Return how long a run is to be: about so many jobs, and long against the SLO. Units: seconds."""
    longest_s = max(setting.due_s.values())
    return max(jobs / load, min(LEAST_SLOS * longest_s, MOST_JOBS * min(1.0, jobs / FULL_JOBS) / load))


def carry_out(task: AnyTask, base: Setting) -> Answer:
    """Simulate a task."""
    setting = base.changed(cores=task.cores, jitter=task.jitter, scale=task.scale)
    if isinstance(task, Search):
        return Answer(loads_rps=_search(task, setting))
    one = {Sample: _sample, Wrong: _wrong, Tenants: _tenants}[type(task)]
    return Answer(runs=[one(task, setting, seed) for seed in range(1, task.seeds + 1)])  # type: ignore[operator]


def _search(task: Search, setting: Setting) -> list[float]:
    service = setting.served(setting.floor_at(task.floor_share), task.scope)
    loads: list[float] = []
    for seed in range(1, task.seeds + 1):

        def holds(load: float, seed: int = seed) -> bool:
            duration_s = run_length_s(setting, load, task.jobs)
            jobs = setting.draw(load, duration_s, seed)
            run = simulate(
                service, setting.profile, jobs, duration_s=duration_s, policy=task.policy, seed=seed
            )
            return run.report.attainment >= TARGET

        near = next((load for load in reversed(loads) if load), 0.0)
        loads.append(
            highest_held(
                holds,
                near or task.guess_rps,
                step=0.02 if near else 0.16,
                tolerance=task.tolerance,
                most=10 if near else 16,
            )
        )
    return loads


def _sample(task: Sample, setting: Setting, seed: int) -> Run:
    service = setting.served(setting.floor_at(task.floor_share), task.scope)
    arrivals = None
    if task.mmpp:
        arrivals = Arrivals(process="mmpp", rate_rps=task.load_rps, duration_s=task.duration_s)
    jobs = setting.draw(task.load_rps, task.duration_s, seed, arrivals)
    run = simulate(service, setting.profile, jobs, duration_s=task.duration_s, policy=task.policy, seed=seed)
    return Run(whole=figures_of(run.report))


def _wrong(task: Wrong, setting: Setting, seed: int) -> Run:
    """Parts: ``before`` a worker slows (only then), ``settling`` over the first batches, ``settled``."""
    service = setting.served(setting.floor_at(task.floor_share), task.scope)
    scheduler = msgspec.structs.replace(service.scheduler, calibrate=task.calibrate)
    service = msgspec.structs.replace(service, scheduler=scheduler)
    slows_s = task.duration_s / 2 if task.slow != 1.0 else 0.0
    faults = Faults(
        slow=(SlowWorker(0, slows_s, task.slow),) if task.slow != 1.0 else (), profile_error=task.error
    )
    batches = 0
    settled_s = math.inf

    def watch(event: Event, commands: Sequence[Command]) -> None:
        nonlocal batches, settled_s
        if isinstance(event, BatchDone) and event.now_s >= slows_s:
            batches += 1
            if batches == SETTLING_BATCHES:
                settled_s = event.now_s

    run = simulate(
        service,
        setting.profile,
        setting.draw(task.load_rps, task.duration_s, seed),
        duration_s=task.duration_s,
        policy=task.policy,
        seed=seed,
        faults=faults,
        observe=watch,
    )
    ends = {"before": slows_s, "settling": min(settled_s, task.duration_s), "settled": task.duration_s}
    spans = dict(zip(ends, pairwise((0.0, *ends.values())), strict=True))
    return Run(whole=figures_of(run.report), parts=_parts(run, spans, task.scope))


def _tenants(task: Tenants, setting: Setting, seed: int) -> Run:
    """Parts: each class by its name, and its jobs that arrive in the time of the burst as ``name, burst``."""
    service = setting.served(setting.floor_at(task.floor_share), task.scope)
    classes = {
        each.name: SLOClass(
            latency_slo_ms=each.slo_s * 1e3,
            accuracy_floor=setting.floor_at(each.floor_share),
            weight=each.weight,
        )
        for each in task.classes
    }
    service = msgspec.structs.replace(service, classes=classes)
    run: SimulatedRun = simulate(
        service,
        setting.profile,
        tenants_draws(task, setting, seed),
        duration_s=task.duration_s,
        policy=task.policy,
        seed=seed,
    )
    parts = {name: figures_of(whole) for name, whole in run.report.per_class.items()}
    span = {"burst": (task.burst_from_s, task.burst_to_s)}
    for name in classes:
        for part, found in _parts(run, span, task.scope, name).items():
            parts[f"{name}, {part}"] = found
    return Run(whole=figures_of(run.report), parts=parts)


def tenants_draws(task: Tenants, setting: Setting, seed: int) -> list[JobDraw]:
    """Draw the jobs of all classes; a class's jobs outside its burst are the same with and without it."""
    every = setting.service.modality_index.all
    drawn: list[JobDraw] = []
    for at, each in enumerate(task.classes):
        if each.load_rps:
            steady = setting.draw(each.load_rps, task.duration_s, 1000 * seed + 2 * at)
            drawn += [_draw_of(job.arrival_s, each, every) for job in steady]
        if each.burst_rps:
            more = setting.draw(each.burst_rps, task.burst_to_s - task.burst_from_s, 1000 * seed + 2 * at + 1)
            drawn += [_draw_of(task.burst_from_s + job.arrival_s, each, every) for job in more]
    drawn.sort(key=lambda job: job.arrival_s)
    return [msgspec.structs.replace(job, number=number) for number, job in enumerate(drawn)]


def _draw_of(arrival_s: float, of: TenantClass, available: int) -> JobDraw:
    return JobDraw(0, arrival_s, of.name, of.items, None, None, available)


def _parts(
    run: SimulatedRun, spans: Mapping[str, tuple[float, float]], scope: Scope, slo_class: str | None = None
) -> dict[str, Figures]:
    """Return the figures of the jobs that arrive within spans of time, where there are any.

    Whether a job attains is judged in the run as a whole: a floor held by the class binds the mean since the start, and
    a span may spend what an earlier one has earned.
    """
    marks = attained(run.outcomes, scope)
    found: dict[str, Figures] = {}
    for name, (start_s, end_s) in spans.items():
        chosen = [
            (outcome, mark)
            for outcome, mark in zip(run.outcomes, marks, strict=True)
            if start_s <= outcome.sent_s < end_s and slo_class in (None, outcome.slo_class)
        ]
        if chosen:
            whole = figures_of(summarise([o for o, _ in chosen], end_s - start_s, floor_scope=scope))
            kept = sum(mark for _, mark in chosen)
            found[name] = msgspec.structs.replace(
                whole, attainment=kept / len(chosen), goodput_rps=kept / (end_s - start_s)
            )
    return found


def figures_of(report: RunReport | object) -> Figures:
    """Return what is kept of a report, of a run or of one class."""
    known = msgspec.structs.asdict(report)  # type: ignore[arg-type]
    latency = known["latency_s"]
    return Figures(
        jobs=known["jobs"],
        attainment=known["attainment"],
        mean_accuracy=known["mean_accuracy"] or 0.0,
        effective_accuracy=known["effective_accuracy"] or 0.0,
        goodput_rps=known["goodput_rps"],
        refused=sum(known["refused"].values()),
        late=known["late"],
        mean_s=latency.mean if latency else 0.0,
        p50_s=latency.p50 if latency else 0.0,
        p99_s=latency.p99 if latency else 0.0,
    )
