"""Bounds on the next batch: short queues are reckoned job by job, long ones with arrays, to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from poise.scheduling import limits
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
