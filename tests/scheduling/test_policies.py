"""What holds for every policy, whatever happens. The service is that of ``conftest``: *dear*, *cheap* or both."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.domain.job import RefusalReason
from poise.scheduling.commands import Answer, Refuse, RunBatch
from poise.scheduling.events import BatchFailed, JobCancelled, WorkerLost, WorkerReady
from poise.scheduling.policies import POLICIES, policy_named

DEAR, CHEAP, BOTH = 1, 2, 3


def test_every_policy_is_known_by_its_own_name() -> None:
    assert list(POLICIES) == [
        "poise",
        "edf",
        "edf-open",
        "fifo",
        "fifo-open",
        "cheapest",
        "slackfit",
        "mosel",
        "mosel-max",
        "jobwise",
        "weighted",
    ]
    assert all(policy_named(name).name == name for name in POLICIES)


@pytest.mark.parametrize("policy", [name for name, policy in POLICIES.items() if policy.admits])
def test_what_cannot_be_in_time_is_refused_and_costs_the_others_nothing(hand, policy) -> None:
    h = hand(policy=policy)
    h.arrive(1, 0.0, within_s=0.0005)
    refusal = h.outcomes[1]
    assert isinstance(refusal, Refuse)
    assert refusal.reason is RefusalReason.DEADLINE_UNREACHABLE
    (batch,) = [c for c in h.arrive(2, 0.0) if isinstance(c, RunBatch)]
    h.finish(batch.batch_id, batch.expected_s)
    assert isinstance(h.outcomes[2], Answer)


arrivals = st.fixed_dictionaries(
    {
        "slo_class": st.sampled_from(["strict", "bulk"]),
        "items": st.sampled_from([1, 1, 1, 2, 5, 40]),
        "available": st.sampled_from([DEAR, CHEAP, BOTH, BOTH, BOTH]),
        "haste": st.sampled_from([1.0, 1.0, 0.5, 0.1, 0.01]),
        "floor": st.sampled_from([None, None, 0.0, 0.78, 0.95]),
    }
)
actions = st.one_of(
    arrivals,
    arrivals,
    st.tuples(st.just("finish"), st.sampled_from([0.5, 1.0, 1.0, 1.3, 4.0])),
    st.tuples(st.just("finish"), st.sampled_from([0.5, 1.0, 1.0, 1.3, 4.0])),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.01, 0.2])),
    st.tuples(st.sampled_from(["fail", "lose", "start", "cancel"]), st.integers(0, 5)),
)


class Course:
    """Random events against one policy, through the checked hand."""

    def __init__(self, h: Any) -> None:
        self.h = h
        self.now_s = 0.0
        self.jobs = 0
        self.floors: dict[int, float] = {}
        self.workers = {0, 1}
        self.next_worker = 2

    def arrive(self, drawn: dict[str, Any]) -> None:
        slo = self.h.service.classes[drawn["slo_class"]]
        floor = slo.accuracy_floor if drawn["floor"] is None else drawn["floor"]
        self.jobs += 1
        self.floors[self.jobs] = floor
        fields = {name: drawn[name] for name in ("slo_class", "items", "available")}
        self.h.arrive(
            self.jobs, self.now_s, floor=floor, within_s=drawn["haste"] * slo.latency_slo_s, **fields
        )

    def finish(self, factor: float) -> None:
        if self.h.running:
            batch_id = min(self.h.running)
            took_s = factor * self.h.running[batch_id].expected_s
            self.now_s += took_s
            self.h.finish(batch_id, self.now_s, took_s)

    def step(self, action: Any) -> None:
        if isinstance(action, dict):
            self.arrive(action)
            return
        what, value = action
        if what == "finish":
            self.finish(value)
        elif what == "wait":
            self.now_s += value
        elif what == "fail" and self.h.running:
            batch = self.h.running.pop(min(self.h.running))
            self.h.handle(BatchFailed(self.now_s, batch.batch_id, batch.worker_id, "broken"))
        elif what == "lose" and self.workers:
            worker = sorted(self.workers)[value % len(self.workers)]
            self.workers.discard(worker)
            self.h.running = {b: run for b, run in self.h.running.items() if run.worker_id != worker}
            self.h.handle(WorkerLost(self.now_s, worker))
        elif what == "start" and len(self.workers) < 3:
            self.workers.add(self.next_worker)
            self.h.handle(WorkerReady(self.now_s, self.next_worker, ("one",)))
            self.next_worker += 1
        elif what == "cancel" and self.jobs:
            self.h.handle(JobCancelled(self.now_s, 1 + value % self.jobs))

    def end(self) -> None:
        if not self.workers:
            self.step(("start", 0))
        for _ in range(40 * self.jobs):
            if not self.h.running:
                break
            self.finish(1.0)


@pytest.mark.parametrize("scope", ["job", "class"])
@pytest.mark.parametrize("policy", list(POLICIES))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(actions, min_size=1, max_size=40))
def test_every_job_has_one_outcome_and_none_is_answered_below_its_floor(hand, policy, scope, drawn) -> None:
    h = hand(
        policy=policy,
        workers=2,
        guarantee={"scope": scope, "credit_items": 20},
        classes={
            "strict": {"latency_slo_ms": 60, "accuracy_floor": 0.8},
            "bulk": {"latency_slo_ms": 600, "accuracy_floor": 0.6},
        },
    )
    course = Course(h)
    for action in drawn:
        course.step(action)
    course.end()
    assert set(h.outcomes) == set(course.floors)  # and none got a second one: the hand looks at that
    for job, outcome in h.outcomes.items():
        if isinstance(outcome, Answer) and scope == "job":
            assert outcome.accuracy >= course.floors[job] - 1e-9
            assert not outcome.below_floor
        if not POLICIES[policy].admits and isinstance(outcome, Refuse):
            assert outcome.reason not in (
                RefusalReason.DEADLINE_UNREACHABLE,
                RefusalReason.DEADLINE_PASSED,
            )
