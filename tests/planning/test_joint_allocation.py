"""E4 against every whole number of workers there is, on small random problems, and by hand."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Literal

import msgspec
import numpy as np
import pytest

from poise.domain.allocation import Allocation, Workers
from poise.domain.service import Device
from poise.planning.joint_allocation import JointSolution, allocate_jointly, solve_jointly
from poise.planning.joint_counts import loaded_s
from poise.planning.joint_oracle import best_of_all, rate_of
from poise.planning.joint_pools import Pools
from poise.planning.joint_problem import JointProblem, Kind, LoadClass, Option


def random_problem(rng: np.random.Generator) -> JointProblem:
    """A problem of a few kinds that differ in everything, drawn so that constraints bind often."""
    services = ["", "other"][: rng.integers(1, 3)]
    scope: Literal["class", "job"] = "class" if rng.integers(2) else "job"
    classes = tuple(
        LoadClass(
            name=f"{service}/c{q}" if service else f"c{q}",
            load_rps=float(rng.choice([0.0, 1.0, 4.0, 10.0, 30.0], p=[0.15, 0.3, 0.3, 0.2, 0.05])),
            weight=float(rng.choice([0.5, 1.0, 3.0])),
            floor=float(rng.choice([0.0, 0.7, 0.8, 0.95], p=[0.35, 0.3, 0.3, 0.05])),
            scope=scope,
            front_end_s=float(rng.choice([0.0, 0.02])),
        )
        for service in services
        for q in range(rng.integers(1, 3 if len(services) == 1 else 2))
    )
    cells = int(rng.choice([1, 2], p=[0.8, 0.2]))
    cores = int(rng.integers(1, 5 if cells == 1 else 3))
    rising = bool(rng.integers(2))
    kinds = []
    for u in range(rng.integers(1, 4)):
        service = str(rng.choice(services))
        own = [each.name for each in classes if each.name.startswith(service) == bool(service) or not service]
        threads = int(rng.integers(1, 3))
        breakpoints = ((1,), (1, 2), (1, 2, 4))[rng.integers(3)]
        options = []
        for o in range(rng.integers(1, 4)):
            accuracy = float(rng.choice([0.6, 0.75, 0.8, 0.9]))
            rates = {}
            for name in own:
                if "/" in name and not service:
                    continue
                base = rng.choice([0.0, 3.0, 8.0, 15.0], p=[0.1, 0.3, 0.3, 0.3], size=len(breakpoints))
                drawn = base * threads / (0.5 + accuracy)
                rates[name] = tuple((np.sort(drawn) if rising else drawn).tolist())
            options.append(Option(variant=f"v{o}", accuracy=accuracy, rates=rates))
        device: Device = "cuda" if rng.random() < 0.15 else "cpu"
        kinds.append(
            Kind(
                service=service,
                variants=(f"v{rng.integers(2)}", f"w{u}") if rng.integers(2) else (f"w{u // 2}",),
                options=tuple(options),
                threads=threads,
                device=device,
                batch_cap_s=0.1 * (u + 1),
                cores=threads if device == "cpu" else 0,
                memory_bytes=int(rng.integers(1, 4)),
                load_s=float(rng.choice([0.0, 1.0, 2.0, 5.0])),
                group="one" if rng.random() < 0.1 else None,
                breakpoints=breakpoints,
            )
        )
    kinds = _one_load_time_each(kinds)
    loaded = [
        kind.workers(int(rng.integers(1, 3)), int(rng.integers(cells))) for kind in kinds if rng.integers(2)
    ]
    return JointProblem(
        classes=classes,
        kinds=tuple(kinds),
        cores=cores,
        memory_bytes=float(rng.choice([2.0, 4.0, inf])),
        accelerators={"cuda": int(rng.integers(3))},
        cells=cells,
        running=tuple(loaded[:1]),
        standby=tuple(loaded[1:]),
        alpha=float(rng.choice([0.0, 1.0], p=[0.1, 0.9])),
        beta=float(rng.choice([0.0, 0.05, 0.5])),
        gamma=float(rng.choice([0.0, 0.001, 0.3, 2.0])),
    )


def _one_load_time_each(kinds: list[Kind]) -> list[Kind]:
    """Workers with the same things loaded take as long to load."""
    times = {kind.residence: kind.load_s for kind in kinds}
    sizes = {kind.residence: kind.memory_bytes for kind in kinds}
    return [
        msgspec.structs.replace(kind, load_s=times[kind.residence], memory_bytes=sizes[kind.residence])
        for kind in kinds
    ]


def check(problem: JointProblem, found: JointSolution) -> None:
    """Hold a solution against the constraints, stated once more."""
    idle = problem.value <= 0
    shed = dict(zip((each.name for each in problem.classes), found.shed_rps, strict=True))
    for cell, counts in enumerate(found.counts):
        cores = sum(kind.cores * n for kind, n in zip(problem.kinds, counts, strict=True))
        memory = sum(kind.memory_bytes * n for kind, n in zip(problem.kinds, counts, strict=True))
        front_s = sum(
            flow.rps * problem.classes[flow.slo_class].front_end_s
            for flow in found.flows
            if flow.cell == cell
        )
        assert cores + front_s <= problem.cores + 1e-5
        assert memory <= problem.memory_bytes
        for u, (kind, n) in enumerate(zip(problem.kinds, counts, strict=True)):
            busy = sum(
                flow.rps / rate_of(kind, flow.option, problem.classes[flow.slo_class].name, n)
                for flow in found.flows
                if flow.cell == cell and flow.kind == u and flow.rps
            )
            assert busy <= n + 1e-5
    for q, each in enumerate(problem.classes):
        own = [flow for flow in found.flows if flow.slo_class == q]
        answered = sum(flow.rps for flow in own)
        if each.weight * each.load_rps > 0:
            assert answered + shed[each.name] == pytest.approx(each.load_rps, abs=5e-6)
        gained = sum(flow.rps * problem.kinds[flow.kind].options[flow.option].accuracy for flow in own)
        if each.scope == "class":
            assert gained >= each.floor * answered - 1e-5
        else:
            assert all(
                problem.kinds[flow.kind].options[flow.option].accuracy >= each.floor - 1e-9 for flow in own
            )
    assert found.loading * problem.load_unit_s == loaded_s(problem, found.counts)
    whole = problem.cores * problem.cells
    assert found.resource == pytest.approx(
        sum(k.cores * n for counts in found.counts for k, n in zip(problem.kinds, counts, strict=True))
        / whole
    )
    if not idle:
        mean = sum(
            problem.classes[flow.slo_class].weight
            * flow.rps
            * problem.kinds[flow.kind].options[flow.option].accuracy
            for flow in found.flows
        )
        assert found.accuracy == pytest.approx(mean / problem.value, abs=5e-6)
    assert found.objective == pytest.approx(
        problem.alpha * found.accuracy - problem.beta * found.resource - problem.gamma * found.loading,
        abs=1e-9,
    )


def shed_share(problem: JointProblem, found: JointSolution) -> float:
    if problem.value <= 0:
        return 0.0
    gone = zip(problem.classes, found.shed_rps, strict=True)
    return sum(each.weight * rps for each, rps in gone) / problem.value


def test_e4_is_exact_on_random_problems_of_every_sort() -> None:
    rng = np.random.default_rng(4)
    sorts: Counter[str] = Counter()
    for _ in range(300):
        problem = random_problem(rng)
        found = solve_jointly(problem)
        assert found is not None
        assert found.status == "optimal"
        check(problem, found)
        best = best_of_all(problem)
        if problem.value > 0:
            assert shed_share(problem, found) == pytest.approx(best.shed, abs=5e-6)
        assert found.objective == pytest.approx(best.objective, abs=5e-6), problem
        sorts.update(sorts_of(problem, found))
    wanted = {
        "shed": 60,
        "carried whole": 60,
        "memory-bound": 30,
        "floor-bound": 30,
        "loading-bound": 3,
        "two classes": 60,
        "two services": 60,
        "scope class": 60,
        "scope job": 60,
        "two cells": 30,
        "accelerator": 10,
        "idle": 5,
        "front end": 60,
        "rates that fall": 60,
    }
    assert all(sorts[sort] >= least for sort, least in wanted.items()), sorts


def sorts_of(problem: JointProblem, found: JointSolution) -> set[str]:
    """What is special about a problem; bound means that the answer is worse than it were without."""
    sorts = {f"scope {problem.classes[0].scope}"}
    if problem.value <= 0:
        sorts.add("idle")
    sorts.add("shed" if shed_share(problem, found) > 1e-6 else "carried whole")
    if len(problem.classes) > 1:
        sorts.add("two classes")
    if len({kind.service for kind in problem.kinds}) > 1 or any("/" in each.name for each in problem.classes):
        sorts.add("two services")
    if problem.cells > 1:
        sorts.add("two cells")
    if any(
        kind.device == "cuda" and n
        for counts in found.counts
        for kind, n in zip(problem.kinds, counts, strict=True)
    ):
        sorts.add("accelerator")
    if any(each.front_end_s and each.load_rps for each in problem.classes):
        sorts.add("front end")
    if not Pools(problem.kinds, problem.classes).rising.all():
        sorts.add("rates that fall")
    freed = {
        "memory-bound": msgspec.structs.replace(problem, memory_bytes=inf),
        "floor-bound": msgspec.structs.replace(
            problem, classes=tuple(msgspec.structs.replace(each, floor=0.0) for each in problem.classes)
        ),
        "loading-bound": msgspec.structs.replace(problem, gamma=0.0),
    }
    for sort, other in freed.items():
        better = solve_jointly(other)
        assert better is not None
        if sort == "loading-bound":
            unweighed = found.objective + problem.gamma * found.loading
            gained = better.objective - unweighed > 1e-6
        else:
            fewer = shed_share(problem, found) - shed_share(other, better)
            gained = fewer > 1e-6 or (abs(fewer) <= 1e-6 and better.objective - found.objective > 1e-6)
        if gained:
            sorts.add(sort)
    return sorts


def test_leaving_out_what_no_optimum_needs_changes_no_optimum() -> None:
    rng = np.random.default_rng(5)
    smaller = 0
    for _ in range(150):
        problem = random_problem(rng)
        whole = Pools(problem.kinds, problem.classes, hulls=False)
        cut = Pools(problem.kinds, problem.classes)
        smaller += _size(cut) < _size(whole)
        every, few = solve_jointly(problem, pools=whole), solve_jointly(problem, pools=cut)
        assert every is not None
        assert few is not None
        assert few.objective == pytest.approx(every.objective, abs=5e-6)
        assert shed_share(problem, few) == pytest.approx(shed_share(problem, every), abs=5e-6)
    assert smaller >= 60


def test_every_vertex_of_a_hull_is_needed_and_nothing_else() -> None:
    rng = np.random.default_rng(6)
    vertices = 0
    for _ in range(60):
        accuracy = np.sort(rng.random(8))
        rates = np.sort(rng.uniform(1, 20, 8))[::-1] if rng.integers(2) else rng.uniform(1, 20, 8)
        options = tuple(
            Option(variant=f"v{o}", accuracy=float(a), rates={"c": (float(r),)})
            for o, (a, r) in enumerate(zip(accuracy, rates, strict=True))
        )
        kind = Kind(variants=tuple(each.variant for each in options), options=options)
        vertices += _size(Pools((kind,), (LoadClass(name="c", load_rps=1.0),)))
        for load in np.linspace(float(rates.min()) * 0.9, float(rates.max()), 7).tolist():
            problem = both(load, kinds=(kind,), cores=1)
            every = solve_jointly(problem, pools=Pools((kind,), problem.classes, hulls=False))
            few = solve_jointly(problem)
            assert every is not None
            assert few is not None
            assert few.objective == pytest.approx(every.objective, abs=1e-7)
    assert 2 * 60 < vertices < 6 * 60


def _size(pools: Pools) -> int:
    return len(pools.accuracy)


SMALL = Option(variant="small", accuracy=0.7, rates={"c": (10.0,)})
LARGE = Option(variant="large", accuracy=0.9, rates={"c": (2.0,)})


def both(load_rps: float, **more: object) -> JointProblem:
    kind = Kind(variants=("small", "large"), options=(SMALL, LARGE), load_s=3.0)
    given = {
        "classes": (LoadClass(name="c", load_rps=load_rps),),
        "kinds": (kind,),
        "cores": 2,
        "beta": 0.0,
        **more,
    }
    return JointProblem(**given)  # type: ignore[arg-type]


def answered(problem: JointProblem) -> Allocation:
    found = allocate_jointly(problem)
    assert found is not None
    assert found.status == "optimal"
    return found


def test_one_worker_mixes_what_it_holds() -> None:
    found = answered(both(12.0))
    # two workers: s + l = 12, s/10 + l/2 = 2, so l = 2
    assert found.shares["c"] == pytest.approx({"small": 10.0, "large": 2.0})
    assert found.terms is not None
    assert found.terms.accuracy == pytest.approx((10 * 0.7 + 2 * 0.9) / 12)
    assert found.terms.loading == 1.0
    assert [(each.variants, each.count) for each in found.workers] == [(("small", "large"), 2)]


def test_overload_is_shed_and_said() -> None:
    found = answered(both(25.0))
    assert found.shed == {"c": pytest.approx(5.0)}
    assert found.shares["c"] == pytest.approx({"small": 20.0})


def test_the_heavier_class_is_shed_last() -> None:
    rates = {"a": (10.0,), "b": (10.0,)}
    kind = Kind(variants=("v",), options=(Option(variant="v", accuracy=0.8, rates=rates),))
    classes = (LoadClass(name="a", load_rps=8.0, weight=1.0), LoadClass(name="b", load_rps=8.0, weight=2.0))
    found = answered(JointProblem(classes=classes, kinds=(kind,), cores=1))
    assert found.shed == {"a": pytest.approx(6.0), "b": 0.0}


@pytest.mark.parametrize("scope", ["class", "job"])
def test_a_floor_in_either_scope(scope: str) -> None:
    problem = both(3.0, classes=(LoadClass(name="c", load_rps=12.0, floor=0.8, scope=scope),))  # type: ignore[arg-type]
    found = answered(problem)
    if scope == "job":
        assert found.shed == {"c": pytest.approx(8.0)}  # only the large one will do, at 2/s each
    else:
        # half and half: two workers spend 2 = x/20 + x/4
        assert found.shed == {"c": pytest.approx(12 - 2 / 0.3)}


def test_no_load_wants_one_accurate_worker_and_no_kind_is_an_answer() -> None:
    idle = answered(both(0.0, beta=0.05))
    assert sum(each.count for each in idle.workers) == 1
    assert idle.terms is not None
    assert idle.terms.accuracy == 0.9
    assert idle.shed == {"c": 0.0}
    none = answered(both(5.0, kinds=()))
    assert none.workers == ()
    assert none.shed == {"c": 5.0}
    assert answered(both(0.0, kinds=())).shed == {"c": 0.0}
    assert answered(both(5.0, classes=())).workers == ()


def test_what_is_loaded_is_used_before_anything_is_loaded() -> None:
    alone = [
        Kind(variants=(option.variant,), options=(option,), load_s=load_s)
        for option, load_s in ((SMALL, 1.0), (LARGE, 4.0))
    ]
    fresh = both(2.0, kinds=tuple(alone), gamma=1.0)
    assert [each.variants for each in answered(fresh).workers] == [("small",)]
    parked = msgspec.structs.replace(fresh, standby=(Workers(variants=("large",), count=1),))
    found = answered(parked)
    assert [each.variants for each in found.workers] == [("large",)]
    assert found.terms is not None
    assert found.terms.loading == 0.0


def test_another_batch_cap_of_what_runs_loads_nothing() -> None:
    kinds = [
        Kind(variants=("small",), options=(SMALL,), load_s=1.0, batch_cap_s=cap_s) for cap_s in (0.1, 0.2)
    ]
    running = (Workers(variants=("small",), count=2, batch_cap_s=0.1),)
    problem = both(15.0, kinds=tuple(kinds[1:]), running=running, gamma=1.0)
    assert loaded_s(problem, ((2,),)) == 0.0
    assert loaded_s(problem, ((3,),)) == 1.0


def test_the_front_end_needs_cores_too() -> None:
    problem = both(12.0, classes=(LoadClass(name="c", load_rps=12.0, front_end_s=0.1),))
    found = answered(problem)
    assert (
        sum(each.count for each in found.workers) == 1
    )  # 2 cores less 1.2 for the front end leave none for another
    assert found.shed == {"c": pytest.approx(2.0)}


def test_brackets_of_rates_are_held_exactly() -> None:
    option = Option(variant="v", accuracy=0.8, rates={"c": (1.0, 3.0, 2.0)})
    kind = Kind(variants=("v",), options=(option,), breakpoints=(1, 2, 4))
    problem = both(0.0, kinds=(kind,), cores=4)
    for load, count in ((1.0, 1), (6.0, 2), (5.0, 2), (6.5, 4), (8.0, 4)):
        classes = (LoadClass(name="c", load_rps=load),)
        found = answered(msgspec.structs.replace(problem, classes=classes, beta=0.05))
        assert sum(each.count for each in found.workers) == count, load
        assert found.shed == {"c": 0.0}


def test_a_time_limit_of_nothing_gives_no_answer_or_says_so() -> None:
    found = solve_jointly(both(12.0), time_limit_s=0.0)
    assert found is None or found.status == "time_limit"
