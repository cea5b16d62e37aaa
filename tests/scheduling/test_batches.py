"""Candidate batches: which sizes are tried."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.scheduling.batches import COARSE_SHARES, EVERY_SIZE, FINE_SHARES, _cuts_of, _cuts_of_items


def splits(items: int) -> list[list[int]]:
    """Every way in which jobs of one item or more add up to so many items."""
    if not items:
        return [[]]
    return [[first, *rest] for first in range(1, items + 1) for rest in splits(items - first)]


@pytest.mark.parametrize("jobs", [jobs for items in range(1, EVERY_SIZE + 1) for jobs in splits(items)])
def test_of_few_items_both_lists_try_the_same(jobs: list[int]) -> None:
    """The search goes from the coarse list to the fine one only beyond that."""
    ends = list(accumulate(jobs))
    assert _cuts_of(ends, COARSE_SHARES) == _cuts_of(ends, FINE_SHARES)


def test_of_more_the_fine_list_tries_more() -> None:
    ends = list(range(1, EVERY_SIZE + 2))
    assert len(_cuts_of(ends, COARSE_SHARES)) < len(_cuts_of(ends, FINE_SHARES))


@given(st.integers(1, 64), st.sampled_from([COARSE_SHARES, FINE_SHARES]))
def test_single_items_are_cut_as_any_jobs(jobs: int, shares: tuple[float, ...]) -> None:
    cuts = _cuts_of_items(jobs, shares)
    assert cuts == _cuts_of([end + 1 for end in range(jobs)], shares)
    assert all(cut.whole == cut.items and not cut.part for cut in cuts)
    assert [cut.items for cut in cuts] == sorted({cut.items for cut in cuts}, reverse=True)
    assert cuts[0].items == jobs
    assert cuts[-1].items == 1
