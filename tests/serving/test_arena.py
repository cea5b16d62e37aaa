import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.tiny import TINY

from poise.domain.datatypes import NUMPY_TYPE
from poise.errors import ConfigError, InternalError
from poise.files import open_service
from poise.serving.arena import ALIGNMENT_BYTES, Arena, RowAllocator, plan_layout

CAPACITY = 40


class Allocation(RuleBasedStateMachine):
    """Against a set of taken rows."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = RowAllocator(CAPACITY)
        self.jobs: list[tuple[int, int]] = []

    def taken(self) -> list[int]:
        return [row for first, rows in self.jobs for row in range(first, first + rows)]

    @rule(rows=st.integers(1, CAPACITY))
    def take(self, rows):
        taken = set(self.taken())
        fits = [first for first in range(CAPACITY - rows + 1) if not taken & set(range(first, first + rows))]
        assert self.allocator.take(rows) == (fits[0] if fits else None)
        if fits:
            self.jobs.append((fits[0], rows))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def give_back(self, data):
        first, rows = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        self.allocator.give_back(first, rows)
        with pytest.raises(InternalError):
            self.allocator.give_back(first, rows)

    @invariant()
    def no_row_is_taken_twice(self):
        taken = self.taken()
        assert len(taken) == len(set(taken)) == self.allocator.used

    def teardown(self):
        for first, rows in self.jobs:
            self.allocator.give_back(first, rows)
        assert self.allocator.take(CAPACITY) == 0


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(max_examples=100, stateful_step_count=40)


def test_rows_that_were_never_taken_are_not_given_back():
    allocator = RowAllocator(4)
    allocator.take(2)
    for first, rows in ((1, 2), (3, 1), (0, 5), (-1, 1), (0, 0)):
        with pytest.raises(InternalError):
            allocator.give_back(first, rows)
    allocator.give_back(0, 2)


@given(limit=st.integers(500, 20_000))
def test_layout_fits_its_limit_and_is_aligned(limit):
    layout = plan_layout(open_service(TINY).service, limit)
    assert layout.size_bytes <= limit
    assert layout.capacity >= 1
    end = 0
    for place in (*layout.inputs, *layout.outputs):
        assert place.offset >= end
        assert place.offset % ALIGNMENT_BYTES == 0
        item_bytes = int(np.prod(place.shape)) * np.dtype(NUMPY_TYPE[place.datatype]).itemsize
        end = place.offset + layout.capacity * item_bytes
    assert end <= layout.size_bytes


def test_capacity_is_what_may_be_queued():
    service = open_service(TINY).service
    assert plan_layout(service).capacity == service.scheduler.queue_items


def test_an_item_larger_than_the_arena_is_the_operators_error():
    with pytest.raises(ConfigError, match="takes 66 bytes"):
        plan_layout(open_service(TINY).service, 100)


def test_two_mappings_see_the_same_memory_that_nobody_may_resize():
    layout = plan_layout(open_service(TINY).service, 10_000)
    arena = Arena.create(layout)
    try:
        other = Arena(layout, arena.fd)
        arena.inputs["wave"][3] = [1, 2, 3, 4]
        other.outputs["logits"][0] = 7
        assert other.inputs["wave"][3].tolist() == [1, 2, 3, 4]
        assert arena.outputs["logits"][0].tolist() == [7] * 5
        assert not any(array.any() for name, array in arena.inputs.items() if name != "wave")
        assert os.fstat(arena.fd).st_mode & 0o777 == 0o600
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, 0)
    finally:
        os.close(arena.fd)


def test_the_memory_goes_though_somebody_still_refers_to_the_arena():
    arena = Arena.create(plan_layout(open_service(TINY).service, 100_000))
    inode = f" {os.fstat(arena.fd).st_ino} "
    row = arena.inputs["wave"][0]
    arena.close()
    assert inode in maps()
    del row
    assert inode not in maps()


def maps() -> str:
    return Path("/proc/self/maps").read_text()
