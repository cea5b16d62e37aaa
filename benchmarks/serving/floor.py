"""poise on a service of several modalities whose floor lets it leave some out: its capacity beside the fluid bound."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import msgspec
from suite import live
from suite.bench import Bench
from suite.fluid_bound import fluid_bound_rps
from suite.load_search import highest_held
from suite.spread import spread_of

from .cells import Cells
from .comparison import FIRST_SEED, MOST_STEPS_DOWN, STEP_DOWN, TARGET
from .figures import Floor
from .pinned import on_server_core
from .systems import POISE

FLOORS_OF_RANGE = (2 / 3, 0.8)
"""Floors, as shares of the range of the modes' accuracies; the first is the demo's."""
GUESS = 0.85


class Held(msgspec.Struct, frozen=True):
    """One run. ``valid``: the generator kept up."""

    attainment: float
    front_end_cores: float
    valid: bool


class Bound(msgspec.Struct, frozen=True):
    """A floor, and the fluid bound there in jobs/s."""

    floor: float
    bound_rps: float


def floor_figures(bench: Bench, cells: Cells) -> list[Floor]:
    """Search poise's capacity at each floor; its server has one core, as in the comparison."""
    duration_s, most = bench.options.pick(6, 3), int(bench.options.pick(6, 4))
    figures = (_figure(bench, cells, share, duration_s, most) for share in FLOORS_OF_RANGE)
    return [figure for figure in figures if figure is not None]


def _figure(bench: Bench, cells: Cells, of_range: float, duration_s: float, most: int) -> Floor | None:
    """Return the figure of a floor; None where no load that was tried was held."""
    found = cells.once(
        f"bound {bench.options.service.name} {of_range:.3f}", Bound, lambda: _bound(bench, of_range)
    )

    def run(load: float, seed: int) -> Held:
        key = (
            f"floor {POISE.fingerprint()} {bench.options.service.name} {found} {load:.1f} {seed} {duration_s}"
        )
        held = cells.once(key, Held, lambda: _sent(bench, found.floor, load, seed, duration_s))
        bench.say(f"poise at floor {found.floor}, {load:.0f} jobs/s: {held.attainment:.2%} attain")
        return held

    load = highest_held(
        lambda load: run(load, FIRST_SEED).attainment >= TARGET, GUESS * found.bound_rps, most=most
    )
    runs: list[Held] = []
    for _ in range(MOST_STEPS_DOWN + 1):
        runs = [run(load, FIRST_SEED + repeat) for repeat in range(bench.options.repeats)] if load else []
        if not runs or median(each.attainment for each in runs) >= TARGET:
            break
        load *= STEP_DOWN
    if not runs:
        return None
    return Floor(
        service=bench.options.service.name,
        floor=found.floor,
        bound_rps=found.bound_rps,
        load_rps=load,
        share=load / found.bound_rps,
        attainment=spread_of(each.attainment for each in runs),
        front_end_cores=spread_of(each.front_end_cores for each in runs),
        held=median(each.attainment for each in runs) >= TARGET,
        valid=all(each.valid for each in runs),
    )


def _bound(bench: Bench, of_range: float) -> Bound:
    low, high = min(bench.plans.expected_accuracy), max(bench.plans.expected_accuracy)
    floor = round(low + of_range * (high - low), 3)
    return Bound(floor, fluid_bound_rps(bench.mean_model, bench.slo_s, floor))


def _sent(bench: Bench, floor: float, load: float, seed: int, duration_s: float) -> Held:
    bench.measured()
    folder: Path = bench.folder.root
    with live.server(folder, "poise", bench.options.work / "server.log", under=on_server_core()) as target:
        sent = live.send(
            target, folder, "--rate", repr(load), "--duration", repr(duration_s), "--seed", str(seed),
            "--floor", repr(floor), "--min-jobs", str(int(min(1000, 0.8 * load * duration_s))),
        )  # fmt: skip
    return Held(sent.report.run.attainment, sent.front_end_frac, sent.report.generator.valid)
