"""E3 against every allocation there is: on the published profile where it is at hand, and on random ones."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.domain.adapter_settings import AdapterSettings
from poise.domain.profile import CapacityPoint, LatencyPoint, ModeProfile, StageProfile, VariantProfile
from poise.planning.core_allocation import Candidate, CoreProblem, allocate_cores, judge
from poise.planning.core_capacity import candidate_of
from poise.planning.core_oracle import EveryAllocation

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "infadapter" / "capacity.csv"
"""The authors' profile: reconfigurable-ml-pipeline/InfAdapter, auto_tuner/adapter/capacity_result_Feb_21.csv."""
PUBLISHED = {
    "18": (0.69758, 6.44),
    "34": (0.73314, 6.79),
    "50": (0.76130, 6.82),
    "101": (0.77374, 7.77),
    "152": (0.78312, 8.52),
}
"""Accuracy and load time in seconds, as published."""


def variant(
    name: str, accuracy: float, load_time_s: float, points: list[tuple[int, float]]
) -> VariantProfile:
    stage = StageProfile(
        name="whole", modality_sets=(("image",),), latency=(LatencyPoint(batch=1, mean_s=0.05),)
    )
    return VariantProfile(
        name=name,
        load_time_s=load_time_s,
        modes=(ModeProfile(modalities=("image",), accuracy=accuracy),),
        stages=(stage,),
        capacity=tuple(CapacityPoint(cores=n, rps=rps, slo_s=0.75) for n, rps in points),
    )


@pytest.fixture(scope="module")
def published() -> CoreProblem:
    if not REFERENCE.is_file():
        pytest.skip("the published profile is not at hand: InfAdapter's capacity_result_Feb_21.csv")
    points: dict[str, list[tuple[int, float]]] = {name: [] for name in PUBLISHED}
    with REFERENCE.open() as file:
        for row in csv.DictReader(file):
            if row["SLA"] == "750":
                points[row["ARCH"]].append((int(row["CPU"]), float(row["capacity"])))
    candidates = tuple(
        candidate_of(variant(name, *PUBLISHED[name], points[name]), 0.75, 20, AdapterSettings())
        for name in PUBLISHED
    )
    return CoreProblem(candidates=candidates, cores=20, load_rps=0.0, min_cores=2)


def test_e3_is_exact_on_the_published_profile_at_every_load(published: CoreProblem) -> None:
    every = EveryAllocation(published)
    assert len(every.cores) == 20_529
    assert every.capacity_rps.sum(axis=1).max() == 386
    rng = random.Random(1)
    names = [c.name for c in published.candidates]
    for load in (0, *range(1, 387), 387, 1000):
        current = {}
        if load % 2:
            current = dict(zip(names, every.cores[rng.randrange(len(every.cores))].tolist(), strict=True))
        found = allocate_cores(msgspec.structs.replace(published, load_rps=float(load), current=current))
        assert found is not None
        assert found.status == "optimal"
        assert found.objective == pytest.approx(every.best_objective(load, current), abs=1e-9), load
        assert found.shed_rps == pytest.approx(max(0, load - 386))
        assert sum(found.load_rps.values()) + found.shed_rps == pytest.approx(load)


@st.composite
def problems(draw: st.DrawFn) -> CoreProblem:
    cores = draw(st.integers(1, 7))
    candidates = []
    for m in range(draw(st.integers(1, 4))):
        step = draw(st.sampled_from([0.0, 1.0, 2.5, 7.0]))
        bend = draw(st.integers(1, 8))
        candidates.append(
            Candidate(
                name=f"v{m}",
                accuracy=draw(st.sampled_from([0.0, 0.5, 0.6, 0.61, 0.9])),
                load_time_s=draw(st.sampled_from([0.0, 1.0, 3.0])),
                capacity_rps=tuple(step * min(n, bend) for n in range(cores + 1)),
            )
        )
    return CoreProblem(
        candidates=tuple(candidates),
        cores=cores,
        load_rps=draw(st.sampled_from([0.0, 0.5, 3.0, 10.0, 24.5, 100.0])),
        current={c.name: draw(st.integers(0, cores)) for c in candidates},
        min_cores=draw(st.integers(1, 3)),
        alpha=draw(st.sampled_from([0.0, 1.0])),
        beta=draw(st.sampled_from([0.0, 0.05, 2.0])),
        gamma=draw(st.sampled_from([0.0, 0.001, 0.5])),
    )


@settings(max_examples=300, deadline=None)
@given(problems())
def test_e3_is_exact_on_random_problems(problem: CoreProblem) -> None:
    found = allocate_cores(problem)
    assert found is not None
    best = EveryAllocation(problem).best_objective(problem.load_rps, dict(problem.current))
    assert found.objective == pytest.approx(best, abs=1e-7)
    assert sum(found.cores.values()) <= problem.cores
    assert all(n >= problem.min_cores for n in found.cores.values())
    assert found == msgspec.structs.replace(
        judge(problem, found.cores), status=found.status, gap=found.gap, solve_s=found.solve_s
    )


def test_the_most_accurate_running_variant_is_filled_first() -> None:
    problem = CoreProblem(
        candidates=(
            Candidate(name="small", accuracy=0.6, load_time_s=1.0, capacity_rps=(0.0, 10.0, 20.0)),
            Candidate(name="large", accuracy=0.8, load_time_s=4.0, capacity_rps=(0.0, 4.0, 8.0)),
        ),
        cores=2,
        load_rps=10.0,
        current={"large": 1},
    )
    found = judge(problem, {"small": 1, "large": 1})
    assert found.load_rps == {"large": 4.0, "small": 6.0}
    assert found.accuracy == pytest.approx(0.68)
    assert (found.resource, found.loading) == (1.0, 0.25)  # only the small one is new
    assert judge(problem, {"large": 2}).shed_rps == 2.0
    assert judge(problem, {}).accuracy == 0.0


def test_capacity_is_a_line_of_least_squares_floored() -> None:
    profile = variant("v", 0.7, 1.0, [(1, 19.0), (2, 38.0), (3, 1.0), (4, 80.0), (8, 160.0), (16, 318.0)])
    found = candidate_of(profile, 0.75, 4, AdapterSettings())
    # through cores 1, 2, 4, 8, 16: 19.9449 n - 0.6585; times 0.8
    assert found.capacity_rps == (0.0, 15.0, 31.0, 47.0, 63.0)


def test_without_capacity_points_a_core_answers_one_item_after_another() -> None:
    profile = variant("v", 0.7, 1.0, [])
    assert candidate_of(profile, 0.75, 2, AdapterSettings()).capacity_rps == pytest.approx((0.0, 16.0, 32.0))
    assert candidate_of(profile, 0.04, 2, AdapterSettings()).capacity_rps == (
        0.0,
        0.0,
        0.0,
    )  # too slow for the SLO
