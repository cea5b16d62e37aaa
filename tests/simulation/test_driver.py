"""The driver: what happens when, and what it does not put up with."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.domain.job import RefusalReason
from poise.errors import ConfigError, InternalError
from poise.scheduling.commands import Answer, AnswerPart, BatchPart, Command, Refuse, RunBatch, WakeAt
from poise.scheduling.events import BatchDone, Event, JobArrived, Woke, WorkerLost, WorkerReady
from poise.scheduling.log import encode_entry
from poise.scheduling.policies import POLICIES
from poise.simulation.driver import Driver
from poise.simulation.faults import Faults, LostWorker, SlowWorker
from poise.simulation.simulate import arrivals_of, simulate
from poise.simulation.workers import workers_of


class Script:
    """Answers events by a function, and remembers them."""

    def __init__(self, commands=lambda event: []) -> None:
        self.commands = commands
        self.seen: list[Event] = []

    def handle(self, event: Event) -> Sequence[Command]:
        self.seen.append(event)
        return list(self.commands(event))


class OneSecond:
    """Every batch takes one second."""

    def prepare(self, variant, threads, device):
        pass

    def draw(self, variant, threads, device, parts):
        return 1.0, (("head", 0.5),)


def driver_of(emulated, commands, **options: Any) -> tuple[Driver, Script]:
    service, profile = emulated(budget={"cores": 1})
    script = Script(commands)
    workers = workers_of(service, profile)
    return Driver(script, OneSecond(), workers, service.modality_index, **options), script


def run(driver: Driver, emulated, jobs) -> None:
    driver.run(arrivals_of(jobs, emulated()[0]))


def refuse(job_id: int) -> Refuse:
    return Refuse(job_id, RefusalReason.NO_WORKER, "")


def batch(job_id: int, batch_id: int = 1, worker_id: int = 0, variant: str = "small") -> RunBatch:
    return RunBatch(batch_id, worker_id, variant, (BatchPart(job_id, 0, 1, 3),), 1.0)


def answer(job_id: int, items: int = 1) -> Answer:
    return Answer(job_id, (AnswerPart(0, items, 3, "small"),), 0.8, 0.0, 1.0, False)


def test_a_job_goes_through(emulated, draws):
    def commands(event):
        if isinstance(event, JobArrived):
            yield batch(0)
        if isinstance(event, BatchDone):
            yield answer(0)

    driver, script = driver_of(emulated, commands)
    run(driver, emulated, draws([0.5]))
    assert script.seen[0] == WorkerReady(0.0, 0, ("small", "large"), 1, "cpu")
    assert script.seen[2] == BatchDone(1.5, 1, 0, 1.0, (("head", 0.5),))
    (outcome,) = driver.outcomes
    assert (outcome.sent_s, outcome.done_s, outcome.late) == (0.5, 1.5, True)
    assert (outcome.modalities, outcome.variants) == ({"clip+speech": 1}, {"small": 1})
    assert outcome.expected_accuracy == 0.8


def test_arrivals_come_before_what_was_planned_and_that_before_a_wake(emulated, draws):
    def commands(event):
        if isinstance(event, JobArrived) and event.job.id == 0:
            yield WakeAt(1.0)
            yield batch(0)
        elif isinstance(event, BatchDone):
            yield answer(0)
        elif isinstance(event, Woke):
            yield refuse(1)

    driver, script = driver_of(emulated, commands)
    run(driver, emulated, draws([0.0, 1.0]))
    assert [type(event) for event in script.seen[1:]] == [JobArrived, JobArrived, BatchDone, Woke]
    assert [event.now_s for event in script.seen[2:]] == [1.0, 1.0, 1.0]


def test_a_later_wake_replaces_an_earlier_one_and_a_past_one_is_now(emulated, draws):
    def commands(event):
        if isinstance(event, JobArrived):
            yield WakeAt(1.0)
            yield WakeAt(9.0)
            yield WakeAt(2.0)
        elif isinstance(event, Woke) and event.now_s == 2.0 and len(woken) == 0:
            woken.append(event)
            yield WakeAt(1.0)
        elif isinstance(event, Woke):
            woken.append(event)
            yield refuse(0)

    woken: list[Event] = []
    driver, _ = driver_of(emulated, commands)
    run(driver, emulated, draws([0.0]))
    assert woken == [Woke(2.0), Woke(2.0)]


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        (lambda job: [batch(job, worker_id=4)], "worker 4, which is unknown"),
        (lambda job: [batch(job), batch(job, batch_id=2)], "worker 0, which is busy"),
        (lambda job: [batch(job, variant="huge")], "worker 0, without 'huge'"),
        (lambda job: [refuse(job), refuse(job)], "job 0 got an outcome that it did not wait for"),
        (lambda job: [answer(job, items=2)], "job 0 has 1 items"),
        (lambda job: [], "1 jobs wait for what will never happen\n  job 0 arrived at 0.0 s"),
        (lambda job: [WakeAt(math.inf)], "1 jobs wait for what will never happen"),
    ],
)
def test_what_a_scheduler_may_not_do(emulated, draws, commands, message):
    driver, _ = driver_of(
        emulated, lambda event: commands(event.job.id) if isinstance(event, JobArrived) else []
    )
    with pytest.raises(InternalError) as caught:
        run(driver, emulated, draws([0.0]))
    assert message in str(caught.value)


def test_a_scheduler_that_only_wakes_is_stopped(emulated, draws):
    driver, _ = driver_of(emulated, lambda event: [WakeAt(0.0)])
    with pytest.raises(InternalError, match=r"times to be woken at 0\.0 s"):
        run(driver, emulated, draws([0.0]))


def test_a_lost_worker_takes_its_batch_along_and_comes_back(emulated, draws):
    def commands(event):
        if isinstance(event, JobArrived):
            yield batch(0)
        elif isinstance(event, WorkerReady) and event.now_s > 0:
            yield batch(0, batch_id=2)
        elif isinstance(event, BatchDone):
            assert event.batch_id == 2
            yield answer(0)

    faults = Faults(lost=(LostWorker(0, 0.5, back_s=2.0),))
    driver, script = driver_of(emulated, commands, faults=faults)
    run(driver, emulated, draws([0.0]))
    assert script.seen[2] == WorkerLost(0.5, 0)
    assert script.seen[3] == WorkerReady(2.5, 0, ("small", "large"), 1, "cpu")
    assert driver.outcomes[0].done_s == 3.5


def test_a_batch_for_a_lost_worker_is_our_fault(emulated, draws):
    def commands(event):
        if isinstance(event, WorkerLost):
            yield batch(0)

    driver, _ = driver_of(emulated, commands, faults=Faults(lost=(LostWorker(0, 0.5),)))
    with pytest.raises(InternalError, match="worker 0, which is lost"):
        run(driver, emulated, draws([0.0]))


def test_a_slow_worker_is_slow_from_then_on(emulated, draws):
    def commands(event):
        if isinstance(event, JobArrived):
            yield batch(event.job.id, batch_id=event.job.id)
        elif isinstance(event, BatchDone):
            yield answer(event.batch_id)

    faults = Faults(slow=(SlowWorker(0, from_s=0.5, factor=3.0),))
    driver, script = driver_of(emulated, commands, faults=faults)
    run(driver, emulated, draws([0.0, 2.0]))
    assert [event for event in script.seen if isinstance(event, BatchDone)] == [
        BatchDone(1.0, 0, 0, 1.0, (("head", 0.5),)),
        BatchDone(5.0, 1, 0, 3.0, (("head", 1.5),)),
    ]


def test_a_fault_of_no_worker_is_the_operators(emulated):
    for faults in (Faults(lost=(LostWorker(7, 0.0),)), Faults(slow=(SlowWorker(7, 0.0, 2.0),))):
        with pytest.raises(ConfigError, match=r"there is no worker 7, expected one of \[0\]"):
            driver_of(emulated, lambda event: [], faults=faults)


def test_the_front_end_takes_one_job_at_a_time(emulated, draws):
    service, _ = emulated()
    arrived = list(arrivals_of(draws([0.0, 0.0, 5.0]), service, front_end_s=1.0))
    assert [at_s for at_s, _ in arrived] == [1.0, 2.0, 6.0]
    assert [job.arrival_s for _, job in arrived] == [0.0, 0.0, 5.0]
    assert [job.deadline_s for _, job in arrived] == [0.05, 0.05, 5.05]


def test_a_job_has_the_deadline_and_floor_drawn_for_it_else_its_classes(emulated, draws):
    service, _ = emulated()
    ((_, own),) = arrivals_of(draws([1.0], deadline_s=0.03125, accuracy_floor=0.75), service)
    assert (own.deadline_s, own.accuracy_floor) == (1.03125, 0.75)
    ((_, cut),) = arrivals_of(draws([1.0], deadline_s=9.0), service)
    assert cut.deadline_s == 1.05
    ((_, default),) = arrivals_of(draws([1.0], slo_class="bulk"), service)
    assert (default.deadline_s, default.accuracy_floor) == (1.4, 0.5)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_one_seed_one_trace(emulated, draws, policy):
    service, profile = emulated()
    times = np.sort(np.random.default_rng(5).uniform(0, 2, 600)).tolist()

    def trace(seed: int) -> bytes:
        lines: list[bytes] = []
        simulate(
            service,
            profile,
            draws(times, items=2),
            duration_s=2.0,
            policy=policy,
            seed=seed,
            observe=lambda event, commands: lines.append(encode_entry(event, commands)),
        )
        return b"".join(lines)

    assert len({trace(3) for _ in range(10)}) == 1
    assert trace(4) != trace(3)


moments = st.floats(0, 1.5)
faults_of_two = st.builds(
    Faults,
    lost=st.lists(
        st.builds(
            LostWorker,
            worker_id=st.integers(0, 1),
            at_s=moments,
            back_s=st.none() | st.floats(0.001, 0.5),
        ),
        max_size=4,
    ).map(tuple),
    slow=st.lists(
        st.builds(SlowWorker, worker_id=st.integers(0, 1), from_s=moments, factor=st.floats(0.5, 20)),
        max_size=2,
    ).map(tuple),
    profile_error=st.floats(0.5, 3),
)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=faults_of_two, seed=st.integers(0, 99), job=st.tuples(st.integers(1, 20), st.integers(1, 3)))
def test_whatever_breaks_every_job_has_exactly_one_outcome(emulated, draws, policy, **drawn):
    items, available = drawn["job"]
    times = np.sort(np.random.default_rng(drawn["seed"]).uniform(0, 1, 200)).tolist()
    jobs = draws(times, items=items, available=available)
    options: dict[str, Any] = {"policy": policy, "seed": drawn["seed"], "faults": drawn["faults"]}
    service, profile = emulated()
    result = simulate(service, profile, jobs, duration_s=1.0, **options)
    assert sorted(outcome.number for outcome in result.outcomes) == list(range(200))
    for outcome in result.outcomes:
        assert outcome.done_s >= outcome.sent_s
        assert sum(outcome.modalities.values()) == (items if outcome.answered else 0)
