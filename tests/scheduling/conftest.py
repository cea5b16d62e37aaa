"""A small service with known figures, and ways to drive its scheduler by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from poise.domain.decoding import convert
from poise.domain.job import Job
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.scheduling.commands import Answer, Command, Refuse, RunBatch
from poise.scheduling.events import BatchDone, Event, JobArrived, WorkerReady
from poise.scheduling.invariants import check_invariants
from poise.scheduling.scheduler import Scheduler

ACCURACY = {"dear": 0.90, "cheap": 0.60, "cheap+dear": 0.96}


def profile_of(dear_s: float = 0.010, cheap_s: float = 0.001, variants: Iterable[str] = ("one",)) -> Profile:
    """Two encoders, linear in the batch, constant in time; a head of no cost."""

    def linear(each_s: float) -> list[dict[str, Any]]:
        return [{"batch": b, "mean_s": each_s * b} for b in (1, 2, 4, 8, 16, 32)]

    every = [["dear"], ["cheap"], ["cheap", "dear"]]
    return convert(
        {
            "format": 1,
            "service": "pair",
            "variants": [
                {
                    "name": name,
                    "modes": [
                        {"modalities": label.split("+"), "accuracy": a, "samples": 1000}
                        for label, a in ACCURACY.items()
                    ],
                    "stages": [
                        {"name": "dear", "modality_sets": [every[0], every[2]], "latency": linear(dear_s)},
                        {"name": "cheap", "modality_sets": [every[1], every[2]], "latency": linear(cheap_s)},
                    ],
                }
                for name in variants
            ],
        },
        Profile,
        "profile.json",
    )


def service_of(**fields: Any) -> Service:
    """A service of modalities ``dear`` (bit 0) and ``cheap`` (bit 1)."""
    tensor = {"datatype": "FP32", "shape": [2]}
    whole: dict[str, Any] = {
        "format": 1,
        "service": "pair",
        "modalities": {name: {"inputs": {name: tensor}} for name in ("dear", "cheap")},
        "outputs": {"y": tensor},
        "variants": {"one": {"runtime": "emulated"}},
        "classes": {"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.6}},
        "budget": {"cores": 1},
    }
    return convert({**whole, **fields}, Service, "service.yaml")


class Hand:
    """Drives a scheduler one event at a time and checks its invariants after each."""

    def __init__(
        self, service: Service, profile: Profile, policy: str | None = None, workers: int = 1
    ) -> None:
        self.scheduler = Scheduler(service, profile, policy)
        self.service = service
        self.log: list[tuple[Event, list[Command]]] = []
        self.running: dict[int, RunBatch] = {}
        self.outcomes: dict[int, Answer | Refuse] = {}
        for worker in range(workers):
            self.handle(WorkerReady(0.0, worker, tuple(service.variants)))

    def handle(self, event: Event) -> list[Command]:
        commands = self.scheduler.handle(event)
        self.log.append((event, commands))
        for command in commands:
            if isinstance(command, RunBatch):
                self.running[command.batch_id] = command
            elif isinstance(command, Answer | Refuse):
                assert command.job_id not in self.outcomes, f"job {command.job_id} got a second outcome"
                self.outcomes[command.job_id] = command
        check_invariants(self.scheduler)
        return commands

    def arrive(self, job_id: int, now_s: float, **fields: Any) -> list[Command]:
        name = fields.get("slo_class", self.service.default_class)
        slo = self.service.classes[name]
        job = Job(
            id=job_id,
            slo_class=name,
            items=fields.get("items", 1),
            arrival_s=now_s,
            deadline_s=now_s + fields.get("within_s", slo.latency_slo_s),
            accuracy_floor=fields.get("floor", slo.accuracy_floor),
            available=fields.get("available", 3),
        )
        return self.handle(JobArrived(now_s, job))

    def finish(self, batch_id: int, now_s: float, run_s: float | None = None) -> list[Command]:
        batch = self.running.pop(batch_id)
        return self.handle(
            BatchDone(now_s, batch_id, batch.worker_id, batch.expected_s if run_s is None else run_s)
        )


@pytest.fixture
def make_service() -> Callable[..., Service]:
    return service_of


@pytest.fixture
def make_profile() -> Callable[..., Profile]:
    return profile_of


@pytest.fixture
def hand() -> Callable[..., Hand]:
    def build(
        policy: str | None = None, workers: int = 1, profile: Profile | None = None, **fields: Any
    ) -> Hand:
        return Hand(service_of(**fields), profile or profile_of(), policy, workers)

    return build
