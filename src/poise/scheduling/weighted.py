"""The policy ``weighted``: each job is given a variant at arrival, by the shares of the allocation."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from poise.planning.service_model import FLOOR_TOLERANCE, VariantPlans
from poise.scheduling.batches import batch_latency_s
from poise.scheduling.queue import Waiting
from poise.scheduling.view import Choice, DispatchView, Policy, QueueView, Share, WorkerState


class SmoothRoundRobin:
    """Smooth weighted round robin: names in proportion to their weights, none twice in a row more than need be.

    Each name has a running value, at first zero. To pick, every eligible name's value grows by its weight; the highest
    is picked, the first of several, and pays the sum of what was added. Weights 5, 1, 1 so give a a b a c a a, and
    values of zero again.

    Source: nginx's upstream balancer, which InfAdapter's (EuroMLSys 2023) dispatcher follows.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._values = dict.fromkeys(self.weights, 0.0)

    def pick(self, eligible: Collection[str]) -> str | None:
        """Return the next of the eligible names; None where no name with a weight is eligible."""
        added, best = 0.0, None
        values = self._values
        for name, weight in self.weights.items():
            if name in eligible:
                added += weight
                values[name] += weight
                if best is None or values[name] > values[best]:
                    best = name
        if best is not None:
            values[best] -= added
        return best


class Weighted(Policy):
    """A variant for each job at arrival, in proportion to the allocation's shares; the dispatcher of InfAdapter.

    Source: InfAdapter (EuroMLSys 2023, arXiv 2304.10892), whose dispatcher sends each request to a variant by weighted
    round robin as it arrives. The weights are the shares of the job's class, over the variants that a live worker
    holds and that reach the job's floor. Where none of these has a share (nothing adopted, only zeros, the variants
    gone) they have equal ones. A worker serves the jobs given to a variant that it holds, in order of arrival, one
    variant in a batch, each job by the variant's most accurate mode for its modalities, in batches as large as wait.
    When a variant's last worker goes, its waiting jobs are given anew. Nothing is refused for its deadline, and
    answers may be late.
    """

    name = "weighted"
    admits = False
    order = "arrival"
    plans_ahead = True
    binds = True

    def __init__(self) -> None:
        self._lines: dict[str, deque[Waiting]] = {}
        """The jobs given to each variant, in order; those that have left meanwhile are passed over."""
        self._robins: dict[tuple[str, bool], SmoothRoundRobin] = {}
        """By class, and whether its shares count or equal ones."""
        self._revision = -1
        self._held: dict[str, VariantPlans] = {}
        """What live workers hold; their accuracies do not depend on the worker."""

    def reach(self, plans: VariantPlans, available: int) -> int:
        """Only the most accurate set within the available modalities."""
        return plans.best_only(available)

    def arrived(self, view: QueueView, entry: Waiting) -> Sequence[Waiting]:
        """Give a job its variant."""
        if not self._keep_up(view.revision, view.workers, view.queue.entries, view.shares):
            self._give(entry, view.shares)
        return ()

    def may_take(self, worker: WorkerState, entry: Waiting) -> bool:
        """Whether a job was given to a variant that a worker holds."""
        return entry.plan in worker.stages

    def choose(self, view: DispatchView) -> Choice | None:
        """Return the jobs of one variant that have waited longest; None where none waits for this worker."""
        self._keep_up(view.revision, view.workers, view.queue.entries, view.shares)
        best: tuple[tuple[float, int], VariantPlans] | None = None
        for plans in view.worker.plans:
            first = self._first(plans.name)
            if first is not None:
                found = ((first.job.arrival_s, first.job.id), plans)
                if best is None or found[0] < best[0]:
                    best = found
        return None if best is None else self._batch(view, best[1])

    def _batch(self, view: DispatchView, plans: VariantPlans) -> Choice | None:
        limit = left = min(plans.model.max_batch, view.max_batch)
        counts = [0] * len(plans.model.sets)
        shares: list[Share] = []
        rung = 0
        for entry in self._waiting(plans.name):
            at, items = _mode_of(plans, entry), entry.waiting_items
            if at is None or (shares and (items > left or entry.alone)):
                break
            taken = min(items, limit)
            counts[at] += taken
            rung = max(rung, entry.job.bucket)
            below = plans.model.accuracy[at] < entry.floor - FLOOR_TOLERANCE
            shares.append(Share(entry, ((plans.model.sets[at], taken),), below_floor=below))
            left -= taken
            if left <= 0 or entry.alone:
                break
        if not shares:
            return None
        return Choice(plans, tuple(shares), batch_latency_s(plans.at(rung), counts))

    def _first(self, variant: str) -> Waiting | None:
        """Return the first job that waits for a variant, and drop those before it that have left."""
        line = self._lines.get(variant)
        while line:
            if _waits(line[0], variant):
                return line[0]
            line.popleft()
        return None

    def _waiting(self, variant: str) -> Iterator[Waiting]:
        return (entry for entry in self._lines[variant] if _waits(entry, variant))

    def _keep_up(
        self,
        revision: int,
        workers: Iterable[WorkerState],
        entries: Iterable[Waiting],
        shares: Mapping[str, Mapping[str, float]],
    ) -> bool:
        """Line the waiting jobs up anew if workers of another kind came or went, or items came back; say whether."""
        if revision == self._revision:
            return False
        self._revision = revision
        residents = {worker.resident: worker for worker in workers}
        held = {name: s.plans for worker in residents.values() for name, s in worker.stages.items()}
        self._held = dict(sorted(held.items()))
        self._lines = {name: deque() for name in self._held}
        for entry in entries:
            line = self._lines.get(entry.plan) if isinstance(entry.plan, str) else None
            if line is None:
                self._give(entry, shares)
            else:
                line.append(entry)
        return True

    def _give(self, entry: Waiting, shares: Mapping[str, Mapping[str, float]]) -> None:
        """Put a job in the line of the variant whose turn it is."""
        able = [name for name, plans in self._held.items() if _may(plans, entry)]
        weights = shares.get(entry.job.slo_class, {})
        adopted = any(name in weights for name in able)
        if not adopted:
            weights = dict.fromkeys(self._held, 1.0)
        key = (entry.job.slo_class, adopted)
        robin = self._robins.get(key)
        if robin is None or robin.weights != weights:
            robin = self._robins[key] = SmoothRoundRobin(weights)
        entry.plan = robin.pick(able)
        if isinstance(entry.plan, str):
            self._lines[entry.plan].append(entry)


def _waits(entry: Waiting, variant: str) -> bool:
    return entry.queued and entry.plan == variant


def _mode_of(plans: VariantPlans, entry: Waiting) -> int | None:
    """Return the place in ``sets`` of a variant's most accurate mode for a job; None where it has none."""
    key = plans.best_only(entry.job.available)
    return key.bit_length() - 1 if key else None


def _may(plans: VariantPlans, entry: Waiting) -> bool:
    """Whether a variant's most accurate mode reaches a job's floor, or its class prefers deadlines."""
    at = _mode_of(plans, entry)
    if at is None:
        return False
    return entry.terms.soft or plans.model.accuracy[at] >= entry.floor - FLOOR_TOLERANCE
