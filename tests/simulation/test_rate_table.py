"""The rate table's simulation against closed forms and against one that handles a job at a time."""

from __future__ import annotations

import heapq
import math
from itertools import pairwise

import numpy as np
import pytest

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.domain.service import Modality, Service, SLOClass, TensorSpec, Variant
from poise.planning.joint_configurations import configurations
from poise.simulation.rate_table import Lane, build_rate_table, most_rates


def constant(batch_s: list[float]) -> tuple[tuple[float, ...], ...]:
    return ((0.0,), *((each,) for each in batch_s))


def lane(batch_s: list[float], slo_s: float, cap_s: float = 0.0) -> Lane:
    return Lane(constant(batch_s), cap_s, slo_s, len(batch_s) / batch_s[-1])


def waits_less(rho: float, x: float) -> float:
    """P(W ≤ x) of M/D/1 with service time 1 (Erlang)."""
    return (1 - rho) * math.fsum(
        (-rho * (x - k)) ** k / math.factorial(k) * math.exp(rho * (x - k)) for k in range(math.floor(x) + 1)
    )


def late_share(rho: float, slo: float, cap: float) -> float:
    """Share of jobs later than an SLO in M/D/1; with vacations the wait has a uniform part more (Fuhrmann, Cooper)."""
    room = slo - 1
    if not cap:
        return 1 - waits_less(rho, room)
    parts = [room - cap * (i + 0.5) / 400 for i in range(400)]
    return 1 - sum(waits_less(rho, part) if part >= 0 else 0.0 for part in parts) / 400


@pytest.mark.parametrize(
    "cases", [[(3.0, 0.0), (6.0, 0.0), (10.0, 0.0)], [(6.0, 3.0), (8.0, 2.0), (10.0, 5.0)]]
)
def test_one_worker_holds_what_the_closed_form_says(cases: list[tuple[float, float]]) -> None:
    found = most_rates([lane([0.02], 0.02 * slo, 0.02 * cap) for slo, cap in cases], [1], jobs=20_000)
    for (slo, cap), rate in zip(cases, found[:, 0].tolist(), strict=True):
        low, high = 0.0, 0.99
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if late_share(middle, slo, cap) <= 0.01 else (low, middle)
        assert rate * 0.02 == pytest.approx(low, rel=0.06)


def one_by_one(
    batch_s: list[float], slo_s: float, cap_s: float, workers: int, rate_rps: float, jobs: int, seed: int
) -> float:
    """The share of late jobs, from events in a heap: each worker, when free, takes what waits or does other work."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate_rps, jobs)).tolist()
    free = [(float(t), w) for w, t in enumerate(rng.random(workers) * cap_s)]
    heapq.heapify(free)
    at = late = 0
    while at < jobs:
        now_s, worker = heapq.heappop(free)
        waiting = 0
        while at + waiting < jobs and waiting < len(batch_s) and arrivals[at + waiting] <= now_s:
            waiting += 1
        if not waiting:
            heapq.heappush(free, (now_s + cap_s if cap_s else arrivals[at], worker))
            continue
        end_s = now_s + batch_s[waiting - 1]
        late += sum(end_s - arrivals[at + i] > slo_s for i in range(waiting))
        at += waiting
        heapq.heappush(free, (end_s, worker))
    return late / jobs


ALONE = [([0.1], 0.4, 0.0), ([0.05, 0.07, 0.09, 0.11], 0.3, 0.0)]
BESIDE = [([0.1], 0.5, 0.25), ([0.05, 0.07, 0.09, 0.11], 0.4, 0.2), ([0.1, 0.11], 0.3, 0.15)]


@pytest.mark.parametrize("cases", [ALONE, BESIDE], ids=["alone", "beside"])
def test_the_rate_is_where_one_answer_in_a_hundred_is_late(
    cases: list[tuple[list[float], float, float]],
) -> None:
    counts = [1, 2, 4, 16]
    found = most_rates([lane(*case) for case in cases], counts, jobs=12_000)
    judged = 0
    for case, rates in zip(cases, found, strict=True):
        for workers, rate in zip(counts, (rates * counts).tolist(), strict=True):
            assert one_by_one(*case, workers, 0.93 * rate, 20_000, 7) <= 0.0105
            if rate < 0.95 * workers * len(case[0]) / case[0][-1]:
                judged += 1
                assert one_by_one(*case, workers, 1.08 * rate, 20_000, 7) > 0.0095
    assert judged >= len(cases)


def test_a_batch_of_an_slo_carries_nothing_beside_other_work() -> None:
    found = most_rates([lane([0.3], 0.4, 0.2), lane([0.3], 0.7, 0.2)], [1, 16], jobs=3000)
    assert found[0, 0] == 0.0
    assert found[1, 0] > 0.0
    assert found[0, 1] > 0.0  # one of sixteen is soon free


def test_more_workers_are_never_slower_and_nothing_is_drawn_anew() -> None:
    lanes = [lane([0.05, 0.06, 0.07], slo_s, 0.1) for slo_s in (0.15, 0.2, 0.4, 1.0)]
    found = most_rates(lanes, [1, 2, 4, 8], jobs=2000)
    assert (np.diff(found, axis=1) >= 0).all()
    assert (np.diff(found, axis=0) >= 0).all()  # nor is a longer SLO
    assert (found == most_rates(lanes, [1, 2, 4, 8], jobs=2000)).all()


def test_times_that_vary_carry_less_than_their_mean() -> None:
    steady = Lane(((0.0,), (0.1,)), 0.0, 0.5, 10.0)
    varied = Lane(((0.0,), (0.0, 0.05, 0.3, 0.35, 0.4)), 0.0, 0.5, 10.0)
    found = most_rates([steady, varied], [1], jobs=5000)
    assert 0 < found[1, 0] < found[0, 0]


def small_service(slo_ms: float = 200.0) -> tuple[Service, Profile]:
    def stage(name: str, sets: tuple[tuple[str, ...], ...], each_s: float) -> StageProfile:
        points = tuple(
            LatencyPoint(threads=threads, batch=batch, mean_s=each_s * (1 + batch) / threads)
            for threads in (1, 2)
            for batch in (1, 4)
        )
        return StageProfile(name=name, modality_sets=sets, latency=points)

    service = Service(
        format=1,
        service="pair",
        modalities={
            name: Modality(inputs={name: TensorSpec(datatype="FP32", shape=(1,))}) for name in ("a", "b")
        },
        outputs={"y": TensorSpec(datatype="FP32", shape=(1,))},
        variants={"v": Variant(runtime="emulated")},
        classes={"normal": SLOClass(latency_slo_ms=slo_ms)},
    )
    modes = (("a",), 0.6), (("b",), 0.7), (("a", "b"), 0.9)
    variant = VariantProfile(
        name="v",
        modes=tuple(ModeProfile(modalities=names, accuracy=accuracy) for names, accuracy in modes),
        stages=(stage("a", (("a",), ("a", "b")), 0.001), stage("b", (("b",), ("a", "b")), 0.01)),
    )
    return service, Profile(format=1, service="pair", variants=(variant,))


def test_a_service_has_a_rate_for_each_way_to_answer() -> None:
    service, profile = small_service()
    found = build_rate_table(service, profile, workers=(1, 2, 4), jobs=2000)
    assert found == build_rate_table(service, profile, workers=(1, 2, 4), jobs=2000)
    assert {rate.modalities for rate in found.rates} == {"a+b", "a", "b"}
    assert {rate.threads for rate in found.rates} == {1, 2}
    assert {rate.batch_cap_s for rate in found.rates} == {0.05, 0.1}
    assert {rate.accuracy for rate in found.rates if rate.modalities == "a"} == {0.6}
    assert {rate.accuracy for rate in found.rates if rate.modalities == "a+b"} >= {0.6, 0.9}
    assert all(rate.batch_s <= rate.batch_cap_s for rate in found.rates)
    assert all(a <= b for rate in found.rates for a, b in pairwise(rate.items_per_s))
    by_accuracy = {
        accuracy: max(
            rate.items_per_s[0] for rate in found.rates if rate.accuracy == accuracy and rate.threads == 1
        )
        for accuracy in (0.6, 0.9)
    }
    assert by_accuracy[0.6] > 2 * by_accuracy[0.9]


def test_nothing_is_held_within_an_slo_shorter_than_a_batch() -> None:
    service, profile = small_service(slo_ms=1.0)
    assert build_rate_table(service, profile, jobs=500).rates == ()


def test_every_batch_of_a_configuration_is_as_accurate_as_it_says() -> None:
    service, profile = small_service()
    for way in configurations(service, profile):
        assert len(way.mean_s) == len(way.knots) == way.batch + 1
        assert way.mean_s[1] <= way.mean_s[way.batch]
        if way.modalities == "a+b" and way.accuracy == 0.9 and way.threads == 1:
            assert way.mean_s[1] == pytest.approx(0.022)  # both stages, one item
