"""Effective accuracy from a tenth of capacity to three times it: all policies. Simulated."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.spread import Spread, spread_of

from .common import capacity_rps, length_s, open_cells, search, setting_named
from .plots import Panel, draw_panels
from .sampled import lines_of, sampled
from .settings import Scope

FACTORS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
"""Loads, as multiples of what poise carries at 99 % attainment."""
QUICK_FACTORS = (0.1, 1.0, 3.0)
FLOOR_SHARE = 0.75
SCOPE: Scope = "class"
NOISE = 0.002
"""Differences of effective accuracy below this count as none."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A policy at a load. Units: jobs/s; accuracies are expected ones."""

    setting: str
    policy: str
    factor: float
    load_rps: float
    effective_accuracy: Spread
    attainment: Spread
    mean_accuracy: Spread


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: jobs/s; ``capacity_rps`` of poise, by setting (the fluid bound where it holds no load)."""

    floor_share: float
    scope: str
    capacity_rps: dict[str, float]
    floors: dict[str, float]
    points: list[Point]


def measure(bench: Bench) -> Result:
    """Simulate every policy at every load, on two settings."""
    cells = open_cells(bench)
    factors = QUICK_FACTORS if bench.options.quick else FACTORS
    known = {
        setting.name: setting
        for setting in (setting_named(bench, "flagship"), setting_named(bench, "tvlt-4"))
    }
    capacity = {
        name: capacity_rps(cells, search(bench, setting, "poise", FLOOR_SHARE, SCOPE))
        or setting.bound_rps(setting.floor_at(FLOOR_SHARE), SCOPE)
        for name, setting in known.items()
    }
    runs = sampled(
        bench,
        cells,
        capacity,
        factors,
        FLOOR_SHARE,
        SCOPE,
        lambda name, load: length_s(bench, known[name], load),
    )
    points = [
        Point(
            setting=name,
            policy=policy,
            factor=factor,
            load_rps=load,
            effective_accuracy=spread_of(run.effective_accuracy for run in each),
            attainment=spread_of(run.attainment for run in each),
            mean_accuracy=spread_of(run.mean_accuracy for run in each),
        )
        for name, policy, factor, load, each in runs
    ]
    floors = {name: setting.floor_at(FLOOR_SHARE) for name, setting in known.items()}
    result = Result(floor_share=FLOOR_SHARE, scope=SCOPE, capacity_rps=capacity, floors=floors, points=points)
    _draw(bench, result)
    return result


def _draw(bench: Bench, result: Result) -> None:
    panels = [
        Panel(
            title=f"{setting}, floor {result.floors[setting]:.4f}, capacity {capacity:.0f} jobs/s",
            x_label="load, as a multiple of poise's capacity",
            y_label="effective accuracy",
            lines=lines_of(result.points, setting, lambda p: p.effective_accuracy.median),
            mark_x=1.0,
        )
        for setting, capacity in result.capacity_rps.items()
    ]
    draw_panels(
        bench.options.results / "effective.png",
        "Effective accuracy against load, simulated",
        panels,
        columns=2,
    )


def grids(result: Result) -> Iterator[Grid]:
    """Yield a table for each setting."""
    factors = list(dict.fromkeys(p.factor for p in result.points))
    names = list(dict.fromkeys(p.policy for p in result.points))
    for setting, capacity in result.capacity_rps.items():
        known = {(p.policy, p.factor): p for p in result.points if p.setting == setting}
        rows = []
        for name in names:
            cells = []
            for factor in factors:
                value = known[name, factor].effective_accuracy.median
                own = known["poise", factor].effective_accuracy.median
                cells.append(f"{value:.4f}" + (" †" if value > own + NOISE else ""))
            rows.append([name, *cells])
        rows.append(["poise's attainment", *(f"{known['poise', f].attainment.median:.1%}" for f in factors)])
        yield Grid(
            f"Effective accuracy over load, multiples of poise's capacity of {capacity:.1f} jobs/s: {setting}, "
            f"floor {result.floors[setting]:.4f} held by the {result.scope}",
            ["policy", *(f"{factor:g} ×" for factor in factors)],
            rows,
            note=f"Right and on time, over all items that arrived, by expected accuracy. †: more than {NOISE:g} above "
            "poise.",
        )
