"""Measures each peer with other settings than those that it has: they are to be its best.

    python -m serving.tune [PEER…]      (in benchmarks/; some minutes for each peer)

Prints a table for each peer. What was measured is kept in runs/serving, so that a run that was cut off goes on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from suite.bench import Bench, Options
from suite.grid import Grid

from .cells import Cells
from .comparison import FIRST_SEED, Comparison
from .pinned import on_generator_core
from .served import HERE, served
from .servers import WORK
from .systems import PEER_SYSTEMS, System

OTHERS: tuple[dict[str, object], ...] = (
    {},
    {"max_batch": 8},
    {"max_batch": 32},
    {"wait_ms": 0.0},
    {"wait_ms": 1.0},
    {"wait_ms": 5.0},
    {"patience": 0.6},
    {"patience": 0.75},
    {"workers": 0},
    {"timeout": None},
)
"""What is tried in place of a peer's own settings, one after another."""
ONLY = {
    "workers": ("mlserver",),
    "timeout": ("triton", "ray"),
    "patience": ("mosec", "triton", "ray", "bentoml"),
}
"""Settings that only these have."""
OVERLOAD = 1.3
"""Of what the model alone can do in its largest batch."""


def main(names: list[str]) -> None:
    """Try the settings of the peers named, or of all."""
    with tempfile.TemporaryDirectory() as work, on_generator_core():
        bench = Bench(
            Options(
                service=HERE.parents[1] / "examples" / "digits",
                results=Path(work),
                work=Path(work),
                quick=True,
                repeats=1,
                keep_profile=True,
            )
        )
        cells = Cells(WORK / "tune.cells.jsonl")
        comparison = Comparison(bench, cells, served(bench, cells, WORK), [])
        most_rps = max(size / seconds for size, seconds in enumerate(comparison.made.service_s, 1))
        for peer in PEER_SYSTEMS:
            if not names or peer.name in names:
                Console().print(_grid(comparison, peer, most_rps).for_terminal())


def _grid(comparison: Comparison, peer: System, most_rps: float) -> Grid:
    rows = []
    for other in OTHERS:
        tried = msgspec.structs.replace(peer, **other)
        if any(peer.name not in ONLY.get(name, (peer.name,)) for name in other) or (other and tried == peer):
            continue
        comparison.search(tried, 0.8 * peer.guess * most_rps)
        what = ", ".join(f"{name} {value}" for name, value in other.items()) or "as it is set"
        rows.append(
            [
                what,
                f"{comparison.loads.get(tried, 0.0):.0f}",
                f"{_overloaded(comparison, tried, most_rps):.0f}",
            ]
        )
        print(*rows[-1], file=sys.stderr)
    return Grid(
        f"{peer.name}, jobs/s", ["setting", "capacity", f"goodput at {OVERLOAD * most_rps:.0f}"], rows
    )


def _overloaded(comparison: Comparison, tried: System, most_rps: float) -> float:
    """Return the goodput under more than anybody could answer."""
    try:
        with comparison.on(tried) as on:
            return on.load("overload", OVERLOAD * most_rps, FIRST_SEED, comparison.shortest_s).goodput_rps
    except RuntimeError:
        return 0.0


if __name__ == "__main__":
    main(sys.argv[1:])
