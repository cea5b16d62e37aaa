"""poise beside other servers and beside the physical limit: one model, one core for the server, one for the load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from suite.bench import Bench
from suite.grid import Grid

from . import plot, tables
from .cells import Cells
from .comparison import TARGET, Comparison
from .figures import Result
from .floor import floor_figures
from .front_end import front_end_cost
from .low_load import low_load
from .pinned import USABLE, on_generator_core
from .served import HERE, Served, served
from .systems import BARE, PEER_SYSTEMS, POISE, System, install
from .trials import Trial

__all__ = ["Result", "grids", "measure", "missing"]

WORK = HERE.parents[1] / "runs" / "serving"


def missing() -> str | None:
    """Return why this cannot run here, or None."""
    if len(USABLE) < 2:
        return "it needs two cores, one for the server and one for the load generator"
    return None if shutil.which("taskset") else "it needs taskset"


def measure(bench: Bench) -> Result:
    """Measure everything, or what is left where a run was cut off."""
    cells = Cells(WORK / ("quick.cells.jsonl" if bench.options.quick else "cells.jsonl"))
    if len(cells):
        bench.say(f"going on with a run that was cut off: {len(cells)} cells are known")
    with on_generator_core():
        result = _measured(bench, cells, served(bench, cells, WORK))
    plot.draw_servers(bench.options.results / "serving.png", result)
    cells.complete()
    return result


def _measured(bench: Bench, cells: Cells, made: Served) -> Result:
    trials: list[Trial] = []
    comparison = Comparison(bench, cells, made, trials)
    peers = _installed(bench, comparison.left_out)
    most_rps = max(size / seconds for size, seconds in enumerate(made.service_s, 1))
    comparison.search(BARE, 0.85 * most_rps)
    comparison.search(POISE, 0.9 * (comparison.loads[BARE] or most_rps))
    comparison.repeat([BARE, POISE])
    for peer in peers:
        comparison.search(peer, peer.guess * comparison.loads[POISE])
    comparison.rounds([BARE, POISE], peers)
    left_out = comparison.left_out
    here = [peer for peer in peers if peer.name not in left_out]
    return Result(
        slo_s=made.slo_s,
        target=TARGET,
        service_s=list(made.service_s),
        settings={peer.name: peer.settings(made) for peer in here},
        left_out=left_out,
        capacities=comparison.capacities(),
        side_by_side=comparison.side_by_side(here),
        overloads=comparison.overloads(),
        low_load=low_load(bench, cells, made, trials),
        front_end=front_end_cost(bench, cells, made, comparison.loads[POISE], trials),
        floors=floor_figures(bench, cells),
        trials=trials,
    )


def _installed(bench: Bench, left_out: dict[str, str]) -> list[System]:
    """Make the peers' environments; return those that are there, and put down why others are not."""
    for peer in PEER_SYSTEMS:
        why = install(peer)
        if why:
            left_out[peer.name] = f"it could not be installed: {why}"
            bench.say(f"{peer.name} is left out: {left_out[peer.name]}")
    return [peer for peer in PEER_SYSTEMS if peer.name not in left_out]


def grids(result: Result) -> Iterator[Grid]:
    """Yield the tables."""
    return tables.grids(result)
