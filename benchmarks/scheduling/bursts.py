"""Attainment under bursts: Markov-modulated arrivals, latencies with 10 % jitter. Simulated."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.spread import Spread, spread_of

from .common import length_s, open_cells, setting_named
from .plots import Panel, draw_panels
from .sampled import lines_of, sampled
from .settings import Scope

FACTORS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0)
"""Loads, as multiples of the fluid bound: what the worker carries on plans as cheap as the floor allows."""
QUICK_FACTORS = (0.4, 0.6)
COMPARED = ("edf", "mosel", "slackfit", "cheapest", "poise")
FLOOR_SHARE = 0.75
SCOPE: Scope = "class"
JITTER = 0.1
LONGER = 3.0
"""Bursts of one second are few: runs are so many times longer than others."""
ALLOWED = 0.005
"""poise may lie so far below ``cheapest`` in attainment, no further."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A policy at a load. Units: jobs/s."""

    setting: str
    policy: str
    factor: float
    load_rps: float
    attainment: Spread
    mean_accuracy: Spread


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: jobs/s; ``bound_rps`` and ``floors`` by setting."""

    scope: str
    jitter: float
    bound_rps: dict[str, float]
    floors: dict[str, float]
    points: list[Point]


def measure(bench: Bench) -> Result:
    """Simulate the policies at every load, on two settings."""
    cells = open_cells(bench)
    factors = QUICK_FACTORS if bench.options.quick else FACTORS
    known = {
        setting.name: setting
        for setting in (setting_named(bench, "flagship"), setting_named(bench, "tvlt-4-slo20"))
    }
    floors = {name: setting.floor_at(FLOOR_SHARE) for name, setting in known.items()}
    bounds = {name: setting.bound_rps(floors[name], SCOPE) for name, setting in known.items()}
    runs = sampled(
        bench,
        cells,
        bounds,
        factors,
        FLOOR_SHARE,
        SCOPE,
        lambda name, load: max(bench.options.pick(60, 20), length_s(bench, known[name], load, LONGER)),
        names=COMPARED,
        jitter=JITTER,
        mmpp=True,
    )
    points = [
        Point(
            setting=name,
            policy=policy,
            factor=factor,
            load_rps=load,
            attainment=spread_of(run.attainment for run in each),
            mean_accuracy=spread_of(run.mean_accuracy for run in each),
        )
        for name, policy, factor, load, each in runs
    ]
    result = Result(scope=SCOPE, jitter=JITTER, bound_rps=bounds, floors=floors, points=points)
    _draw(bench, result)
    return result


def _draw(bench: Bench, result: Result) -> None:
    panels = [
        Panel(
            title=f"{setting}, floor {result.floors[setting]:.4f}",
            x_label=f"mean load, as a multiple of the fluid bound ({bound:.0f} jobs/s)",
            y_label="attainment, %",
            lines=lines_of(result.points, setting, lambda p: 100 * p.attainment.median),
        )
        for setting, bound in result.bound_rps.items()
    ]
    draw_panels(
        bench.options.results / "bursts.png",
        "Attainment under bursts, simulated",
        panels,
        columns=len(panels),
    )


def grids(result: Result) -> Iterator[Grid]:
    """Yield a table for each setting."""
    factors = list(dict.fromkeys(p.factor for p in result.points))
    names = list(dict.fromkeys(p.policy for p in result.points))
    for setting, bound in result.bound_rps.items():
        known = {(p.policy, p.factor): p for p in result.points if p.setting == setting}
        rows = [[name, *(f"{known[name, f].attainment.median:.1%}" for f in factors)] for name in names]
        if "cheapest" in names:
            cells, gains = [], []
            for f in factors:
                more = known["poise", f].attainment.median - known["cheapest", f].attainment.median
                cells.append(f"{more * 100:+.1f}" + (" †" if more < -ALLOWED else ""))
                gain = known["poise", f].mean_accuracy.median - known["cheapest", f].mean_accuracy.median
                gains.append(f"{gain * 100:+.2f}")
            rows.append(["poise − cheapest, points", *cells])
            rows.append(["its accuracy − cheapest's, points", *gains])
        yield Grid(
            f"Attainment under bursts, mean load in multiples of the fluid bound of {bound:.0f} jobs/s: {setting}, "
            f"floor {result.floors[setting]:.4f} held by the {result.scope}",
            ["policy", *(f"{f:g} ×" for f in factors)],
            rows,
            note="Poisson arrivals whose rate switches: calms of 4 s, bursts of 1 s at four times the rate, both "
            f"exponentially distributed. Latencies have {result.jitter:.0%} jitter. †: more than {ALLOWED:.1%} below.",
        )
