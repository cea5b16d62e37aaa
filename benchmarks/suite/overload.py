"""What is left of goodput and accuracy below, at and far above capacity, simulated."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from .bench import Bench
from .grid import Grid
from .overload_plot import draw_overload
from .simulated import POLICIES, median_capacity, run_length_s, simulated_run
from .spread import Spread, spread_of

FACTORS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
"""Loads, as multiples of poise's capacity."""


class Point(msgspec.Struct, frozen=True):
    """A policy at one load. Units: jobs/s; accuracies and attainment in [0, 1]."""

    policy: str
    factor: float
    load_rps: float
    attainment: Spread
    goodput_rps: Spread
    mean_accuracy: Spread
    effective_accuracy: Spread


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: jobs/s, seconds. ``capacity_rps``: poise's, simulated."""

    service: str
    floor: float
    slo_s: float
    scope: str
    capacity_rps: float
    points: list[Point]


def measure(bench: Bench) -> Result:
    """Simulate both policies at every load."""
    capacity = median_capacity(bench, "poise")
    duration_s = run_length_s(bench, capacity, 10_000, least_s=25)
    points = []
    for factor in FACTORS:
        load = factor * capacity
        for policy in POLICIES:
            runs = [simulated_run(bench, policy, load, duration_s, seed) for seed in bench.seeds]
            points.append(
                Point(
                    policy=policy,
                    factor=factor,
                    load_rps=load,
                    attainment=spread_of(run.attainment for run in runs),
                    goodput_rps=spread_of(run.goodput_rps for run in runs),
                    mean_accuracy=spread_of(run.mean_accuracy or 0.0 for run in runs),
                    effective_accuracy=spread_of(run.effective_accuracy or 0.0 for run in runs),
                )
            )
        bench.say(f"overload: {factor:g} × capacity")
    result = Result(
        service=bench.service.service,
        floor=bench.floor,
        slo_s=bench.slo_s,
        scope=bench.service.guarantee.scope,
        capacity_rps=capacity,
        points=points,
    )
    draw_overload(
        bench.options.results / "overload.png",
        {
            policy: [
                (p.factor, p.goodput_rps.median, p.effective_accuracy.median)
                for p in points
                if p.policy == policy
            ]
            for policy in POLICIES
        },
        capacity_rps=capacity,
        title=f"{result.service}, simulated: one worker core, SLO {result.slo_s * 1e3:g} ms, floor {result.floor:.3f}",
    )
    return result


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    yield Grid(
        f"Loads below and above poise's capacity of {result.capacity_rps:.0f} jobs/s, simulated",
        ["load", "policy", "jobs/s", "attainment", "goodput, jobs/s", "mean accuracy", "effective accuracy"],
        [
            [
                f"{p.factor:g} ×",
                p.policy,
                f"{p.load_rps:.0f}",
                p.attainment.text(".1%"),
                p.goodput_rps.text(".0f"),
                p.mean_accuracy.text(".3f"),
                p.effective_accuracy.text(".3f"),
            ]
            for p in result.points
        ],
        note="Effective accuracy: right and on time, over all items that arrived; here by expected accuracy.",
    )
