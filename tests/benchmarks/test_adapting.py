"""The adapters' benchmark: what it takes from the published data, and a few seconds of each system."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
reference: Any = import_module("adapting.reference")
runs: Any = import_module("adapting.runs")
simulated: Any = import_module("adapting.simulated")

pytestmark = pytest.mark.skipif(reference.missing() is not None, reason=str(reference.missing()))


def test_the_profile_is_what_was_published() -> None:
    profile = reference.profile()
    assert [v.name for v in profile.variants] == [f"resnet{n}" for n in (18, 34, 50, 101, 152)]
    small = profile.variant("resnet18")
    assert {p.cores: p.rps for p in small.capacity}[8] == 190.0
    assert {p.busy_cores: p.mean_s for p in small.stages[0].latency}[8] == pytest.approx(8 / 168, abs=1e-6)
    assert len(small.capacity) == 20


def test_the_slices_are_those_of_the_paper() -> None:
    bursty = reference.rates()[reference.BURSTY_FROM_S :][: reference.SLICE_S]
    assert (bursty.min(), round(bursty.mean(), 1), bursty.max()) == (27.0, 96.6, 274.0)
    assert len(reference.past(reference.CALM_FROM_S)) == reference.CALM_FROM_S


@pytest.mark.parametrize("system", [*runs.SYSTEMS])
def test_every_system_runs_and_loses_no_job(system: str) -> None:
    variant = "50" if system in ("vpa", "hpa") else None
    row = runs.run(runs.Task(slice="bursty", system=system, seed=1, variant=variant, seconds=20, series=True))
    assert row.lost == 0
    assert 500 < row.jobs < 1500
    assert 0 < row.cores <= 20
    assert row.loss >= 0
    assert row.series is not None
    assert len(row.series.cores) == len(row.series.violations) == 2
    result = simulated.Result(
        seeds=1, seconds=20, points=[simulated._point("bursty", row.task.name, row.task.beta, [row])]
    )
    assert row.task.name in simulated.grids(result)[0].markdown()


def test_the_same_jobs_come_for_everybody() -> None:
    one = runs.draws(reference.BURSTY_FROM_S, 10, 3)
    assert one == runs.draws(reference.BURSTY_FROM_S, 10, 3)
    assert one != runs.draws(reference.BURSTY_FROM_S, 10, 4)
