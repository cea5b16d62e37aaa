"""Any order of events: every accepted job gets exactly one outcome, and the invariants hold after each event."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poise.domain.decoding import convert
from poise.domain.job import Job, RefusalReason
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.scheduling.admission import weight_of
from poise.scheduling.commands import Answer, Command, Refuse, ReleaseWorker, RunBatch, WakeAt
from poise.scheduling.events import (
    AllocationAdopted,
    BatchDone,
    BatchFailed,
    DrainStarted,
    Event,
    JobArrived,
    JobCancelled,
    RateForecast,
    Woke,
    WorkerLost,
    WorkerReady,
    WorkerRetiring,
)
from poise.scheduling.invariants import check_invariants
from poise.scheduling.policies import POLICIES
from poise.scheduling.scheduler import Scheduler

ACCURACY = {1: 0.6, 2: 0.9, 3: 0.96}
TENSOR = {"datatype": "FP32", "shape": [1]}
MAX_BATCH = 8


def declared(scope: str, policy: str) -> Service:
    return convert(
        {
            "format": 1,
            "service": "s",
            "modalities": {name: {"inputs": {name: TENSOR}} for name in ("a", "b")},
            "outputs": {"y": TENSOR},
            "variants": {"small": {"runtime": "emulated"}, "large": {"runtime": "emulated"}},
            "classes": {
                "strict": {"latency_slo_ms": 50, "accuracy_floor": 0.8, "weight": 4},
                "soft": {"latency_slo_ms": 80, "accuracy_floor": 0.9, "prefer": "deadline"},
                "bulk": {"latency_slo_ms": 400, "accuracy_floor": 0.5},
            },
            "guarantee": {"scope": scope, "credit_items": 20},
            "scheduler": {"policy": policy, "max_batch": MAX_BATCH, "queue_jobs": 30, "queue_items": 90},
        },
        Service,
        "service.yaml",
    )


def measured() -> Profile:
    def variant(name: str, factor: float, bonus: float) -> dict[str, Any]:
        def curve(fixed: float, each: float) -> list[dict[str, Any]]:
            return [{"batch": b, "mean_s": factor * (fixed + each * b)} for b in (1, 2, 4, 8)]

        return {
            "name": name,
            "modes": [
                {"modalities": m, "accuracy": a + bonus, "samples": 500}
                for m, a in ((["a"], 0.6), (["b"], 0.9), (["a", "b"], 0.96))
            ],
            "stages": [
                {"name": "a", "modality_sets": [["a"], ["a", "b"]], "latency": curve(0.0005, 0.0002)},
                {"name": "b", "modality_sets": [["b"], ["a", "b"]], "latency": curve(0.001, 0.006)},
                {"name": "head", "modality_sets": [["a"], ["b"], ["a", "b"]], "latency": curve(0.0002, 0.0)},
            ],
        }

    variants = [variant("small", 1.0, 0.0), variant("large", 2.0, 0.02)]
    return convert({"format": 1, "service": "s", "variants": variants}, Profile, "profile.json")


PROFILE = measured()


class SchedulerMachine(RuleBasedStateMachine):
    """Drives the scheduler by arbitrary events that a driver could send."""

    scope = "class"
    policy = "poise"

    def __init__(self) -> None:
        super().__init__()
        self.service = declared(self.scope, self.policy)
        self.scheduler = Scheduler(self.service, PROFILE)
        self.now_s = 0.0
        self.sent: dict[int, Job] = {}
        self.outcomes: dict[int, Answer | Refuse] = {}
        self.running: dict[int, RunBatch] = {}
        self.workers: set[int] = set()
        self.retiring: set[int] = set()
        self.parked: set[int] = set()
        self.awaited = self.retires = self.loses = False
        self.released: list[int] = []
        self.variants: dict[int, tuple[str, ...]] = {}
        self.next_worker = 0
        self.wake_s = math.inf
        self.answered: dict[str, list[float]] = {name: [] for name in self.service.classes}
        self.log: list[tuple[Event, list[Command]]] = []
        self.taken_away = 0.0

    def send(self, event: Event) -> None:
        commands = self.scheduler.handle(event)
        self.log.append((event, commands))
        if isinstance(event, JobArrived) and self.scheduler.between_workers:
            refused = {c.job_id: c.reason for c in commands if isinstance(c, Refuse)}
            assert refused.get(event.job.id) is not RefusalReason.NO_WORKER
        if isinstance(event, WorkerReady | WorkerLost | WorkerRetiring):
            self.check_between(event)
        for command in commands:
            if isinstance(command, RunBatch):
                self.check_batch(command)
                self.running[command.batch_id] = command
            elif isinstance(command, WakeAt):
                self.wake_s = command.at_s
            elif isinstance(command, ReleaseWorker):
                assert command.worker_id in self.retiring
                assert all(batch.worker_id != command.worker_id for batch in self.running.values())
                self.retiring.remove(command.worker_id)
                self.parked.add(command.worker_id)
            else:
                assert command.job_id in self.sent
                assert command.job_id not in self.outcomes
                self.outcomes[command.job_id] = command
                if isinstance(command, Answer):
                    self.check_answer(command)

    def check_between(self, event: WorkerReady | WorkerLost | WorkerRetiring) -> None:
        """Jobs wait for the next worker only where the last one was retired, and none came or was lost since."""
        live = [worker for worker in self.scheduler.workers.values() if not worker.retiring]
        if isinstance(event, WorkerRetiring):
            self.awaited |= self.retires
        else:
            self.awaited &= isinstance(event, WorkerLost) and not self.loses
        assert self.scheduler.between_workers == (self.awaited and not live)

    def check_batch(self, batch: RunBatch) -> None:
        assert batch.worker_id in self.workers - self.retiring - self.parked
        assert batch.variant in self.variants[batch.worker_id]
        assert all(other.worker_id != batch.worker_id for other in self.running.values())
        assert 1 <= sum(part.items for part in batch.parts) <= MAX_BATCH
        for part in batch.parts:
            assert part.modalities & ~self.sent[part.job_id].available == 0
            assert 0 <= part.first_item < part.first_item + part.items <= self.sent[part.job_id].items

    def weight(self, job: Job) -> float:
        return weight_of(self.service.classes[job.slo_class].weight, job.priority)

    def check_displaced(self, newcomer: Job, in_flight: set[int]) -> None:
        """Jobs make room only for a newcomer that is taken, that weighs as much, and never once they run."""
        lost = [
            self.sent[command.job_id]
            for command in self.log[-1][1]
            if isinstance(command, Refuse) and command.reason is RefusalReason.DISPLACED
        ]
        if lost:
            assert newcomer.id not in self.outcomes, "others made room for a job that was refused at once"
            assert not in_flight & {job.id for job in lost}
            assert sum(self.weight(job) for job in lost) <= self.weight(newcomer) * (1 + 1e-9)

    def check_answer(self, answer: Answer) -> None:
        job = self.sent[answer.job_id]
        covered = sorted(i for p in answer.parts for i in range(p.first_item, p.first_item + p.items))
        assert covered == list(range(job.items))
        bonus = {"small": 0.0, "large": 0.02}
        accuracy = (
            sum((ACCURACY[p.modalities] + bonus[p.variant]) * p.items for p in answer.parts) / job.items
        )
        assert abs(accuracy - answer.accuracy) < 1e-9
        if self.scope == "job" and not answer.below_floor:
            assert accuracy >= job.accuracy_floor - 1e-9
        if not answer.below_floor:
            # A job that lowered its floor is held to that, and adds nothing for the others.
            floor = max(job.accuracy_floor, self.service.classes[job.slo_class].accuracy_floor)
            if job.accuracy_floor >= floor or accuracy < job.accuracy_floor - 1e-9:
                self.answered[job.slo_class].append((accuracy - job.accuracy_floor) * job.items)

    @rule(
        slo_class=st.sampled_from(["strict", "soft", "bulk"]),
        items=st.sampled_from([1, 1, 1, 2, 5, 20]),
        available=st.sampled_from([1, 2, 3, 3, 3]),
        haste=st.sampled_from([1.0, 1.0, 0.5, 0.1]),
        floor=st.sampled_from([None, None, 0.0, 0.97]),
        gap_s=st.sampled_from([0.0, 0.0, 0.002, 0.03]),
        priority=st.sampled_from([0, 0, 1, 5]),
    )
    def arrive(
        self,
        slo_class: str,
        items: int,
        available: int,
        haste: float,
        floor: float | None,
        gap_s: float,
        priority: int,
    ) -> None:
        self.now_s += gap_s
        slo = self.service.classes[slo_class]
        job = Job(
            id=len(self.sent) + 1,
            slo_class=slo_class,
            items=items,
            arrival_s=self.now_s,
            deadline_s=self.now_s + haste * slo.latency_slo_s,
            accuracy_floor=slo.accuracy_floor if floor is None else floor,
            available=available,
            priority=priority,
        )
        self.sent[job.id] = job
        in_flight = {part.job_id for batch in self.running.values() for part in batch.parts}
        self.send(JobArrived(self.now_s, job))
        self.check_displaced(job, in_flight)

    @rule(
        slo_class=st.sampled_from(["strict", "soft", "bulk"]),
        jobs=st.integers(4, 20),
        priority=st.sampled_from([0, 1]),
        available=st.sampled_from([3, 3, 1]),
    )
    def burst(self, slo_class: str, jobs: int, priority: int, available: int) -> None:
        """Many jobs at once: they fill batches, wait, keep credit and make room for one another."""
        for _ in range(jobs):
            self.arrive(slo_class, 1, available, 1.0, None, 0.0, priority)

    @precondition(lambda self: self.workers)
    @rule(slo_class=st.sampled_from(["strict", "soft"]), jobs=st.integers(1, 10))
    def quiet_time(self, slo_class: str, jobs: int) -> None:
        """Jobs one at a time, at the most accurate modes: their class earns credit."""
        for _ in range(jobs):
            while self.running:
                self.batch_ends(0, 1.0)
            self.arrive(slo_class, 1, 3, 1.0, None, 0.1, 0)

    @initialize(workers=st.integers(0, 2))
    def start(self, workers: int) -> None:
        for _ in range(workers):
            self.worker_starts()

    @rule()
    def worker_starts(self) -> None:
        if len(self.workers) < 4:
            self.next_worker += 1
            self.workers.add(self.next_worker)
            variants = (("small", "large"), ("small",), ("large",))[(self.next_worker - 1) % 3]
            self.variants[self.next_worker] = variants
            cap_s = (None, 0.02)[self.next_worker % 2]
            self.send(WorkerReady(self.now_s, self.next_worker, variants, batch_cap_s=cap_s))

    @precondition(lambda self: self.workers)
    @rule(pick=st.integers(0, 5))
    def worker_retires(self, pick: int) -> None:
        """A worker is to be given no more batches, perhaps for the second time; it goes when it has none."""
        worker = sorted(self.workers)[pick % len(self.workers)]
        self.retires = worker not in self.parked | self.retiring
        if worker not in self.parked:
            self.retiring.add(worker)
        self.send(WorkerRetiring(self.now_s, worker))
        busy = any(batch.worker_id == worker for batch in self.running.values())
        assert busy == (worker in self.retiring)

    @precondition(lambda self: self.retiring or self.parked)
    @rule(pick=st.integers(0, 5), other=st.booleans())
    def worker_comes_back(self, pick: int, other: bool) -> None:
        """A retired worker is ready again, perhaps before it was gone, perhaps with another resident set."""
        back = sorted(self.retiring | self.parked)
        worker = back[pick % len(back)]
        if other and worker in self.parked:
            self.variants[worker] = ("large", "small")
        self.retiring.discard(worker)
        self.parked.discard(worker)
        self.send(WorkerReady(self.now_s, worker, self.variants[worker]))

    @rule(
        slo_class=st.sampled_from(["strict", "soft", "bulk"]),
        small=st.sampled_from([0.0, 1.0, 5.0]),
        large=st.sampled_from([0.0, 1.0, 0.2]),
    )
    def allocation(self, slo_class: str, small: float, large: float) -> None:
        self.send(AllocationAdopted(self.now_s, {slo_class: {"small": small, "large": large}}))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 5), factor=st.sampled_from([0.5, 1.0, 1.0, 1.0, 3.0]))
    def batch_ends(self, pick: int, factor: float) -> None:
        batch_id = sorted(self.running)[pick % len(self.running)]
        batch = self.running.pop(batch_id)
        run_s = batch.expected_s * factor
        self.now_s += run_s / len(self.workers)
        self.send(BatchDone(self.now_s, batch_id, batch.worker_id, run_s))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 5))
    def batch_fails(self, pick: int) -> None:
        batch_id = sorted(self.running)[pick % len(self.running)]
        batch = self.running.pop(batch_id)
        self.send(BatchFailed(self.now_s, batch_id, batch.worker_id, "the model raised"))

    @precondition(lambda self: self.workers)
    @rule(pick=st.integers(0, 5))
    def worker_dies(self, pick: int) -> None:
        worker = sorted(self.workers)[pick % len(self.workers)]
        self.workers.remove(worker)
        self.loses = worker not in self.parked
        self.retiring.discard(worker)
        self.parked.discard(worker)
        for batch_id in [b for b, batch in self.running.items() if batch.worker_id == worker]:
            del self.running[batch_id]
        self.send(WorkerLost(self.now_s, worker))

    @precondition(lambda self: self.sent)
    @rule(pick=st.integers(0, 50))
    def client_leaves(self, pick: int) -> None:
        job = self.sent[1 + pick % len(self.sent)]
        entry = self.scheduler.jobs.get(job.id)
        if entry is not None and entry.running and job.slo_class == "strict":
            self.taken_away += entry.running
        self.send(JobCancelled(self.now_s, job.id))

    @precondition(lambda self: self.wake_s < math.inf)
    @rule()
    def wake(self) -> None:
        self.now_s = max(self.now_s, self.wake_s)
        self.wake_s = math.inf
        self.send(Woke(self.now_s))

    @rule(items_per_s=st.sampled_from([0.0, 1e-300, 100.0, 1e9]), valid_s=st.sampled_from([0.0, 0.05, 1e9]))
    def forecast(self, items_per_s: float, valid_s: float) -> None:
        self.send(RateForecast(self.now_s, items_per_s, valid_s))

    @rule(by_s=st.sampled_from([-1e9, -0.01, 10.0, 1e6]))
    def clock_jumps(self, by_s: float) -> None:
        """The driver's clock goes back, or far ahead; what was planned before is late, and never lost."""
        self.now_s += by_s
        self.send(Woke(self.now_s))
        self.now_s = max(self.now_s, self.now_s - by_s)

    @rule()
    def drain_now_and_then(self) -> None:
        if len(self.sent) > 150:
            self.send(DrainStarted(self.now_s))

    @invariant()
    def books_are_in_order(self) -> None:
        check_invariants(self.scheduler)

    @invariant()
    def class_floors_hold_whenever_nothing_is_in_flight(self) -> None:
        """The mean over a class's answers is never below its floor, but for what clients took away by leaving."""
        in_flight = any(entry.job.slo_class == "strict" for entry in self.scheduler.jobs.values())
        if self.scope == "class" and not in_flight:
            assert sum(self.answered["strict"]) >= -1e-6 - self.taken_away

    def teardown(self) -> None:
        self.workers.add(0)
        self.variants[0] = ("small", "large")
        self.send(WorkerReady(self.now_s, 0, self.variants[0]))
        assert not self.scheduler.stranded
        while self.running or len(self.scheduler.queue):
            if self.running:
                self.batch_ends(0, 1.0)
            else:
                self.wake()
        assert set(self.outcomes) == set(self.sent)
        assert not self.retiring
        again = Scheduler(self.service, PROFILE)
        for event, commands in self.log:
            assert msgspec.json.encode(again.handle(event)) == msgspec.json.encode(commands)


def case_of(policy: str, scope: str) -> type:
    """Return the test case of a policy and scope."""
    machine = type(f"{policy}-{scope}", (SchedulerMachine,), {"scope": scope, "policy": policy})
    case: Any = machine.TestCase  # type: ignore[attr-defined]
    thorough = policy == "poise"
    case.settings = settings(
        max_examples=60 if thorough else 15, stateful_step_count=40 if thorough else 30, deadline=None
    )
    return case


for name in POLICIES:
    for kept in ("class", "job"):
        title = "Test" + "".join(part.capitalize() for part in (*name.split("-"), "scope", kept))
        globals()[title] = case_of(name, kept)
