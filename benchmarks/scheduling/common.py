"""What the comparisons share: policies, settings, seeds, and where finished cells are kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from suite.bench import Bench

from poise.scheduling.policies import POLICIES

from .cells import Cells
from .settings import FLOORS_OF_RANGE, TVLT_SHAPES, Scope, Setting, example, tvlt
from .tasks import FULL_JOBS, Search, run_length_s

ORDER = (
    "fifo",
    "fifo-open",
    "edf",
    "edf-open",
    "mosel",
    "mosel-max",
    "jobwise",
    "slackfit",
    "cheapest",
    "poise",
)
"""All policies that are compared, in the order of the tables."""
AGNOSTIC = ("fifo", "fifo-open", "edf", "edf-open")
"""These use the most accurate mode alone: what they carry depends on no floor."""
LEAST_SEEDS = 5
"""Of every simulated figure."""
KEPT = Path(__file__).resolve().parents[2] / "runs" / "bench" / "cells"


def policies(bench: Bench, names: Sequence[str] = ORDER) -> list[str]:
    """Return those of the policies that there are, and say which are not."""
    absent = [name for name in names if name not in POLICIES]
    if absent:
        bench.say(f"left out, since this version has no such policy: {', '.join(absent)}")
    return [name for name in names if name in POLICIES]


def seeds(bench: Bench) -> int:
    """Return how many seeds each simulated figure is the median of."""
    return bench.options.repeats if bench.options.quick else max(LEAST_SEEDS, bench.options.repeats)


@cache
def examples(bench: Bench) -> dict[str, Path]:
    """Return the folders of the settings that have files, profiled."""
    bench.measured()
    found = {"flagship": bench.folder.root}
    if bench.sensors is None:
        bench.say("no sensors: examples/sensors is not there")
    else:
        found["sensors"] = bench.sensors.root
    return found


@cache
def settings(bench: Bench) -> tuple[Setting, ...]:
    """Return the settings that the load is compared on."""
    found = [example(name, folder) for name, folder in examples(bench).items()]
    found += [tvlt(shape) for shape in TVLT_SHAPES]
    found += [tvlt(shape, as_artifact=False) for shape in TVLT_SHAPES if shape]
    return tuple(found)


def setting_named(bench: Bench, name: str) -> Setting:
    """Return one of them."""
    return next(setting for setting in settings(bench) if setting.name == name)


def open_cells(bench: Bench) -> Cells:
    """Open the finished cells; all comparisons share them."""
    name = "scheduling_quick.jsonl" if bench.options.quick else "scheduling.jsonl"
    return Cells(KEPT / name, examples(bench), bench.options.jobs, bench.say)


def search(
    bench: Bench, setting: Setting, policy: str, share: float, scope: Scope, *, jitter: float = 0.0
) -> Search:
    """Return the task of finding what a policy carries; one task for all floors where they make no difference."""
    if policy in AGNOSTIC:
        share, scope = max(FLOORS_OF_RANGE), "job"
        guess = 0.8 * setting.all_modalities_rps
    else:
        guess = 0.7 * setting.bound_rps(setting.floor_at(share), scope)
    return Search(
        setting=setting.name,
        policy=policy,
        floor_share=share,
        scope=scope,
        seeds=seeds(bench),
        jitter=jitter,
        guess_rps=round(guess, 3),
        jobs=jobs_of(bench),
        tolerance=bench.options.pick(0.01, 0.04),
    )


def capacity_rps(cells: Cells, task: Search) -> float:
    """Return the median of the loads that a policy carries. Units: jobs/s."""
    return statistics.median(cells.run([task])[task].loads_rps)


def jobs_of(bench: Bench) -> int:
    """Return about how many jobs arrive in a run."""
    return int(bench.options.pick(FULL_JOBS, 800))


def length_s(bench: Bench, setting: Setting, load: float, factor: float = 1.0) -> float:
    """Return how long a run is to be at a load. Units: seconds."""
    return round(run_length_s(setting, load, factor * jobs_of(bench)), 2)
