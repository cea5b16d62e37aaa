"""Bounds on the next batch: short queues are reckoned job by job, long ones with arrays, to the same numbers."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest

from poise.scheduling import limits
from poise.scheduling.arrival_rate import ShortDeadlines
from poise.scheduling.batches import FINE_SHARES, Prefixes


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_a_short_queue_has_the_slack_that_a_long_one_has(
    hand, workers: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    h = hand(workers=workers)
    for job in range(workers + int(rng.integers(2, limits.SHORT_QUEUE))):
        h.arrive(job, 0.0001 * job, items=int(rng.integers(1, 5)), within_s=float(rng.uniform(0.03, 0.1)))
    scheduler = h.scheduler
    view = scheduler._views.dispatch(0.005, scheduler.workers[0], scheduler.queue.entries)
    assert 1 < len(scheduler.queue) <= limits.SHORT_QUEUE
    cuts = Prefixes(view, view.max_batch).cuts(FINE_SHARES)
    each = limits.Limits(view)
    alone_s = [each.hard_s(cut) for cut in cuts]
    monkeypatch.setattr(limits, "SHORT_QUEUE", 0)
    together = limits.Limits(view)
    assert [together.hard_s(cut) for cut in cuts] == alone_s
    assert isinstance(together._work_before, np.ndarray)
    assert isinstance(each._work_before, list)
    among = view.entries[:3]
    parts = Prefixes(view, view.max_batch, among).cuts(FINE_SHARES)
    assert [together.hard_s(cut, among) for cut in parts] == [each.hard_s(cut, among) for cut in parts]


def test_a_deadline_of_the_whole_slo_is_no_step_below_it_for_being_a_difference_of_times() -> None:
    short = ShortDeadlines(0.09)
    for now_s in np.linspace(1.0, 1000.0, 200):
        short.observe((now_s + 0.09) - now_s)  # 0.0899999…, now and then
    assert short.value_s < 0.09
    assert short.coarse_s == pytest.approx(0.09)


@pytest.mark.parametrize("jobs", [(1,) * 31, (3, 2, 5, 1, 1, 9, 4), (20,)])
@pytest.mark.parametrize("most", range(1, 33))
def test_the_largest_candidate_of_at_most_so_many_items_is_among_the_others(
    jobs: tuple[int, ...], most: int
) -> None:
    prefixes = Prefixes.__new__(Prefixes)
    prefixes._ends = list(accumulate(jobs))
    cuts = prefixes.cuts_and(FINE_SHARES, most)
    sizes = [cut.items for cut in cuts]
    assert sizes == sorted(set(sizes), reverse=True)
    assert set(prefixes.cuts(FINE_SHARES)) <= set(cuts)
    assert max(size for size in sizes if size <= most or size == 1) >= max(
        (end for end in prefixes._ends if end <= most), default=1
    )
