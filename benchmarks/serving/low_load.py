"""What poise adds to a job's latency where nothing waits: beside the bare loop, and an HTTP echo of the same bytes."""

from __future__ import annotations

from suite.bench import Bench
from suite.spread import spread_of

from .cells import Cells
from .comparison import FIRST_SEED
from .figures import LowLoad
from .served import Served
from .systems import BARE, ECHO, POISE
from .trials import Trial, Trials

RATE_RPS = 20.0


def low_load(bench: Bench, cells: Cells, made: Served, trials: list[Trial]) -> LowLoad:
    """Send the same few jobs to each, in turns."""
    duration_s = bench.options.pick(10, 4)
    p50_s: dict[str, list[float]] = {}
    for repeat in range(bench.options.repeats):
        for system in (BARE, ECHO, POISE):
            with Trials(bench, cells, made, system, trials) as on:
                seen = on.load("low load", RATE_RPS, FIRST_SEED + repeat, duration_s).seen
            p50_s.setdefault(system.name, []).append(
                seen.from_sent_s.p50 if seen.from_sent_s else float("inf")
            )
    gaps_s = [
        poise - bare - echo
        for poise, bare, echo in zip(p50_s["poise"], p50_s["bare"], p50_s["echo"], strict=True)
    ]
    return LowLoad(
        rate_rps=RATE_RPS,
        poise_s=spread_of(p50_s["poise"]),
        bare_s=spread_of(p50_s["bare"]),
        echo_s=spread_of(p50_s["echo"]),
        gap_s=spread_of(gaps_s),
    )
