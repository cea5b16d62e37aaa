"""Parts that policies share: candidate batches, each job's part of a planned batch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from poise.planning.service_model import VariantPlans
from poise.scheduling.composition import Composition
from poise.scheduling.queue import Waiting
from poise.scheduling.view import DispatchView, Share

COARSE_SHARES = (1.0, 0.75, 0.5, 0.25)
"""Batch sizes that are tried, as shares of the largest possible one; and the first job alone."""
FINE_SHARES = tuple(size / 32 for size in (32, 28, 24, 20, 18, 16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2))
"""Those tried in overload, where the time for each item decides how many jobs are kept."""
EVERY_SIZE = 4
"""Up to so many items both lists hold every size there is."""

Taken = list[tuple[Waiting, int]]
"""Some items of each of some waiting jobs: (job, items)."""


class Cut(NamedTuple):
    """A candidate batch: the first ``whole`` jobs, and ``part`` items of the next; ``items`` in all."""

    whole: int
    part: int
    items: int


class Prefixes:
    """The batches that could be led by the first waiting job: prefixes of the queue.

    A job of several items may be split, where the jobs before it fill less than half of the batch. A job that must
    run alone is a batch of its own and ends every other prefix.
    """

    __slots__ = ("_ends", "_longest", "among")

    def __init__(self, view: DispatchView, max_batch: int, among: Sequence[Waiting] | None = None) -> None:
        """Take all jobs that the worker may be given, or only those ``among`` them."""
        self.among = among
        limit = max_batch if max_batch < view.max_batch else view.max_batch
        self._longest: Taken = []
        self._ends: list[int] = []
        items = 0
        for entry in view.entries if among is None else among:
            if entry.alone and items:
                break
            count = entry.waiting_items
            if items + count > limit:
                if 2 * items < limit:
                    count = limit - items
                else:
                    break
            items += count
            self._longest.append((entry, count))
            self._ends.append(items)
            if entry.alone or items == limit:
                break

    @property
    def items(self) -> int:
        """How many items the longest one has."""
        return self._ends[-1]

    def cuts(self, shares: tuple[float, ...]) -> list[Cut]:
        """Return candidates of some shares of the longest one, largest first; the last is the first job, or an item."""
        ends = self._ends
        return _cuts_of_items(len(ends), shares) if ends[-1] == len(ends) else _cuts_of(ends, shares)

    def cuts_and(self, shares: tuple[float, ...], items: int) -> list[Cut]:
        """Return the same, and among them the largest of at most so many items."""
        cuts = self.cuts(shares)
        extra = _cut(self._ends, items)
        place = bisect_left(cuts, -extra.items, key=lambda cut: -cut.items)
        if extra.items < 1 or (place < len(cuts) and cuts[place].items == extra.items):
            return cuts
        return [*cuts[:place], extra, *cuts[place:]]

    def taken(self, cut: Cut) -> Taken:
        """Return a candidate's items, job by job."""
        jobs = self._longest[: cut.whole]
        if cut.part:
            jobs.append((self._longest[cut.whole][0], cut.part))
        return jobs

    def rung(self, cut: Cut) -> int:
        """Return the longest rung of a candidate's jobs."""
        return max([entry.job.bucket for entry, _ in self._longest[: cut.whole + (cut.part > 0)]])

    def reserved(self, cut: Cut) -> float:
        """Return the credit that is kept for a candidate's jobs."""
        return sum([entry.reserved for entry, _ in self._longest[: cut.whole + (cut.part > 0)]])

    @property
    def longest(self) -> Taken:
        """The longest of all."""
        return self._longest


@lru_cache(maxsize=1024)
def _cuts_of_items(jobs: int, shares: tuple[float, ...]) -> list[Cut]:
    """Return the candidates where every job is a single item: they depend on nothing else."""
    return _cuts_of(range(1, jobs + 1), shares)


def _cuts_of(ends: Sequence[int], shares: tuple[float, ...]) -> list[Cut]:
    """Return the candidates of jobs whose items add up to ``ends``."""
    total = ends[-1]
    found: list[Cut] = []
    for share in shares:
        cut = _cut(ends, max(1, round(total * share)))
        if not found or cut.items < found[-1].items:
            found.append(cut)
    first = ends[0]
    if found[-1].items > first:
        found.append(Cut(1, 0, first))
    if found[-1].items > 1 and first > 1:
        found.append(Cut(0, 1, 1))
    return found


def _cut(ends: Sequence[int], items: int) -> Cut:
    """Return the largest candidate of at most so many items."""
    whole = bisect_right(ends, items)
    before = ends[whole - 1] if whole else 0
    part = items - before if 2 * before < items else 0
    return Cut(whole, part, before + part)


def prefixes(view: DispatchView, max_batch: int, *, fine: bool) -> list[Taken]:
    """Return candidate batches, largest first, all led by the first job."""
    found = Prefixes(view, max_batch)
    return [found.taken(cut) for cut in found.cuts(FINE_SHARES if fine else COARSE_SHARES)]


def shares_of(planned: Composition, dropped: VariantPlans | None = None) -> tuple[Share, ...]:
    """Return each job's part; where soft floors were dropped, marked if its items are below its floor."""
    if dropped is None:
        if len(planned.points) == 1 and len(pairs := planned.frontiers[0].pairs(planned.points[0])) == 1:
            mask = pairs[0][0]
            return tuple([Share(entry, ((mask, items),)) for entry, items in planned.demands[0].members])
        return tuple([Share(entry, counts) for entry, counts in planned.counts()])
    found: list[Share] = []
    for entry, counts in planned.counts():
        items = sum(count for _, count in counts)
        reached = sum(dropped.model.accuracy[dropped.position[mask]] * count for mask, count in counts)
        found.append(Share(entry, counts, below_floor=reached < entry.floor * items - 1e-9))
    return tuple(found)


def plans_for(plans: VariantPlans, taken: Taken) -> VariantPlans:
    """Return a variant's plans at the longest rung of some jobs: what a batch of them takes."""
    if not plans.shorter:
        return plans
    return plans.at(max([entry.job.bucket for entry, _ in taken]))


def batch_latency_s(plans: VariantPlans, counts: list[int]) -> float:
    """Return the latency of a batch; items of one set alone are looked up in their frontier of one point.

    Shapes: ``counts[s]`` items of modality set *s*, in the order of the model's sets. Units: profile seconds.
    """
    used = [at for at, items in enumerate(counts) if items]
    if len(used) == 1:
        frontier = plans.frontier(1 << used[0], counts[used[0]])
        if frontier is not None and len(frontier):
            return frontier.latency_s[0]
    return plans.model.latency_s(counts)


def time_to_first_deadline(view: DispatchView) -> float:
    """Return the time until the first waiting job's deadline. Units: profile seconds of the free worker."""
    return view.worker.calibration.profile_s(view.entries[0].job.deadline_s - view.now_s)
