"""The policy ``jobwise`` on a service whose plans can be worked out by hand.

Modality sets: cheap 1 ms at .6, dear 10 ms at .9, both 11 ms at .96, for each item (see conftest).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.domain.job import RefusalReason
from poise.scheduling.commands import Answer, Refuse, RunBatch
from poise.scheduling.jobwise import PLANNED_JOBS
from poise.scheduling.upper_load import UpperLoad

DEAR, CHEAP, BOTH = 1, 2, 3
ACCURACY = {DEAR: 0.90, CHEAP: 0.60, BOTH: 0.96}


def run_of(commands) -> RunBatch:
    (found,) = [command for command in commands if isinstance(command, RunBatch)]
    return found


def refusals(commands) -> list[Refuse]:
    return [command for command in commands if isinstance(command, Refuse)]


def sets_of(batch: RunBatch) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in batch.parts:
        found[part.modalities] = found.get(part.modalities, 0) + part.items
    return found


def drain(h, now_s: float) -> dict[int, Answer | Refuse]:
    """Finish batch after batch, each when it is expected, until none runs."""
    ends_s = {batch_id: now_s + batch.expected_s for batch_id, batch in h.running.items()}
    while ends_s:
        batch_id = min(ends_s, key=lambda b: (ends_s[b], b))
        at_s = ends_s.pop(batch_id)
        for command in h.finish(batch_id, at_s):
            if isinstance(command, RunBatch):
                ends_s[command.batch_id] = at_s + command.expected_s
    return h.outcomes


def test_a_job_alone_gets_its_best_plan(hand) -> None:
    batch = run_of(hand("jobwise").arrive(1, 0.0))
    assert sets_of(batch) == {BOTH: 1}


def test_each_deadline_of_the_queue_is_held(hand) -> None:
    # Two jobs wait behind 11 ms. By 23 ms the first must be done: 12 ms are left, enough for its best plan, 11.
    # But the second is due at 25 ms: 14 ms for both. Best is 11 for one and 1 for the other.
    h = hand("jobwise")
    first = run_of(h.arrive(1, 0.0))
    h.arrive(2, 0.0, within_s=0.023)
    h.arrive(3, 0.0, within_s=0.025)
    second = run_of(h.finish(first.batch_id, 0.011))
    third = run_of(h.finish(second.batch_id, 0.011 + second.expected_s))
    assert sorted([ACCURACY[batch.parts[0].modalities] for batch in (second, third)]) == [0.6, 0.96]
    h.finish(third.batch_id, 0.011 + second.expected_s + third.expected_s)
    answers = list(h.outcomes.values())
    assert all(isinstance(answer, Answer) and not answer.late for answer in answers)
    assert len(answers) == 3


def test_jobs_never_share_a_batch(hand) -> None:
    h = hand("jobwise")
    for job in range(5):
        h.arrive(job, 0.0)
    while h.running:
        (batch_id,) = h.running
        batch = h.running[batch_id]
        assert len({part.job_id for part in batch.parts}) == 1
        h.finish(batch_id, h.scheduler.workers[0].free_at_s)
    assert len(h.outcomes) == 5


def test_a_job_larger_than_a_batch_is_answered_in_several_of_one_accuracy(hand) -> None:
    h = hand("jobwise", scheduler={"policy": "jobwise", "max_batch": 4})
    # 10 items within 60 ms, in batches of 4, 4 and 2, all at one accuracy. Of 4 items 2 by both and 2 by cheap take
    # 24 ms at .78; of 2 items one by each 12 ms at .78: 60 ms in all. The floor takes less.
    first = run_of(h.arrive(1, 0.0, items=10, within_s=0.0601))
    assert sum(sets_of(first).values()) == 4
    sizes = [4]
    while h.running:
        (batch_id,) = h.running
        for command in h.finish(batch_id, h.scheduler.workers[0].free_at_s):
            if isinstance(command, RunBatch):
                sizes.append(sum(part.items for part in command.parts))
    assert sizes == [4, 4, 2]
    (answer,) = h.outcomes.values()
    assert isinstance(answer, Answer)
    assert not answer.late
    assert answer.accuracy >= 0.75


def test_a_floor_is_the_jobs_own_in_scope_class_too(hand) -> None:
    h = hand("jobwise", guarantee={"scope": "class"})
    first = run_of(h.arrive(1, 0.0, floor=0.6))  # earns .36 of credit
    h.arrive(
        2, 0.0, floor=0.9, within_s=0.0211
    )  # 10.1 ms are left: dear alone, though credit would allow cheap
    assert sets_of(run_of(h.finish(first.batch_id, 0.011))) == {DEAR: 1}


def test_a_job_that_cannot_be_held_is_refused_and_costs_nothing(hand) -> None:
    h = hand("jobwise", classes={"normal": {"latency_slo_ms": 100, "accuracy_floor": 0.9}})
    h.arrive(1, 0.0)
    (lost,) = refusals(h.arrive(2, 0.0, within_s=0.015))  # 11 ms, then 10: 21
    assert lost.job_id == 2
    assert lost.reason in (RefusalReason.DEADLINE_UNREACHABLE, RefusalReason.DISPLACED)
    h.arrive(3, 0.0, within_s=0.022)
    outcomes = drain(h, 0.0)
    assert isinstance(outcomes[3], Answer)
    assert not outcomes[3].late


def test_who_is_refused_is_decided_by_weight(hand) -> None:
    classes = {
        "bulk": {"latency_slo_ms": 100, "accuracy_floor": 0.9, "weight": 1},
        "gold": {"latency_slo_ms": 100, "accuracy_floor": 0.9, "weight": 5},
    }
    h = hand("jobwise", classes=classes)
    h.arrive(1, 0.0)  # runs, 11 ms
    assert not refusals(h.arrive(2, 0.0, slo_class="bulk", within_s=0.022))
    (lost,) = refusals(
        h.arrive(3, 0.0, slo_class="gold", within_s=0.024)
    )  # 11 + 10 + 10 > 24: one of them goes
    assert lost.job_id == 2
    (lost,) = refusals(h.arrive(4, 0.0, slo_class="bulk", within_s=0.022))
    assert lost.job_id == 4
    assert isinstance(drain(h, 0.0)[3], Answer)


def test_a_class_that_prefers_deadlines_goes_below_its_floor_only_when_it_must(hand) -> None:
    classes = {"soft": {"latency_slo_ms": 100, "accuracy_floor": 0.9, "prefer": "deadline"}}
    h = hand("jobwise", classes=classes, guarantee={"scope": "job"})
    first = run_of(h.arrive(1, 0.0))
    assert sets_of(first) == {BOTH: 1}
    h.arrive(2, 0.0, within_s=0.013)  # 2 ms are left: cheap
    h.arrive(3, 0.0, within_s=0.025)
    second = run_of(h.finish(first.batch_id, 0.011))
    assert sets_of(second) == {CHEAP: 1}
    third = run_of(h.finish(second.batch_id, 0.012))
    assert sets_of(third) == {BOTH: 1}
    h.finish(third.batch_id, 0.023)
    marks = {
        job_id: answer.below_floor for job_id, answer in h.outcomes.items() if isinstance(answer, Answer)
    }
    assert marks == {1: False, 2: True, 3: False}


def test_several_workers_are_planned_together(hand) -> None:
    # Both workers are busy for 11 ms. Four jobs wait, due at 34 ms: 23 ms on each worker hold 11 + 11 but no more.
    h = hand("jobwise", workers=2)
    for job in (1, 2):
        assert sets_of(run_of(h.arrive(job, 0.0))) == {BOTH: 1}
    for job in (3, 4, 5, 6):
        h.arrive(job, 0.0, within_s=0.034)
    answers = drain(h, 0.0)
    assert [answers[job].accuracy for job in range(1, 7)] == pytest.approx([0.96] * 6)  # type: ignore[union-attr]
    assert not any(answer.late for answer in answers.values())  # type: ignore[union-attr]


def test_more_jobs_than_are_planned_one_by_one_count_as_work(hand) -> None:
    # 100 jobs due at 150 ms: 1 ms each leaves 50 ms for accuracy, five times 10 ms: one for the first, which found
    # nobody waiting, and four for others.
    h = hand("jobwise", classes={"normal": {"latency_slo_ms": 200, "accuracy_floor": 0.6}})
    for job in range(100):
        h.arrive(job, 0.0, within_s=0.1501)
    assert len(h.scheduler.queue) > PLANNED_JOBS
    answers = drain(h, 0.0)
    assert len(answers) == 100
    assert all(isinstance(answer, Answer) and not answer.late for answer in answers.values())
    assert sum(isinstance(a, Answer) and a.accuracy > 0.9 for a in answers.values()) == 5


def test_recent_bursts_keep_time_back(hand) -> None:
    # Windows of 125 ms in each of which 200 jobs came at once: the next may bring 200 ms of cheapest work again.
    # Twelve jobs could spend their 125 ms, 11 of them at their best; but the next burst is to find time as well.
    def spent_s(bursts: int) -> float:
        h = hand("jobwise", classes={"normal": {"latency_slo_ms": 125, "accuracy_floor": 0.6}})
        for burst in range(bursts):
            for job in range(200):
                h.arrive(1000 * burst + job, 0.125 * burst)
            drain(h, 0.125 * burst)
        now_s = 0.125 * bursts + 1.0
        h.outcomes.clear()
        for job in range(12):
            h.arrive(job + 10**6, now_s)
        drain(h, now_s)
        assert len(h.outcomes) == 12
        assert all(isinstance(outcome, Answer) and not outcome.late for outcome in h.outcomes.values())
        return h.scheduler._now_s - now_s

    assert spent_s(0) == pytest.approx(0.122)
    assert spent_s(8) <= 0.08


def test_the_upper_load_is_a_quantile_of_windows():
    load = UpperLoad(1.0)
    assert load.work_s(0.0, 5.0) == 0.0
    for second in range(40):
        for _ in range(10 if second % 10 == 3 else 1):
            load.observe(second + 0.5, 2, 0.25)
    # A tenth of the windows held 2.5 s of work: the 95 % quantile is among them.
    assert load.work_s(40.5, 0.0) == pytest.approx(2.5)
    # At .125 s an item, a rate of 40 items/s brings 5 s of work.
    assert load.work_s(40.5, 40.0) == pytest.approx(5.0)
    # Silence is forgotten with the windows.
    assert load.work_s(1000.0, 0.0) == 0.0


CLASSES = {
    "strict": {"latency_slo_ms": 100, "accuracy_floor": 0.75},
    "soft": {"latency_slo_ms": 100, "accuracy_floor": 0.8, "prefer": "deadline", "weight": 2},
}
ARRIVALS = st.lists(
    st.fixed_dictionaries(
        {
            "gap_ms": st.sampled_from([0, 0, 1, 5, 40]),
            "items": st.integers(1, 9),
            "within_ms": st.sampled_from([1, 5, 12, 30, 100]),
            "available": st.sampled_from([1, 2, 3]),
            "slo_class": st.sampled_from(["strict", "soft"]),
        }
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=ARRIVALS, workers=st.integers(1, 3), scope=st.sampled_from(["job", "class"]))
def test_every_job_gets_one_outcome_in_time_and_at_its_floor(
    hand, arrivals: list[dict[str, Any]], workers, scope
):
    h = hand(
        "jobwise", workers=workers, classes=CLASSES, guarantee={"scope": scope}, scheduler={"max_batch": 4}
    )
    now_s = 0.0
    ends_s: dict[int, float] = {}

    def note(commands, at_s: float) -> None:
        for command in commands:
            if isinstance(command, RunBatch):
                ends_s[command.batch_id] = at_s + command.expected_s

    def finish_until(until_s: float) -> None:
        while ends_s and min(ends_s.values()) <= until_s:
            batch_id = min(ends_s, key=lambda b: (ends_s[b], b))
            at_s = ends_s.pop(batch_id)
            note(h.finish(batch_id, at_s), at_s)

    sent: dict[int, dict[str, Any]] = {}
    for number, fields in enumerate(arrivals):
        now_s += fields["gap_ms"] / 1000
        finish_until(now_s)
        sent[number] = fields
        rest = {k: fields[k] for k in ("items", "available", "slo_class")}
        note(h.arrive(number, now_s, within_s=fields["within_ms"] / 1000, **rest), now_s)
    finish_until(float("inf"))
    assert sorted(h.outcomes) == sorted(sent)
    for number, outcome in h.outcomes.items():
        if isinstance(outcome, Answer):
            assert not outcome.late
            floor = h.service.classes[sent[number]["slo_class"]].accuracy_floor
            assert (
                outcome.below_floor or outcome.accuracy >= floor - 1e-9 or sent[number]["available"] == CHEAP
            )
            if scope == "job" and not outcome.below_floor:
                assert outcome.accuracy >= floor - 1e-9
