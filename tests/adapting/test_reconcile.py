"""From the workers that there are to those that are wanted: by hand, and over random histories."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poise.adapting.commands import ActivateWorker, LoadWorker, ParkWorker, StopWorker
from poise.adapting.policy import one_of
from poise.adapting.reconcile import Reconciler, residence
from poise.adapting.workers import WorkerBooks
from poise.domain.allocation import Workers

A, B, WIDE = (
    Workers(variants=("a",), count=1),
    Workers(variants=("b",), count=1),
    Workers(variants=("a", "b"), count=1, threads=2),
)


def always(_: tuple[Workers, ...]) -> bool:
    return True


def both_needed(workers: tuple[Workers, ...]) -> bool:
    return len(workers) > 1


def never(_: tuple[Workers, ...]) -> bool:
    return False


def reconciler(books: WorkerBooks, *, memory: int = 100, standby: bool = True, each: int = 10) -> Reconciler:
    return Reconciler(books, lambda kind: each * len(kind.variants), memory, standby=standby)


def many(kind: Workers, count: int) -> Workers:
    return Workers(variants=kind.variants, count=count, threads=kind.threads, batch_cap_s=kind.batch_cap_s)


def test_what_is_on_standby_takes_over_without_loading() -> None:
    books = WorkerBooks(2)
    books.add(A, "active", (0,))
    books.add(A, "standby", ())
    commands = reconciler(books).step((many(A, 2),), always).commands
    assert [type(c) for c in commands] == [ActivateWorker]
    assert isinstance(commands[0], ActivateWorker)
    assert commands[0].cores == (1,)


def test_at_full_budget_the_old_answer_until_the_new_are_loaded() -> None:
    books = WorkerBooks(2)
    for slot in (0, 1):
        books.add(A, "active", (slot,))
    both = reconciler(books, standby=False)
    first = both.step((many(B, 2),), always).commands
    assert [type(c) for c in first] == [LoadWorker, LoadWorker]
    loads = [c for c in first if isinstance(c, LoadWorker)]
    assert sorted(load.cores for load in loads) == [(0,), (1,)]  # the cores they will inherit
    assert len(books.in_state("active")) == 2
    books.by_id[loads[0].worker_id].state = "standby"
    second = both.step((many(B, 2),), always).commands
    assert [type(c) for c in second] == [StopWorker]  # one incumbent makes room; the other still answers
    stopped = second[0]
    assert isinstance(stopped, StopWorker)
    assert both.step((many(B, 2),), always).commands == []  # its last batch is not done
    books.remove(stopped.worker_id)
    third = both.step((many(B, 2),), always).commands
    assert [type(c) for c in third] == [ActivateWorker]
    assert Counter(w.state for w in books) == {"active": 2, "loading": 1}


def test_where_memory_cannot_hold_both_the_old_one_goes_first_if_the_rest_carries() -> None:
    books = WorkerBooks(2)
    for slot in (0, 1):
        books.add(A, "active", (slot,))
    tight = reconciler(books, memory=20)
    blocked = tight.step((many(A, 1), many(B, 1)), both_needed)
    assert blocked.commands == []
    assert "memory" in blocked.blocked
    drained = tight.step((many(A, 1), many(B, 1)), always)
    assert [type(c) for c in drained.commands] == [StopWorker]
    assert tight.step((many(A, 1), many(B, 1)), always).commands == []
    books.remove(drained.commands[0].worker_id)  # type: ignore[union-attr]
    assert [type(c) for c in tight.step((many(A, 1), many(B, 1)), always).commands] == [LoadWorker]


def test_where_not_even_all_carry_the_load_memory_is_made_for_the_plan() -> None:
    books = WorkerBooks(4)
    large = Workers(variants=("a", "b"), count=1)
    books.add(large, "active", (0,))
    books.add(A, "active", (1,))
    commands = reconciler(books, memory=30).step((many(A, 3),), never).commands
    assert commands == [StopWorker(1)]


def test_memory_is_taken_from_standby_workers_first() -> None:
    books = WorkerBooks(2)
    books.add(A, "active", (0,))
    books.add(A, "standby", ())
    commands = reconciler(books, memory=20).step((many(A, 1), many(B, 1)), never).commands
    assert commands == [StopWorker(2)]  # one A is wanted, and one is active: the other can go
    books = WorkerBooks(2)
    books.add(A, "active", (0,))
    books.add(WIDE, "standby", ())
    commands = reconciler(books, memory=30).step((many(A, 1), many(B, 1)), never).commands
    assert [type(c) for c in commands] == [StopWorker]


def test_a_plan_that_is_overtaken_is_abandoned() -> None:
    books = WorkerBooks(2)
    books.add(A, "active", (0,))
    one = reconciler(books, standby=False)
    load = one.step((many(A, 1), many(B, 1)), always).commands[0]
    assert isinstance(load, LoadWorker)
    commands = one.step((many(A, 1),), always).commands
    assert [type(c) for c in commands] == [StopWorker]
    assert commands[0].worker_id == load.worker_id  # type: ignore[union-attr]


def test_with_standby_a_load_that_was_begun_is_ended_unless_its_memory_is_needed() -> None:
    books = WorkerBooks(2)
    books.add(A, "active", (0,))
    one = reconciler(books, memory=30)
    load = one.step((many(A, 1), many(B, 1)), always).commands[0]
    assert isinstance(load, LoadWorker)
    assert one.step((many(A, 1),), always).commands == []
    commands = one.step((many(WIDE, 1),), always).commands
    assert [type(c) for c in commands] == [StopWorker]
    assert commands[0].worker_id == load.worker_id  # type: ignore[union-attr]


def test_the_stock_is_made_up_for_one_at_a_time_while_there_is_memory() -> None:
    books = WorkerBooks(4)
    books.add(A, "active", (0,))
    one = reconciler(books, memory=30)
    one.stock[A] = 4
    for count in (2, 3):
        commands = one.step((many(A, 1),), always).commands
        assert [type(c) for c in commands] == [LoadWorker]
        assert one.step((many(A, 1),), always).commands == []  # one at a time
        books.by_id[count].state = "standby"
    assert one.step((many(A, 1),), always).commands == []  # memory is full
    assert len(books.in_state("active")) == 1


def test_another_batch_time_cap_needs_no_loading() -> None:
    capped = Workers(variants=("a",), count=1, batch_cap_s=0.1)
    books = WorkerBooks(1)
    books.add(A, "active", (0,))
    one = reconciler(books)
    commands = one.step((capped,), always).commands
    assert commands == [ActivateWorker(1, capped, (0,))]
    assert books.by_id[1].kind == capped
    assert one.step((capped,), always).commands == []


def test_what_is_held_back_is_not_loaded() -> None:
    books = WorkerBooks(1)
    found = reconciler(books).step((A,), always, {A: 10.0})
    assert found.commands == []
    assert "tried again" in found.blocked


KINDS = [A, B, WIDE, Workers(variants=("b",), count=1, batch_cap_s=0.5)]
TARGETS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 3)), max_size=3)


class Histories(RuleBasedStateMachine):
    """Loads that succeed and fail, workers that die, targets that change: at four cores and little memory."""

    def __init__(self) -> None:
        super().__init__()
        self.books = WorkerBooks(4)
        self.memory = 70
        self.standby = True
        self.reconciler = reconciler(self.books, memory=self.memory)
        self.target: tuple[Workers, ...] = ()
        self.failed = False

    def step(self) -> None:
        before = {w.worker_id: w.state for w in self.books}
        for command in self.reconciler.step(self.target, always).commands:
            if isinstance(command, ActivateWorker):
                assert before.get(command.worker_id) in ("standby", "active")
            elif isinstance(command, ParkWorker):
                assert before[command.worker_id] == "active"
            elif isinstance(command, StopWorker):
                assert before[command.worker_id] in ("active", "standby", "loading")

    @rule(wanted=TARGETS)
    def retarget(self, wanted: list[tuple[Workers, int]]) -> None:
        chosen: Counter[Workers] = Counter()
        for kind, count in wanted:
            for _ in range(count):
                cores = sum(k.threads * n for k, n in chosen.items()) + kind.threads
                memory = sum(10 * len(k.variants) * n for k, n in chosen.items()) + 10 * len(kind.variants)
                if cores <= 4 and memory <= self.memory:
                    chosen[kind] += 1
        self.target = tuple(many(kind, count) for kind, count in chosen.items())
        self.step()

    def happens(self, state: str, index: int) -> None:
        found = [w for w in self.books if w.state == state]
        worker = found[index % len(found)]
        if state == "loading":
            worker.state = "standby"
        elif state == "parking":
            worker.state, worker.slots = "standby", ()
        else:
            self.books.remove(worker.worker_id)
        self.step()

    @precondition(lambda self: self.books.in_state("loading"))
    @rule(index=st.integers(0, 9))
    def loaded(self, index: int) -> None:
        self.happens("loading", index)

    @precondition(lambda self: self.books.in_state("parking"))
    @rule(index=st.integers(0, 9))
    def parked(self, index: int) -> None:
        self.happens("parking", index)

    @precondition(lambda self: self.books.in_state("stopping"))
    @rule(index=st.integers(0, 9))
    def stopped(self, index: int) -> None:
        self.happens("stopping", index)

    @precondition(lambda self: bool(self.books.by_id))
    @rule(index=st.integers(0, 9))
    def lost(self, index: int) -> None:
        found = list(self.books)
        self.books.remove(found[index % len(found)].worker_id)
        self.step()

    @invariant()
    def cores_are_held_once(self) -> None:
        held = [slot for worker in self.books if worker.holds_cores for slot in worker.slots]
        assert len(held) == len(set(held))
        assert all(0 <= slot < 4 for slot in held)
        for worker in self.books.in_state("active", "parking"):
            assert len(worker.slots) == worker.kind.threads

    @invariant()
    def memory_is_held(self) -> None:
        assert sum(10 * len(worker.kind.variants) for worker in self.books) <= self.memory

    def settle(self) -> None:
        for _ in range(100):
            self.step()
            for state in ("stopping", "parking", "loading"):
                if any(w.state == state for w in self.books):
                    self.happens(state, 0)
                    break
            else:
                return
        raise AssertionError("it never came to rest")

    def teardown(self) -> None:
        """At rest the target runs: no more, no less, but that the last worker is never taken away."""
        self.settle()
        wanted: Counter[Workers] = Counter()
        for each in self.target:
            wanted[one_of(each)] += each.count
        active = Counter(worker.kind for worker in self.books.in_state("active"))
        if wanted:
            assert active == wanted, (active, wanted, [(w.kind, w.state) for w in self.books])
        else:
            assert sum(active.values()) <= 1


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def test_residence_leaves_out_what_changes_for_nothing() -> None:
    assert residence(Workers(variants=("b", "a"), count=2, batch_cap_s=0.2)) == residence(
        Workers(variants=("a", "b"), count=1)
    )
