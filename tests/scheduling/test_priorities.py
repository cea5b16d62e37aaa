"""Who is hurt under overload: weights and priorities decide, everybody sees it, and refused jobs cost nobody."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from poise.domain.job import Job, RefusalReason
from poise.domain.service import Service
from poise.scheduling.commands import Answer, Refuse
from poise.scheduling.events import JobArrived
from poise.scheduling.policies import POLICIES
from poise.simulation.simulate import SimulatedRun, simulate
from poise.workload.jobs import JobDraw

ADMITTING = [name for name, policy in POLICIES.items() if policy.admits]


def classes(gold: float) -> dict[str, Any]:
    slo = {"latency_slo_ms": 50, "accuracy_floor": 0.6}
    return {"bronze": slo, "gold": {**slo, "weight": gold}}


def arrivals(
    rate: float, duration_s: float, seed: int, slo_class: str, **fields: Any
) -> Iterable[tuple[float, dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.exponential(1 / rate, int(rate * duration_s * 1.4)))
    for at_s in times_s[times_s < duration_s].tolist():
        yield at_s, {"slo_class": slo_class, **fields}


def together(*streams: Iterable[tuple[float, dict[str, Any]]]) -> list[JobDraw]:
    merged = heapq.merge(*streams, key=lambda found: found[0])
    common: dict[str, Any] = {"items": 1, "deadline_s": None, "accuracy_floor": None, "available": 3}
    return [
        JobDraw(number=number, arrival_s=at_s, **(common | fields))
        for number, (at_s, fields) in enumerate(merged)
    ]


def overloaded(service: Service, profile: Any, policy: str) -> SimulatedRun:
    """Half a second at three times what one worker answers by its cheapest mode; both classes send as much."""
    draws = together(arrivals(1500.0, 0.5, 1, "bronze"), arrivals(1500.0, 0.5, 2, "gold"))
    return simulate(service, profile, draws, duration_s=0.5, policy=policy)


@pytest.mark.parametrize("policy", ADMITTING)
def test_the_heavier_class_is_hurt_less_and_the_report_shows_both(
    make_service, make_profile, policy: str
) -> None:
    service = make_service(classes=classes(gold=4.0))
    report = overloaded(service, make_profile(), policy).report
    gold, bronze = report.per_class["gold"], report.per_class["bronze"]
    assert gold.attainment >= bronze.attainment
    assert bronze.attainment < 0.5
    assert gold.jobs + bronze.jobs == report.jobs
    lost = sum(bronze.refused.values()) + bronze.late
    assert lost == pytest.approx((1 - bronze.attainment) * bronze.jobs)


@pytest.mark.parametrize("policy", ["poise", "jobwise"])
def test_weights_are_worth_much_where_the_policy_weighs(make_service, make_profile, policy: str) -> None:
    heavy = overloaded(make_service(classes=classes(gold=4.0)), make_profile(), policy).report.per_class
    alike = overloaded(make_service(classes=classes(gold=1.0)), make_profile(), policy).report.per_class
    assert heavy["gold"].attainment > 1.4 * alike["gold"].attainment
    assert abs(alike["gold"].attainment - alike["bronze"].attainment) < 0.05


def arrive(server: Any, job_id: int, priority: int, now_s: float = 0.0) -> Any:
    job = Job(job_id, "normal", 1, now_s, now_s + 0.1, 0.6, 3, priority)
    return server.handle(JobArrived(now_s, job))


def test_priorities_make_room_as_weights_do_and_never_of_what_runs(hand) -> None:
    """The queue is filled by the least; then one of each higher priority comes, none of a lower one."""
    server = hand()
    job_id = 0
    while not isinstance(server.outcomes.get(job_id), Refuse):
        job_id += 1
        arrive(server, job_id, 8)
    flying = {part.job_id for batch in server.running.values() for part in batch.parts}
    for priority in (8, 5, 0, 1):
        job_id += 1
        before = set(server.outcomes)
        arrive(server, job_id, priority)
        lost = set(server.outcomes) - before
        if priority == 8:
            assert lost == {job_id}
        else:
            assert lost
            assert job_id not in lost
            assert not lost & flying
            assert {server.outcomes[gone].reason for gone in lost} == {RefusalReason.DISPLACED}
    while server.running:
        batch_id = min(server.running)
        server.finish(batch_id, server.running[batch_id].expected_s + server.scheduler._now_s)
    assert all(isinstance(server.outcomes[kept], Answer) for kept in range(job_id - 2, job_id + 1))


@pytest.mark.parametrize(
    "refused",
    [{"deadline_s": 0.0002}, {"accuracy_floor": 0.99}],
    ids=["a deadline that nothing meets", "a floor that nothing reaches"],
)
def test_refused_jobs_cost_the_others_nothing(make_service, make_profile, refused: dict[str, Any]) -> None:
    """Neither an answer in time nor accuracy: what is refused for itself says nothing about the load."""
    service = make_service(classes=classes(gold=1.0), guarantee={"scope": "job"})
    alone = list(arrivals(40.0, 10.0, 1, "gold"))
    hopeless = list(arrivals(40.0, 10.0, 2, "gold", **refused))

    def figures(draws: list[JobDraw]) -> tuple[float, float]:
        kept: list[float] = []
        wanted = {d.number for d in draws if d.deadline_s is None and d.accuracy_floor is None}

        def observe(_: object, commands: Any) -> None:
            kept.extend(c.accuracy for c in commands if isinstance(c, Answer) and c.job_id in wanted)

        simulate(service, make_profile(), draws, duration_s=10.0, observe=observe)
        return len(kept) / len(wanted), sum(kept) / len(kept)

    assert figures(together(alone, hopeless)) == pytest.approx(figures(together(alone)), abs=0.002)
