"""Gathering rows copies only where it must, and never writes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from poise.runtimes import gather


@given(st.lists(st.integers(0, 9), max_size=12), st.booleans())
def test_gather_is_indexing_and_contiguous(rows, fortran):
    array = np.arange(60).reshape(10, 6)
    array = np.asfortranarray(array) if fortran else array
    array.flags.writeable = False
    got = gather(array, np.array(rows, np.intp))
    np.testing.assert_array_equal(got, array[rows].reshape(-1, 6))
    assert got.flags.c_contiguous


@given(st.integers(0, 9), st.integers(1, 10))
def test_consecutive_rows_are_not_copied(start, count):
    array = np.arange(60).reshape(10, 6)
    rows = np.arange(start, min(start + count, 10))
    assert np.shares_memory(gather(array, rows), array)


def test_rows_with_the_ends_of_a_run_are_not_taken_for_one():
    array = np.arange(5)
    assert gather(array, np.array([0, 2, 2, 3])).tolist() == [0, 2, 2, 3]
    assert gather(array, np.array([0, 2, 1, 3])).tolist() == [0, 2, 1, 3]
