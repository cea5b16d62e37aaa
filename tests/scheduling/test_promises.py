"""Promises that must hold whatever happens: one outcome each, floors of classes, who makes room, calibration."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from poise.domain.job import RefusalReason
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.scheduling.commands import Answer, Command, Refuse
from poise.scheduling.events import BatchDone, BatchFailed, Event, JobCancelled, Woke, WorkerLost, WorkerReady
from poise.scheduling.scheduler import Scheduler
from poise.simulation.faults import NO_FAULTS, Faults, SlowWorker
from poise.simulation.simulate import simulate
from poise.workload.jobs import JobDraw

FLOOR = 0.8
CLASS = {"normal": {"latency_slo_ms": 100, "accuracy_floor": FLOOR}}
WEIGHTED = {
    "normal": {"latency_slo_ms": 100, "accuracy_floor": FLOOR},
    "gold": {"latency_slo_ms": 60, "accuracy_floor": FLOOR, "weight": 4},
}
GUARANTEE = {"scope": "class", "credit_items": 20}


def margin(hand: Any, slo_class: str = "normal") -> float:
    """Return the sum over all answers of a class of what they are above their floor."""
    jobs = {event.job.id: event.job for event, _ in hand.log if hasattr(event, "job")}
    return sum(
        (found.accuracy - jobs[job_id].accuracy_floor) * jobs[job_id].items
        for job_id, found in hand.outcomes.items()
        if isinstance(found, Answer) and jobs[job_id].slo_class == slo_class
    )


def run_out(hand: Any, now_s: float) -> float:
    """Let every batch end when it is expected to, until nothing runs; return the time."""
    while hand.running:
        batch_id = min(hand.running)
        now_s += hand.running[batch_id].expected_s
        hand.finish(batch_id, now_s)
    return now_s


def with_credit(hand: Any, jobs: int = 10) -> float:
    """Answer jobs one at a time, at the most accurate mode; return the time afterwards."""
    now_s = 0.0
    for job_id in range(1, jobs + 1):
        hand.arrive(job_id, now_s)
        now_s = run_out(hand, now_s) + 1.0
    assert hand.scheduler.balances["normal"].credit == pytest.approx(0.16 * jobs)
    return now_s


def test_credit_that_waiting_jobs_keep_is_never_spent_twice(hand) -> None:
    """Jobs without a modality may draw credit; what is then missing to those that kept it they do not spend."""
    server = hand(classes=CLASS, guarantee=GUARANTEE)
    now_s = with_credit(server)
    for job_id in range(20, 29):  # the first occupies the worker
        server.arrive(job_id, now_s)
    assert server.scheduler.queue.reserved["normal"] == pytest.approx(1.4)
    for job_id in range(40, 50):
        server.arrive(job_id, now_s, available=2)
    run_out(server, now_s)
    assert all(isinstance(server.outcomes[job_id], Answer) for job_id in range(20, 29))
    assert margin(server) >= -1e-9


def test_credit_that_a_leaving_client_takes_away_is_not_spent_by_those_who_kept_it(hand) -> None:
    """A job of two batches banked a gain with its first; its client leaves while others keep that credit."""
    server = hand(classes=CLASS, guarantee=GUARANTEE, scheduler={"max_batch": 4})
    server.arrive(1, 0.0, items=5)
    server.finish(min(server.running), 0.04)
    earned = server.scheduler.balances["normal"].credit
    assert earned > 0.2
    server.arrive(2, 0.04, within_s=0.0125)  # time for the cheap mode alone, once the batch is done
    assert server.scheduler.queue.reserved["normal"] == pytest.approx(0.2)
    server.handle(JobCancelled(0.04, 1))
    run_out(server, 0.04)
    assert [type(server.outcomes[job_id]) for job_id in (1, 2)] == [Refuse, Refuse]
    assert margin(server) >= -1e-9


def test_what_jobs_keep_is_given_back_however_they_leave(hand) -> None:
    for leave in ("cancelled", "deadline", "answered", "worker lost"):
        server = hand(classes=CLASS, guarantee=GUARANTEE)
        now_s = with_credit(server)
        server.arrive(20, now_s)
        server.arrive(21, now_s)
        reserved = server.scheduler.queue.reserved
        assert reserved["normal"] == pytest.approx(0.2)
        if leave == "cancelled":
            server.handle(JobCancelled(now_s, 21))
        elif leave == "deadline":
            server.handle(Woke(now_s + 1.0))
        elif leave == "answered":
            run_out(server, now_s)
        else:
            server.handle(WorkerLost(now_s, 0))
            server.handle(WorkerReady(now_s, 0, ("one",)))
            server.running.clear()
            batches = server.scheduler.batches
            server.running.update({c.batch_id: c for c in server.log[-1][1] if hasattr(c, "batch_id")})
            assert len(batches) == len(server.running) == 1
            run_out(server, now_s)
            assert len(server.outcomes) == 12
        assert reserved["normal"] == pytest.approx(0.0, abs=1e-9), leave


class Storm:
    """A seeded history of overload, quiet, faults and leaving clients; counts what happened in it."""

    def __init__(self, server: Any, seed: int) -> None:
        self.server = server
        self.draw = random.Random(seed)
        self.now_s = 0.0
        self.next_id = 1
        self.seen: Counter[str] = Counter()
        self.left = 0.0

    def arrive(self, jobs: int) -> None:
        for _ in range(jobs):
            queue = self.server.scheduler.queue
            self.seen["kept credit"] += any(kept > 0 for kept in queue.reserved.values())
            weights = {entry.job.id: entry.weight for entry in queue.entries}
            flying = {part.job_id for batch in self.server.running.values() for part in batch.parts}
            slo_class = self.draw.choice(["normal", "normal", "gold"])
            items, available = self.draw.choice([1, 1, 1, 2, 6]), self.draw.choice([3, 3, 3, 2])
            job_id, self.next_id = self.next_id, self.next_id + 1
            commands = self.server.arrive(
                job_id, self.now_s, slo_class=slo_class, items=items, available=available
            )
            self.check(job_id, commands, weights, flying, 4.0 if slo_class == "gold" else 1.0)

    def check(
        self, job_id: int, commands: list[Command], weights: dict[int, float], flying: set[int], weight: float
    ) -> None:
        """Only waiting jobs make room, of no more weight than a newcomer that is taken."""
        lost = {c.job_id for c in commands if isinstance(c, Refuse) and c.reason is RefusalReason.DISPLACED}
        if lost:
            self.seen["displaced"] += 1
            assert not lost & flying
            assert sum(weights[lost_id] for lost_id in lost) <= weight * (1 + 1e-9)
            assert job_id not in self.server.outcomes

    def end_one(self) -> None:
        running = self.server.running
        if not running:
            return
        batch_id = self.draw.choice(sorted(running))
        batch = running[batch_id]
        kind = self.draw.random()
        if kind < 0.04:
            self.seen["failed"] += 1
            del running[batch_id]
            self.server.handle(BatchFailed(self.now_s, batch_id, batch.worker_id, "it raised"))
        elif kind < 0.07:
            self.seen["lost"] += 1
            del running[batch_id]
            self.server.handle(WorkerLost(self.now_s, batch.worker_id))
            self.server.handle(WorkerReady(self.now_s, batch.worker_id + 2, ("one",)))
        else:
            self.now_s += batch.expected_s / 2
            self.server.finish(batch_id, self.now_s)

    def leave(self) -> None:
        jobs = sorted(self.server.scheduler.jobs)
        if jobs:
            entry = self.server.scheduler.jobs[self.draw.choice(jobs)]
            self.left += entry.running * (0.96 - FLOOR)  # a gain that its batch nets, and that does not come
            self.seen["left"] += 1
            self.server.handle(JobCancelled(self.now_s, entry.job.id))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            kind = self.draw.random()
            if kind < 0.25:
                self.arrive(self.draw.randint(1, 12))
            elif kind < 0.28:
                self.leave()
            elif kind < 0.33:
                while self.server.running:
                    self.end_one()
                self.now_s += 1.0
                for _ in range(5):
                    self.arrive(1)
                    while self.server.running:
                        self.end_one()
                    self.now_s += 0.5
            else:
                self.end_one()
            if not self.server.scheduler.jobs:
                for slo_class in WEIGHTED:
                    assert margin(self.server, slo_class) >= -1e-6 - self.left
        while self.server.running:
            self.end_one()


@pytest.mark.parametrize("policy", ["poise", "cheapest", "slackfit"])
@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_storm_every_job_has_one_outcome_and_class_means_hold(hand, policy: str, seed: int) -> None:
    server = hand(policy, workers=2, classes=WEIGHTED, guarantee=GUARANTEE)
    storm = Storm(server, seed)
    storm.run(400)
    assert set(server.outcomes) == set(range(1, storm.next_id))
    for happened in ("kept credit", "displaced", "failed", "lost", "left"):
        assert storm.seen[happened], f"this history has no {happened!r}: it shows nothing of that"


# Profiles that are wrong


def poisson(rate: float, duration_s: float, seed: int) -> list[JobDraw]:
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.exponential(1 / rate, int(rate * duration_s * 1.3)))
    return [
        JobDraw(
            number=number,
            arrival_s=float(at_s),
            slo_class="normal",
            items=1,
            deadline_s=None,
            accuracy_floor=None,
            available=3,
        )
        for number, at_s in enumerate(times_s[times_s < duration_s])
    ]


def batching(profile: Profile, factor: float) -> Profile:
    """Return a profile whose encoders take a fixed time and then a little for each item."""
    tree = msgspec.to_builtins(profile)
    for stage in tree["variants"][0]["stages"]:
        fixed_s, each_s = {"dear": (0.006, 0.003), "cheap": (0.0025, 0.0005)}[stage["name"]]
        for point in stage["latency"]:
            point["mean_s"] = factor * (fixed_s + each_s * point["batch"])
    return msgspec.convert(tree, Profile)


class Run(msgspec.Struct):
    """Attainment of the jobs that arrived in the first 50 batches, and after; the scheduler as it ended."""

    first: float
    after: float
    scheduler: Scheduler


def simulated(
    service: Service, truth: Profile, believed: Profile, draws: list[JobDraw], faults: Faults = NO_FAULTS
) -> Run:
    """Serve jobs by workers that take as long as one profile says, with a scheduler that believes another."""
    outcomes: dict[int, Command] = {}
    done_s: list[float] = []

    def observe(event: Event, commands: Any) -> None:
        if isinstance(event, BatchDone):
            done_s.append(event.now_s)
        outcomes.update({c.job_id: c for c in commands if isinstance(c, Answer | Refuse)})

    scheduler = Scheduler(service, believed)
    simulate(
        service,
        truth,
        draws,
        duration_s=draws[-1].arrival_s,
        scheduler=scheduler,
        observe=observe,
        faults=faults,
    )
    split_s = done_s[49]

    def attained(some: list[JobDraw]) -> float:
        found = [outcomes[draw.number] for draw in some]
        return sum(isinstance(c, Answer) and not c.late for c in found) / len(found)

    return Run(
        attained([draw for draw in draws if draw.arrival_s < split_s]),
        attained([draw for draw in draws if draw.arrival_s >= split_s]),
        scheduler,
    )


@pytest.mark.parametrize("rate", [100.0, 600.0, 1300.0])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_profile_wrong_by_a_factor_is_made_good_within_50_batches(
    make_service, make_profile, rate: float, factor: float
) -> None:
    """From a light load to overload; the first 50 batches may cost deadlines, of which README tells."""
    service = make_service(budget={"cores": 1}, classes={"normal": {"latency_slo_ms": 100}})
    truth, believed = make_profile(), make_profile(0.010 / factor, 0.001 / factor)
    draws = poisson(rate, 6.0, seed=5)
    right, wrong = simulated(service, truth, truth, draws), simulated(service, truth, believed, draws)
    assert wrong.after >= 0.99 * right.after
    factors = [worker.calibration.factor for worker in wrong.scheduler.workers.values()]
    assert factors == pytest.approx([factor] * len(factors), rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_in_overload_a_wrong_profile_loses_no_more_than_a_hundredth(
    make_service, make_profile, factor: float
) -> None:
    """Where batches share a fixed time, how large they are decides the load that is held."""
    service = make_service(classes={"normal": {"latency_slo_ms": 50}})
    truth, believed = batching(make_profile(), 1.0), batching(make_profile(), 1.0 / factor)
    draws = poisson(1800.0, 6.0, seed=5)
    right, wrong = simulated(service, truth, truth, draws), simulated(service, truth, believed, draws)
    assert 0.7 < right.after < 0.97
    assert wrong.after >= 0.99 * right.after


def test_without_calibration_the_same_error_does_cost_deadlines(make_service, make_profile) -> None:
    service = make_service(classes={"normal": {"latency_slo_ms": 100}}, scheduler={"calibrate": False})
    draws = poisson(600.0, 6.0, seed=5)
    truth, believed = make_profile(), make_profile(0.005, 0.0005)
    assert simulated(service, truth, believed, draws).after < 0.98
    assert simulated(service, truth, truth, draws).after == 1.0


def test_one_slow_worker_of_two_leaves_the_others_factor_alone(make_service, make_profile) -> None:
    service = make_service(budget={"cores": 2}, classes={"normal": {"latency_slo_ms": 100}})
    slow = Faults(slow=(SlowWorker(1, 0.0, 3.0),))
    run = simulated(service, make_profile(), make_profile(), poisson(600.0, 5.0, seed=6), slow)
    factors = {worker_id: worker.calibration.factor for worker_id, worker in run.scheduler.workers.items()}
    assert factors == {0: pytest.approx(1.0, rel=0.01), 1: pytest.approx(3.0, rel=0.01)}
    assert run.after >= 0.99


def test_a_stage_twice_as_slow_as_profiled_is_told_apart(make_service, make_profile) -> None:
    service = make_service(classes={"normal": {"latency_slo_ms": 100}})
    draws = poisson(150.0, 8.0, seed=7)
    run = simulated(service, make_profile(0.020, 0.001), make_profile(0.010, 0.001), draws)
    calibration = run.scheduler.workers[0].calibration
    shape = dict(calibration.shape("one"))
    assert calibration.factor * shape.get("dear", 1.0) == pytest.approx(2.0, rel=0.06)
    assert calibration.factor * shape["cheap"] == pytest.approx(1.0, rel=0.06)
    assert run.after >= 0.99
