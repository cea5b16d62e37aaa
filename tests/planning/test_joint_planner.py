"""The planner of E4: from a service, its profile and its rates to allocations."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.domain.adapter_settings import AdapterSettings
from poise.domain.allocation import Allocation, Workers
from poise.domain.profile import (
    CapacityPoint,
    LatencyPoint,
    ModeProfile,
    Profile,
    StageProfile,
    VariantProfile,
)
from poise.domain.rate_table import Rate, RateTable
from poise.domain.service import Budget, Guarantee, Modality, Service, SLOClass, TensorSpec, Variant
from poise.planning.joint_planner import JointPlanner
from poise.planning.worker_kinds import KindMaker, batch_caps_s, resident_sets

GIB = 2**30
NAMES = {"small": (0.70, 40.0), "middle": (0.80, 10.0), "large": (0.90, 4.0)}
"""Accuracy, and items/s of a worker at most."""


def variant(name: str, *, capacity: tuple[tuple[int, float], ...] = ()) -> VariantProfile:
    accuracy, rate = NAMES[name]
    points = tuple(LatencyPoint(batch=1, threads=threads, mean_s=0.8 / rate / threads) for threads in (1, 2))
    return VariantProfile(
        name=name,
        load_time_s=1.0 + list(NAMES).index(name),
        memory_bytes=GIB,
        modes=(
            ModeProfile(modalities=("a",), accuracy=accuracy / 2),
            ModeProfile(modalities=("a", "b"), accuracy=accuracy),
        ),
        stages=(StageProfile(name="all", modality_sets=(("a",), ("a", "b")), latency=points),),
        capacity=tuple(CapacityPoint(cores=n, rps=rps, slo_s=1.0) for n, rps in capacity),
    )


def family(
    name: str = "family",
    *,
    memory: str = "64GiB",
    slos_ms: tuple[float, ...] = (1000.0,),
    capacity: bool = False,
) -> tuple[Service, Profile, RateTable]:
    service = Service(
        format=1,
        service=name,
        modalities={m: Modality(inputs={m: TensorSpec(datatype="FP32", shape=(1,))}) for m in ("a", "b")},
        outputs={"y": TensorSpec(datatype="FP32", shape=(1,))},
        variants={each: Variant(runtime="emulated") for each in NAMES},
        classes={f"c{q}": SLOClass(latency_slo_ms=slo, weight=q + 1.0) for q, slo in enumerate(slos_ms)},
        budget=Budget(cores=4, memory=memory),
        guarantee=Guarantee(scope="class"),
        adapter=AdapterSettings(policy="poise"),
    )
    points = ((1, 20.0), (2, 60.0), (4, 100.0)) if capacity else ()
    profile = Profile(
        format=1, service=name, variants=tuple(variant(each, capacity=points) for each in NAMES)
    )
    rates = [
        Rate(
            variant=each,
            modalities=label,
            threads=threads,
            device="cpu",
            batch=1,
            accuracy=accuracy if label == "a+b" else accuracy / 2,
            batch_s=0.8 / rate / threads,
            batch_cap_s=cap_s,
            slo_s=slo_ms / 1e3,
            items_per_s=(0.5 * rate * threads, 0.8 * rate * threads, rate * threads),
        )
        for each, (accuracy, rate) in NAMES.items()
        for label in ("a+b", "a")
        for threads in (1, 2)
        for cap_s in batch_caps_s(service)
        for slo_ms in slos_ms
        if 0.8 / rate / threads <= cap_s
    ]
    return service, profile, RateTable(workers=(1, 2, 4), rates=tuple(rates))


def solved(planner: JointPlanner, loads: dict[str, float], **more: object) -> Allocation:
    found = planner.solve(loads, **more)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_little_load_is_answered_accurately_and_much_of_it_fast() -> None:
    planner = JointPlanner(*family())
    little, much = solved(planner, {"c0": 2.0}), solved(planner, {"c0": 120.0})
    assert little.shares == {"c0": {"large": 2.0}}
    assert little.cores == 1
    assert much.cores == 4
    assert much.shares["c0"]["small"] > 100
    assert {each.variants for each in much.workers} == {("small", "middle", "large")}
    over = solved(planner, {"c0": 500.0})
    assert over.shed["c0"] == pytest.approx(
        500 - 160, rel=1e-3
    )  # 4 workers of 40/s; the front end has 0.016 cores


def test_the_present_workers_are_kept_where_they_are_as_good() -> None:
    planner = JointPlanner(*family())
    for load in (1.0, 8.0, 30.0, 90.0, 150.0):
        first = solved(planner, {"c0": load})
        again = solved(planner, {"c0": load}, running=first.workers)
        assert again.workers == first.workers
        assert again.terms is not None
        assert again.terms.loading == 0.0
        idle = solved(planner, {"c0": load}, running=first.workers[:0], standby=first.workers)
        assert idle.terms is not None
        assert idle.terms.loading == 0.0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.5, 0.25]), st.integers(1, 3)), min_size=1, max_size=2),
    st.floats(0.2, 3.0),
)
def test_capacity_is_what_is_carried_without_shedding(kinds: list[tuple[float, int]], mix: float) -> None:
    service, profile, rates = family(slos_ms=(1000.0, 500.0))
    roomy = msgspec.structs.replace(service, budget=Budget(cores=8, memory="64GiB"))
    planner = JointPlanner(roomy, profile, rates)
    workers = tuple(
        Workers(variants=("small", "middle", "large"), count=count, batch_cap_s=part)
        for part, count in dict(kinds).items()
    )
    shares = {"c0": mix, "c1": 1.0}
    capacity = planner.capacity_rps(workers, shares)
    assert capacity > 0
    cores = sum(each.count for each in workers)
    for factor, sheds in ((0.999, False),):
        loads = {name: capacity * factor * share / (mix + 1) for name, share in shares.items()}
        found = solved(planner, loads, running=workers, cores=cores + 1)
        assert (sum(found.shed.values()) > 1e-6) is sheds
    assert planner.capacity_rps(workers[:1], shares) <= capacity + 1e-9
    assert planner.capacity_rps((), shares) == 0.0


def test_workers_of_other_sets_and_without_a_cap_are_understood() -> None:
    planner = JointPlanner(*family())
    odd = (Workers(variants=("large", "small"), count=2),)
    assert planner.capacity_rps(odd) == pytest.approx(2 * 32.0)
    assert planner.capacity_rps((msgspec.structs.replace(odd[0], batch_cap_s=0.5),)) == planner.capacity_rps(
        odd
    )
    kept = solved(planner, {"c0": 3.0}, running=odd)
    assert kept.terms is not None
    assert kept.terms.loading == 0.0
    assert {frozenset(each.variants) for each in kept.workers} == {frozenset(("large", "small"))}
    plain = tuple(Workers(variants=("small", "middle", "large"), count=n) for n in (1,))
    assert solved(planner, {"c0": 2.0}, running=plain).workers == (
        msgspec.structs.replace(plain[0], batch_cap_s=0.5),
    )
    gone = (
        Workers(variants=("unheard-of",), count=3),
        Workers(variants=("small",), count=1, service="other"),
    )
    assert planner.capacity_rps(gone) == 0.0
    assert solved(planner, {"c0": 3.0}, running=gone).shed == {"c0": 0.0}


def test_jobs_that_lack_a_modality_are_a_class_of_their_own() -> None:
    planner = JointPlanner(*family())
    found = solved(planner, {"c0": 2.0, "c0:a": 2.0})
    assert found.terms is not None
    assert found.terms.accuracy == pytest.approx((0.9 + 0.45) / 2)
    assert found.shares["c0:a"] == {"large": 2.0}


def test_two_services_share_a_budget() -> None:
    one, other = family("one"), family("other")
    planner = JointPlanner.joined([one, other])
    assert planner.classes == ("one/c0", "other/c0")
    found = solved(planner, {"one/c0": 3.0, "other/c0": 60.0})
    assert found.cores <= 4
    assert {each.service for each in found.workers} == {"one", "other"}
    assert found.shed == {"one/c0": 0.0, "other/c0": 0.0}
    assert sum(found.shares["other/c0"].values()) == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("loads", "said"),
    [
        ({"c9": 1.0}, "c9"),
        ({"c0:z": 1.0}, "'z'"),
        ({"c0": -1.0}, "at least 0"),
        ({"c0": math.nan}, "at least 0"),
        ({"c0": math.inf}, "at least 0"),
    ],
)
def test_what_cannot_be_a_load_is_said(loads: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        JointPlanner(*family()).solve(loads)


def test_no_load_and_no_rates_are_answers() -> None:
    service, profile, rates = family()
    idle = solved(JointPlanner(service, profile, rates), {"c0": 0.0})
    assert idle.cores == 1
    assert idle.shed == {"c0": 0.0}
    empty = solved(JointPlanner(service, profile, RateTable()), {"c0": 5.0})
    assert empty.workers == ()
    assert empty.shed == {"c0": 5.0}


def test_measured_capacity_comes_before_the_table_and_does_not_fall() -> None:
    service, profile, rates = family(capacity=True)
    kind = KindMaker(service, profile, rates).kind(("small",), 1, "cpu", 0.5, ("c0",))
    best = [option for option in kind.options if option.accuracy == 0.70]
    assert len(best) == 1
    # 20 on one core, then 60 on two and 100 on four: 30 and 25 each, together 160/6
    assert best[0].rates["c0"] == pytest.approx((20.0, 160 / 6, 160 / 6))
    two = KindMaker(service, profile, rates).kind(("small",), 2, "cpu", 0.5, ("c0",))
    assert [option.rates["c0"] for option in two.options if option.accuracy == 0.70] == [(40.0, 64.0, 80.0)]


def test_resident_sets_are_what_fits() -> None:
    sizes = {"s": 1, "m": 2, "l": 4}
    assert resident_sets(sizes, 28.0, 4) == (("s", "m", "l"),)
    sets = resident_sets(sizes, 12.0, 4)
    assert ("s", "m") in sets  # a quarter of the memory
    assert ("m", "l") in sets  # half of it
    assert ("s", "m", "l") in sets
    assert {("s",), ("m",), ("l",)} <= set(sets)
    assert resident_sets(sizes, 3.0, 4) == (("s",), ("s", "m"), ("m",))
    assert resident_sets({}, 3.0, 4) == ()
    many = resident_sets({f"v{i}": 1 + i for i in range(20)}, 200.0, 8)
    assert all(sum(1 + int(name[1:]) for name in each) <= 200 for each in many)
    assert len(many) < 100


def test_the_front_end_has_its_cores() -> None:
    service, profile, rates = family()
    busy = msgspec.structs.replace(service, adapter=AdapterSettings(policy="poise", front_end_us=100.0))
    found = solved(JointPlanner(busy, profile, rates), {"c0": 120.0})
    assert found.cores == 3  # 0.012 cores for the front end leave no fourth one
    assert found.shed["c0"] == pytest.approx(120 - 3 * 32.0)


def test_memory_is_a_budget() -> None:
    service, profile, rates = family(memory="4GiB")
    found = solved(JointPlanner(service, profile, rates), {"c0": 100.0}, gap=0.0)
    assert sum(len(each.variants) * each.count for each in found.workers) <= 4
    roomy = solved(JointPlanner(*family()), {"c0": 100.0}, gap=0.0)
    assert found.objective is not None
    assert roomy.objective is not None
    assert found.objective < roomy.objective


def test_what_could_not_be_loaded_is_done_without() -> None:
    planner = JointPlanner(*family())
    first = solved(planner, {"c0": 10.0})
    assert {w.variants for w in first.workers} == {tuple(NAMES)}
    spoilt = (Workers(variants=tuple(NAMES), count=1),)
    second = solved(planner, {"c0": 10.0}, avoided=spoilt)
    assert second.workers
    assert all(len(w.variants) < 3 for w in second.workers)
    more = (*spoilt, *(msgspec.structs.replace(w, count=1) for w in second.workers))
    third = solved(planner, {"c0": 10.0}, avoided=more)
    assert third.workers
    assert not {w.variants for w in third.workers} & {w.variants for w in more}
