"""Parts that policies share: candidate batches, each job's part of a planned batch."""

from __future__ import annotations

from poise.planning.service_model import VariantPlans
from poise.scheduling.composition import Composition
from poise.scheduling.queue import Waiting
from poise.scheduling.view import DispatchView, Share

COARSE_SHARES = (1.0, 0.75, 0.5, 0.25)
"""Batch sizes that are tried, as shares of the largest possible one; and one single job."""
FINE_SHARES = tuple(size / 32 for size in (32, 28, 24, 20, 18, 16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2))
"""Those tried in overload, where the time for each item decides how many jobs are kept."""


def shares_of(planned: Composition, dropped: VariantPlans | None = None) -> tuple[Share, ...]:
    """Return each job's part; where soft floors were dropped, marked if its items are below its floor."""
    found: list[Share] = []
    for entry, counts in planned.counts():
        below = False
        if dropped is not None:
            items = sum(count for _, count in counts)
            reached = sum(dropped.model.accuracy[dropped.position[mask]] * count for mask, count in counts)
            below = reached < entry.floor * items - 1e-9
        found.append(Share(entry=entry, counts=counts, below_floor=below))
    return tuple(found)


def time_to_first_deadline(view: DispatchView) -> float:
    """Return the time until the first waiting job's deadline. Units: profile seconds of the free worker."""
    return view.worker.calibration.profile_s(view.entries[0].job.deadline_s - view.now_s)


def prefixes(view: DispatchView, max_batch: int, *, fine: bool) -> list[list[tuple[Waiting, int]]]:
    """Return candidate batches as lists of (entry, items), largest first, all led by the first job.

    A job that must run alone is a batch of its own and ends every other prefix.
    """
    limit = min(max_batch, view.max_batch)
    longest: list[tuple[Waiting, int]] = []
    items = 0
    for entry in view.entries:
        if entry.alone and longest:
            break
        count = entry.waiting_items
        if items + count > limit:
            if not longest:
                longest.append((entry, limit))
            break
        longest.append((entry, count))
        items += count
        if entry.alone or items == limit:
            break
    count = len(longest)
    shares = FINE_SHARES if fine else COARSE_SHARES
    sizes = sorted({max(1, round(count * share)) for share in shares} | {1}, reverse=True)
    return [longest[:size] for size in sizes]
