"""Adapters on InfAdapter's profile and its slices of the Twitter trace, simulated.

Every system sees the same jobs (Poisson within each second of the trace), the same profile and the same budget of 20
cores. ``infadapter`` and the systems of the paper forecast with its LSTM and the paper's 10 %; ``poise`` with
``burst``, which knows the trace up to the second that it decides in, and nothing after. All know the trace before the
slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.spread import Spread, spread_of

from . import reference
from .plots import draw_series, draw_trade_off
from .runs import SLICES, Row, Series, Task, run_all

BETAS = (0.0125, 0.025, 0.05, 0.1, 0.2)
WEIGHED = ("poise", "infadapter", "infadapter, late binding", "model-switching")
"""Systems that weigh cores against accuracy: β makes a difference to them."""
PAPERS_BETA = 0.05
SEEDS = (1, 2, 3, 4, 5)
FOLLOWED = ("poise", "infadapter", "model-switching", "vpa, ResNet-50")
"""Drawn over time."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A system at a β on a slice, over all seeds. Units: shares, points of accuracy, seconds, cores, bytes."""

    slice: str
    system: str
    beta: float
    violations: Spread
    p99_s: Spread
    loss: Spread
    cores: Spread
    surge_cores: Spread
    resident_bytes: Spread
    reconfigurations: Spread
    loads: Spread
    lost: int
    jobs: int


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """One run over time."""

    slice: str
    system: str
    series: Series


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. Units: seconds."""

    seeds: int
    seconds: int
    points: list[Point]
    courses: list[Course] = []


missing = reference.missing


def measure(bench: Bench) -> Result:
    """Simulate every system on both slices."""
    seeds = SEEDS[: int(bench.options.pick(len(SEEDS), 1))]
    seconds = int(bench.options.pick(reference.SLICE_S, 240))
    tasks = list(_tasks(seeds, seconds, quick=bench.options.quick))
    rows = run_all(tasks, bench.options.jobs, bench.say)
    grouped: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.task.slice, row.task.name, row.task.beta), []).append(row)
    result = Result(
        seeds=len(seeds),
        seconds=seconds,
        points=[_point(*key, same) for key, same in grouped.items()],
        courses=[
            Course(slice=row.task.slice, system=row.task.name, series=row.series)
            for row in rows
            if row.series is not None
        ],
    )
    _draw(result, bench.options.results)
    return result


def _tasks(seeds: Sequence[int], seconds: int, *, quick: bool) -> Iterator[Task]:
    for slice_name in SLICES:
        for system in WEIGHED:
            everywhere = system in ("poise", "infadapter")
            for beta in BETAS if everywhere and not quick else (PAPERS_BETA,):
                yield from _seeded(seeds, slice_name, system, seconds, beta=beta)
        for variant in ("18", "50", "152") if quick else reference.ACCURACY:
            yield from _seeded(seeds, slice_name, "vpa", seconds, variant=variant)
            yield from _seeded(seeds, slice_name, "hpa", seconds, variant=variant)


def _seeded(
    seeds: Sequence[int],
    slice_name: str,
    system: str,
    seconds: int,
    *,
    beta: float = PAPERS_BETA,
    variant: str | None = None,
) -> Iterator[Task]:
    for seed in seeds:
        task = Task(slice=slice_name, system=system, seed=seed, beta=beta, variant=variant, seconds=seconds)
        followed = task.name in FOLLOWED and seed == seeds[0] and beta == PAPERS_BETA
        yield msgspec.structs.replace(task, series=followed)


def _point(slice_name: str, system: str, beta: float, rows: list[Row]) -> Point:
    return Point(
        slice=slice_name,
        system=system,
        beta=beta,
        violations=spread_of(row.violations for row in rows),
        p99_s=spread_of(row.p99_s or 0.0 for row in rows),
        loss=spread_of(row.loss for row in rows),
        cores=spread_of(row.cores for row in rows),
        surge_cores=spread_of(row.surge_cores for row in rows),
        resident_bytes=spread_of(row.resident_bytes for row in rows),
        reconfigurations=spread_of(row.reconfigurations for row in rows),
        loads=spread_of(row.loads for row in rows),
        lost=sum(row.lost for row in rows),
        jobs=sum(row.jobs for row in rows),
    )


def grids(result: Result) -> list[Grid]:
    """Return the tables: everything at the paper's β, then what β does."""
    found = []
    for slice_name in SLICES:
        at = [p for p in result.points if p.slice == slice_name and p.beta == PAPERS_BETA]
        found.append(
            Grid(
                f"Adapters on the {slice_name} slice, β = {PAPERS_BETA}",
                ("system", "violations %", "p99 ms", "points lost", "cores", "of them surge", "resident GB",
                 "reconfigurations", "workers loaded", "jobs lost"),
                [_line(point) for point in at],
                f"Medians of {result.seeds} seeds (range); {result.seconds} s, 20 cores, SLO 750 ms. Points of "
                "accuracy lost against ResNet-152. Cores include those of workers that load beside others.",
            )
        )  # fmt: skip
        if any(p.beta != PAPERS_BETA for p in result.points):
            found.append(_by_beta(result, slice_name))
    return found


def _line(point: Point) -> list[str]:
    total = spread_of(
        (
            point.cores.low + point.surge_cores.low,
            point.cores.median + point.surge_cores.median,
            point.cores.high + point.surge_cores.high,
        )
    )
    return [
        point.system,
        point.violations.text(".2f", 100),
        point.p99_s.text(".0f", 1000),
        point.loss.text(".2f", 100),
        total.text(".1f"),
        point.surge_cores.text(".2f"),
        point.resident_bytes.text(".0f", 1e-9),
        point.reconfigurations.text(".0f"),
        point.loads.text(".0f"),
        str(point.lost),
    ]


def _by_beta(result: Result, slice_name: str) -> Grid:
    known = {(p.system, p.beta): p for p in result.points if p.slice == slice_name}
    return Grid(
        f"What β does, {slice_name} slice: violations % / points lost / cores",
        ("β", *WEIGHED),
        [
            [
                f"{beta:g}",
                *(_triple(known[system, beta]) if (system, beta) in known else "" for system in WEIGHED),
            ]
            for beta in BETAS
            if (WEIGHED[0], beta) in known
        ],
        "Medians.",
    )


def _triple(point: Point) -> str:
    cores = point.cores.median + point.surge_cores.median
    return f"{100 * point.violations.median:.2f} / {100 * point.loss.median:.2f} / {cores:.1f}"


def _draw(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for slice_name in SLICES:
        courses = [c for c in result.courses if c.slice == slice_name]
        if courses:
            draw_series(
                {c.system: c.series for c in courses}, folder / f"adapting_{slice_name}.png", slice_name
            )
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for point in result.points:
        if point.slice == "bursty":
            cores = point.cores.median + point.surge_cores.median
            lines.setdefault(point.system, []).append((cores, point.loss.median, point.violations.median))
    if lines:
        draw_trade_off(lines, folder / "adapting_trade_off.png")
