"""Policies to compare with: what a user would have instead."""

from __future__ import annotations

from poise.planning.service_model import FLOOR_TOLERANCE, VariantPlans
from poise.scheduling.batches import (
    FINE_SHARES,
    Taken,
    batch_latency_s,
    plans_for,
    shares_of,
    time_to_first_deadline,
)
from poise.scheduling.composition import Composition, compose, demands_of
from poise.scheduling.ladders import Resident
from poise.scheduling.queue import Waiting
from poise.scheduling.view import Choice, DispatchView, Policy, Share

BUCKETS = 16
"""Into how many latency buckets ``slackfit`` divides the range of profiled latencies."""

MOST_KEPT = 1024
"""Plans may be replaced while running; what is kept for each is dropped when there are more than this."""

_Taken = tuple[Waiting, int, int]
"""A waiting job, how many of its items, and the place of their modality set in the variant's ``sets``."""


class Edf(Policy):
    """Modality-agnostic earliest deadline first: every item by the most accurate mode.

    Source: the modality-agnostic server that MOSEL (EMNLP 2024) compares with; batches as dynamic batching makes
    them. Whenever a worker is free it takes waiting jobs in order, as many as ``max_batch`` allows and can all be
    in time. Jobs stay whole, unless one alone is larger than that. With the admission of poise.

    The mode is the most accurate that the worker's variants have for the job's modalities; jobs whose most accurate
    mode is in another variant than the first job's are left for another batch. Admission reckons with the quickest of
    the variants' most accurate modes: of several variants' jobs, some are refused only once they wait.
    """

    name = "edf"

    def __init__(self) -> None:
        self._modes: dict[tuple[Resident, int], tuple[VariantPlans, int] | None] = {}

    def reach(self, plans: VariantPlans, available: int) -> int:
        """Only the most accurate set within the available modalities."""
        return plans.best_only(available)

    def choose(self, view: DispatchView) -> Choice | None:
        """Return the longest run of waiting jobs that fits and, with admission, is in time."""
        mode = self._mode(view.worker.plans, view.entries[0].job.available)
        if mode is None or not _may(view.entries[0], *mode):
            return None
        plans = mode[0]
        taken = self._taken(view, plans)
        counts = [0] * len(plans.model.sets)
        for _, items, at in taken:
            counts[at] += items
        latency_s = batch_latency_s(_plans_of(plans, taken), counts)
        if self.admits:
            limits_s = _least_so_far(view, taken)
            while taken and latency_s > limits_s[len(taken) - 1]:
                _, items, at = taken.pop()
                counts[at] -= items
                latency_s = batch_latency_s(_plans_of(plans, taken), counts) if taken else 0.0
        if not taken:
            return None
        sets, accuracy = plans.model.sets, plans.model.accuracy
        shares = [
            Share(entry, ((sets[at], items),), below_floor=accuracy[at] < entry.floor - FLOOR_TOLERANCE)
            for entry, items, at in taken
        ]
        return Choice(plans=plans, shares=tuple(shares), latency_s=latency_s)

    def _taken(self, view: DispatchView, plans: VariantPlans) -> list[_Taken]:
        """Return the first jobs that this variant may answer, as many as fit into a batch, whole."""
        resident = view.worker.plans
        limit = left = min(plans.model.max_batch, view.max_batch)
        taken: list[_Taken] = []
        terms, mode = None, None
        for entry in view.entries:
            if entry.terms is not terms:
                terms = entry.terms
                mode = self._mode(resident, entry.job.available)
                if mode is not None and not (mode[0] is plans and _may(entry, *mode)):
                    mode = None
            if mode is None:
                continue
            items = entry.waiting_items
            if taken and (items > left or entry.alone):
                break
            taken.append((entry, min(items, limit), mode[1]))
            left -= items
            if left <= 0 or entry.alone:
                break
        return taken

    def _mode(self, resident: Resident, available: int) -> tuple[VariantPlans, int] | None:
        """Return the variant, and the place in its ``sets``, of the most accurate mode; None: there is none."""
        key = (resident, available)
        if key not in self._modes:
            if len(self._modes) >= MOST_KEPT:
                self._modes.clear()
            modes = [
                (plans.model.accuracy[at], -order, plans, at)
                for order, plans in enumerate(resident)
                for at, mask in enumerate(plans.model.sets)
                if mask & ~available == 0
            ]
            best = max(modes, key=lambda mode: mode[:2], default=None)
            self._modes[key] = None if best is None else best[2:]
        return self._modes[key]


class EdfOpen(Edf):
    """``edf`` without admission: nothing is refused for its deadline, and a batch is as large as it can be."""

    name = "edf-open"
    admits = False


class Fifo(Edf):
    """Modality-agnostic, in order of arrival: ``edf`` without a look at deadlines when jobs are ordered.

    With the admission of poise: no batch is so large that one of its jobs would be late.
    """

    name = "fifo"
    order = "arrival"


class FifoOpen(Fifo):
    """``fifo`` without admission: nothing is refused for its deadline, and a batch is as large as it can be."""

    name = "fifo-open"
    admits = False


class _Planned(Policy):
    """A policy that plans runs of whole waiting jobs by E1's frontiers; a subclass says which is the best.

    Jobs stay whole, unless one alone is larger than a batch. Where no batch is in time at the floors and the first
    job's class prefers deadlines, floors of such classes are dropped.
    """

    def choose(self, view: DispatchView) -> Choice | None:
        """Return the best batch led by the first job that its deadline allows."""
        found = self._best(view, ignore_soft=False)
        if found is None and view.entries[0].terms.soft:
            found = self._best(view, ignore_soft=True)
        return found

    def _best(self, view: DispatchView, *, ignore_soft: bool) -> Choice | None:
        raise NotImplementedError


class Cheapest(_Planned):
    """Always the cheapest plan that meets the floor, in deadline order.

    Source: what MOSEL's (EMNLP 2024) offline step gives a server with no online step. A batch is as many
    waiting jobs as ``max_batch`` and the first one's deadline allow. Scope ``job``: each job at its own floor; scope
    ``class``: the items of a class together at its floor, less what its credit covers. Of several variants, the one
    with the least time for each item. With the admission of poise.
    """

    name = "cheapest"

    def _best(self, view: DispatchView, *, ignore_soft: bool) -> Choice | None:
        time_s = time_to_first_deadline(view)
        best: tuple[float, Choice] | None = None
        for plans in view.worker.plans:
            longest = _whole_jobs(view, plans)
            for size in range(len(longest), 0, -1):
                jobs = longest[:size]
                here = plans_for(plans, jobs)
                demands = demands_of(view, here, jobs, self.reach, ignore_soft=ignore_soft)
                planned = compose(here, demands, 0.0)
                if planned is None or planned.latency_s > time_s:
                    continue
                each_s = planned.latency_s / sum(items for _, items in jobs)
                if best is None or each_s < best[0]:
                    best = (each_s, _choice(here, planned, ignore_soft))
                break
        return None if best is None else best[1]


class SlackFit(_Planned):
    """The slack of the most urgent job picks a latency bucket; within it, the most accuracy × batch.

    Source: SuperServe (NSDI 2025), policy SlackFit. The range of profiled latencies, from one item's cheapest plan
    to the largest batch's most accurate one, is cut into ``BUCKETS`` of equal width (linear, as published). The
    slack of the first waiting job picks the highest bucket that lies within it, or the lowest one, of which only
    the part within the slack is used. Of the choices (variant, batch, plan) in the bucket, the one with the highest
    sum of accuracies is taken; if the queue is too short or its floors too high for any, the next lower bucket, and
    at last the whole slack. Where SuperServe chooses one subnetwork for a batch, a choice here is the batch's most
    accurate plan, all floors held. With the admission of poise.
    """

    name = "slackfit"

    def __init__(self) -> None:
        self._ranges: dict[Resident, tuple[float, float]] = {}

    def _best(self, view: DispatchView, *, ignore_soft: bool) -> Choice | None:
        slack_s = time_to_first_deadline(view)
        least_s, width_s = self._range(view)
        whole = int((slack_s - least_s) / width_s) if width_s > 0 else 0
        edge_s = least_s + min(whole, BUCKETS) * width_s
        if whole >= 1 and edge_s < slack_s:
            found = self._within(view, edge_s, ignore_soft)
            if found is not None:
                return found
        return self._within(view, slack_s, ignore_soft)

    def _within(self, view: DispatchView, limit_s: float, ignore_soft: bool) -> Choice | None:
        """Return the choice with the most accuracy × batch of the highest bucket up to a limit that has one."""
        least_s, width_s = self._range(view)
        best: tuple[int, float] | None = None
        found: Choice | None = None
        for plans in view.worker.plans:
            longest = _whole_jobs(view, plans)
            for size in {max(1, round(len(longest) * share)): None for share in (*FINE_SHARES, 0.0)}:
                here = plans_for(plans, longest[:size])
                demands = demands_of(view, here, longest[:size], self.reach, ignore_soft=ignore_soft)
                planned = compose(here, demands, limit_s)
                if planned is None or planned.latency_s > limit_s:
                    continue
                beyond_s = planned.latency_s - least_s
                bucket = min(BUCKETS - 1, int(beyond_s / width_s)) if width_s > 0 else 0
                score = (bucket, planned.accuracy_sum)
                if best is None or score > best:
                    best, found = score, _choice(here, planned, ignore_soft)
        return found

    def _range(self, view: DispatchView) -> tuple[float, float]:
        """Return the least profiled latency and the width of a bucket. Units: profile seconds."""
        resident = tuple(stages.plans for stages in view.worker.stages.values())
        found = self._ranges.get(resident)
        if found is None:
            latencies_s: list[float] = []
            for plans in resident:
                everything = plans.allowed(view.model.index.all)
                for items in range(1, plans.model.max_batch + 1):
                    for here in {plans.at(0): None, plans: None}:  # the shortest bucket, and the longest
                        frontier = here.frontier(everything, items)
                        if frontier is not None and len(frontier):
                            latencies_s += (frontier.latency_s[0], frontier.latency_s[-1])
            least_s, most_s = min(latencies_s, default=0.0), max(latencies_s, default=0.0)
            found = self._ranges[resident] = (least_s, (most_s - least_s) / BUCKETS)
        return found


def _plans_of(plans: VariantPlans, taken: list[_Taken]) -> VariantPlans:
    return plans.at(max([entry.job.bucket for entry, _, _ in taken])) if plans.shorter else plans


def _whole_jobs(view: DispatchView, plans: VariantPlans) -> Taken:
    """Return the first jobs that fit into a batch of a variant, whole; of a larger one alone, as much as fits."""
    limit = left = min(plans.model.max_batch, view.max_batch)
    taken: Taken = []
    for entry in view.entries:
        items = entry.waiting_items
        if taken and (entry.alone or items > left):
            break
        taken.append((entry, min(items, limit)))
        left -= items
        if entry.alone or left <= 0:
            break
    return taken


def _may(entry: Waiting, plans: VariantPlans, at: int) -> bool:
    """Whether a job may be answered by a mode: its accuracy reaches the floor, or its class prefers deadlines."""
    return entry.terms.soft or plans.model.accuracy[at] >= entry.floor - FLOOR_TOLERANCE


def _choice(plans: VariantPlans, planned: Composition, ignore_soft: bool) -> Choice:
    shares = shares_of(planned, plans if ignore_soft else None)
    return Choice(plans=plans, shares=shares, latency_s=planned.latency_s)


def _least_so_far(view: DispatchView, taken: list[_Taken]) -> list[float]:
    """Return, for each run of the first jobs, the profile seconds until the earliest of their deadlines."""
    found: list[float] = []
    earliest_s = float("inf")
    for entry, _, _ in taken:
        earliest_s = min(earliest_s, entry.job.deadline_s)
        found.append(view.worker.calibration.profile_s(earliest_s - view.now_s))
    return found
