"""E4, restricted as E3 is, has E3's objectives.

Single variants, k cores a worker and one worker of a variant at most, its rate what E3 knows of k cores, one class, no
front end, loading counted for what is new or resized.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.domain.adapter_settings import AdapterSettings
from poise.domain.allocation import Workers
from poise.domain.profile import CapacityPoint, LatencyPoint, ModeProfile, StageProfile, VariantProfile
from poise.planning.core_allocation import Candidate, CoreProblem, allocate_cores
from poise.planning.core_capacity import candidate_of
from poise.planning.joint_allocation import JointSolution, solve_jointly
from poise.planning.joint_problem import JointProblem, Kind, LoadClass, Option

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "infadapter" / "capacity.csv"
"""The authors' profile: reconfigurable-ml-pipeline/InfAdapter, auto_tuner/adapter/capacity_result_Feb_21.csv."""
PUBLISHED = {
    "18": (0.69758, 6.44),
    "34": (0.73314, 6.79),
    "50": (0.76130, 6.82),
    "101": (0.77374, 7.77),
    "152": (0.78312, 8.52),
}


def restricted(problem: CoreProblem) -> JointProblem:
    """E3's problem as E4's."""
    kinds = tuple(
        Kind(
            variants=(candidate.name,),
            options=(
                Option(
                    variant=candidate.name,
                    accuracy=candidate.accuracy,
                    rates={"c": (candidate.capacity_rps[n],)},
                ),
            ),
            threads=n,
            cores=n,
            load_s=candidate.load_time_s,
            group=candidate.name,
        )
        for candidate in problem.candidates
        for n in problem.choices(candidate)
    )
    return JointProblem(
        classes=(LoadClass(name="c", load_rps=problem.load_rps),),
        kinds=kinds,
        cores=problem.cores,
        running=tuple(
            Workers(variants=(name,), threads=n, count=1) for name, n in problem.current.items() if n
        ),
        alpha=problem.alpha,
        beta=problem.beta,
        gamma=problem.gamma,
        longest_load_s=problem.longest_load_s,
    )


def hold_equal(problem: CoreProblem, tolerance: float) -> JointSolution:
    """Solve both and compare what is shed, and the objectives.

    E3 divides accuracy by what is answered, E4 by the whole load: above what can be carried E3's α is scaled to that.
    """
    joint = solve_jointly(restricted(problem))
    core = allocate_cores(problem)
    assert joint is not None
    assert core is not None
    # HiGHS holds constraints to 1e-6, here of a whole load.
    assert joint.shed_rps[0] == pytest.approx(core.shed_rps, abs=2e-6 * (1 + problem.load_rps))
    if core.shed_rps:
        answered = (problem.load_rps - core.shed_rps) / problem.load_rps
        core = allocate_cores(msgspec.structs.replace(problem, alpha=problem.alpha * answered))
        assert core is not None
    assert joint.objective == pytest.approx(core.objective, abs=tolerance)
    return joint


def published() -> CoreProblem:
    if not REFERENCE.is_file():
        pytest.skip("the published profile is not at hand: InfAdapter's capacity_result_Feb_21.csv")
    points: dict[str, list[CapacityPoint]] = {name: [] for name in PUBLISHED}
    with REFERENCE.open() as file:
        for row in csv.DictReader(file):
            if row["SLA"] == "750":
                point = CapacityPoint(cores=int(row["CPU"]), rps=float(row["capacity"]), slo_s=0.75)
                points[row["ARCH"]].append(point)
    stage = StageProfile(
        name="whole", modality_sets=(("image",),), latency=(LatencyPoint(batch=1, mean_s=0.05),)
    )
    variants = [
        VariantProfile(
            name=name,
            load_time_s=load_time_s,
            modes=(ModeProfile(modalities=("image",), accuracy=accuracy),),
            stages=(stage,),
            capacity=tuple(points[name]),
        )
        for name, (accuracy, load_time_s) in PUBLISHED.items()
    ]
    candidates = tuple(candidate_of(variant, 0.75, 20, AdapterSettings()) for variant in variants)
    return CoreProblem(candidates=candidates, cores=20, load_rps=0.0, min_cores=2)


def test_on_the_published_profile() -> None:
    problem = published()
    rng = random.Random(2)
    names = [candidate.name for candidate in problem.candidates]
    for load in (0, 1, 17, 60, 96, 150, 201, 250, 299, 350, 385, 386, 500):
        cores = [rng.choice([0, 2, 3, 4]) for _ in names]
        current = dict(zip(names, cores, strict=True)) if load % 2 else {}
        found = hold_equal(
            msgspec.structs.replace(problem, load_rps=float(load), current=current), tolerance=1e-6
        )
        assert found.status == "optimal"


@st.composite
def problems(draw: st.DrawFn) -> CoreProblem:
    cores = draw(st.integers(1, 6))
    candidates = []
    for m in range(draw(st.integers(1, 3))):
        step = draw(st.sampled_from([1.0, 2.5, 7.0]))
        bend = draw(st.integers(1, 6))
        candidates.append(
            Candidate(
                name=f"v{m}",
                accuracy=draw(st.sampled_from([0.5, 0.6, 0.61, 0.9])),
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


@settings(max_examples=120, deadline=None)
@given(problems())
def test_on_random_problems(problem: CoreProblem) -> None:
    hold_equal(problem, tolerance=5e-6)
