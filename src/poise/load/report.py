"""What ``poise load`` reports: the server's figures, and whether the generator kept up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from numpy.random import Generator

from poise.load.generator import LoadRun
from poise.load.health import GeneratorHealth, Spread, spread
from poise.workload import FloorScope, RunReport, Timeline, bootstrap_interval, summarise, timeline

_BINS = 100
_STEPS = (1.0, 2.0, 5.0)


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of ``poise load``. Fields are added, never renamed.

    ``run``: figures of the server, of use only where ``generator.valid``. Units: ``queue_s``, ``compute_s``
    in seconds, as the server states them in its answers (None where it does not).
    """

    format: Literal[1] = 1
    service: str
    url: str
    seed: int
    run: RunReport
    generator: GeneratorHealth
    queue_s: Spread | None
    compute_s: Spread | None
    timeline: Timeline


def load_report(
    result: LoadRun,
    *,
    service: str,
    url: str,
    seed: int,
    duration_s: float,
    floor_scope: FloorScope,
    classes: Sequence[str],
    rng: Generator,
) -> LoadReport:
    """Sum up a run; ``rng`` resamples for the confidence interval of served accuracy."""
    interval = bootstrap_interval(result.scores, result.score_items, rng) if len(result.scores) else None
    return LoadReport(
        service=service,
        url=url,
        seed=seed,
        run=summarise(
            result.outcomes,
            duration_s,
            floor_scope=floor_scope,
            classes=classes,
            served_accuracy_interval=interval,
        ),
        generator=result.health,
        queue_s=spread(result.queue_s),
        compute_s=spread(result.compute_s),
        timeline=timeline(result.outcomes, bin_for(duration_s), duration_s, floor_scope=floor_scope),
    )


def bin_for(duration_s: float) -> float:
    """Return a round bin (1, 2 or 5 times a power of ten) that cuts a run into at most a hundred. Units: seconds."""
    unit = 0.01
    while True:
        for step in _STEPS:
            if step * unit * _BINS >= duration_s:
                return step * unit
        unit *= 10.0
