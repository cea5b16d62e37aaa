"""Job completion time at 0.95 of what ``fifo`` carries, over ten minutes. Simulated."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.spread import Spread, spread_of

from .common import open_cells, policies, seeds, setting_named
from .plots import Line, Panel, draw_panels
from .settings import Scope
from .tasks import Sample

LOAD = 0.95
"""Of the most that the worker carries when every item uses the most accurate mode: ``fifo``'s capacity."""
COMPARED = ("fifo", "fifo-open", "mosel", "cheapest", "poise")
SETTINGS = ("flagship", "tvlt-4", "tvlt-4-slo20")
FLOOR_SHARE = 0.75
SCOPE: Scope = "class"


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A policy on a setting. Units: jobs/s, seconds. ``speed_up``: mean completion time of ``fifo-open`` over its own.

    ``spent``: what it has over the floor, as a share of what lies between the floor and the most accurate mode.
    """

    setting: str
    policy: str
    load_rps: float
    floor: float
    mean_s: Spread
    p50_s: Spread
    p99_s: Spread
    attainment: Spread
    mean_accuracy: Spread
    spent: float
    speed_up: float | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: seconds."""

    load_of_fifo: float
    duration_s: float
    floor_share: float
    scope: str
    runs: list[Completion]


def measure(bench: Bench) -> Result:
    """Simulate every policy at the load on every setting."""
    cells = open_cells(bench)
    known = {name: setting_named(bench, name) for name in SETTINGS}
    duration_s = bench.options.pick(600, 60)
    tasks = {
        (name, policy): Sample(
            setting=name,
            policy=policy,
            floor_share=FLOOR_SHARE,
            scope=SCOPE,
            seeds=seeds(bench),
            load_rps=round(LOAD * setting.all_modalities_rps, 4),
            duration_s=duration_s,
        )
        for name, setting in known.items()
        for policy in policies(bench, COMPARED)
    }
    answers = cells.run(tasks.values())
    runs = []
    for (name, policy), task in tasks.items():
        each = [run.whole for run in answers[task].runs]
        floor, best = known[name].floor_at(FLOOR_SHARE), max(known[name].mean_model.accuracy)
        mean = spread_of(f.mean_s for f in each)
        accuracy = spread_of(f.mean_accuracy for f in each)
        agnostic = tasks.get((name, "fifo-open"))
        slowest = spread_of(run.whole.mean_s for run in answers[agnostic].runs).median if agnostic else None
        runs.append(
            Completion(
                setting=name,
                policy=policy,
                load_rps=task.load_rps,
                floor=floor,
                mean_s=mean,
                p50_s=spread_of(f.p50_s for f in each),
                p99_s=spread_of(f.p99_s for f in each),
                attainment=spread_of(f.attainment for f in each),
                mean_accuracy=accuracy,
                spent=(accuracy.median - floor) / (best - floor),
                speed_up=slowest / mean.median if slowest else None,
            )
        )
    result = Result(load_of_fifo=LOAD, duration_s=duration_s, floor_share=FLOOR_SHARE, scope=SCOPE, runs=runs)
    _draw(bench, result)
    return result


def _draw(bench: Bench, result: Result) -> None:
    policies_there = list(dict.fromkeys(r.policy for r in result.runs))
    panels = [
        Panel(
            title=setting,
            x_label="accuracy bought, % of what there is",
            y_label="mean completion time, ms",
            lines=tuple(
                Line(policy, [(100 * r.spent, 1e3 * r.mean_s.median)])
                for policy in policies_there
                for r in result.runs
                if (r.setting, r.policy) == (setting, policy)
            ),
        )
        for setting in dict.fromkeys(r.setting for r in result.runs)
    ]
    title = (
        f"Completion time at {result.load_of_fifo:g} of fifo's capacity, simulated, {result.duration_s:g} s"
    )
    draw_panels(bench.options.results / "completion.png", title, panels, columns=len(panels))


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    yield Grid(
        f"Job completion time at {result.load_of_fifo:g} of fifo's capacity over {result.duration_s:g} s, floor at "
        f"{result.floor_share:.0%} of the range, held by the {result.scope}",
        [
            "setting",
            "policy",
            "jobs/s",
            "mean ms",
            "p50 ms",
            "p99 ms",
            "to fifo-open",
            "accuracy",
            "spent",
            "attainment",
        ],
        [
            [
                r.setting,
                r.policy,
                f"{r.load_rps:.1f}",
                r.mean_s.text(".1f", 1e3),
                f"{r.p50_s.median * 1e3:.1f}",
                f"{r.p99_s.median * 1e3:.1f}",
                f"{r.speed_up:.1f} ×" if r.speed_up else "–",
                f"{r.mean_accuracy.median:.4f}",
                f"{r.spent:.0%}",
                f"{r.attainment.median:.1%}",
            ]
            for r in result.runs
        ],
        note="fifo's capacity: what the worker carries without queueing when every item uses all modalities. Answered "
        "jobs only: fifo refuses what cannot be in time, fifo-open answers all. Spent: accuracy bought with slack, "
        "as a share of what lies between the floor and the most accurate mode.",
    )
