"""A batch on a worker: whose items it answers, and what it does to the accuracy balances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from poise.planning.service_model import VariantPlans
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.commands import Answer, AnswerPart, BatchPart
from poise.scheduling.queue import Waiting
from poise.scheduling.view import Share


class RunningBatch:
    """Mutable: jobs are added while it is formed; it ends in ``complete`` or ``give_back``.

    Shapes: ``entries[i]`` is the job of ``parts[i]``. ``alone``: its one job was to run alone.
    """

    __slots__ = ("_net", "_paid", "alone", "entries", "parts", "plans")

    def __init__(self, plans: VariantPlans) -> None:
        self.plans = plans
        self.entries: list[Waiting] = []
        self.parts: list[BatchPart] = []
        self.alone = False
        self._net: dict[str, float] = {}
        self._paid = False

    def counts(self) -> list[int]:
        """How many items each modality set answers, in the order of the model's sets."""
        counts = [0] * len(self.plans.model.sets)
        position = self.plans.position
        for part in self.parts:
            counts[position[part.modalities]] += part.items
        return counts

    def rungs(self) -> list[int]:
        """The longest rung of the items that each modality set answers, in the order of the model's sets."""
        rungs = [0] * len(self.plans.model.sets)
        position = self.plans.position
        for part in self.parts:
            at = position[part.modalities]
            rungs[at] = max(rungs[at], part.bucket)
        return rungs

    def add(self, entry: Waiting, counts: tuple[tuple[int, int], ...]) -> None:
        """Take some items of a job, split over modality sets."""
        accuracy, position = self.plans.model.accuracy, self.plans.position
        promised = 0.0
        if len(counts) == 1 and entry.next_item == 0 and counts[0][1] == entry.job.items:
            mask, total = counts[0]
            entry.waiting_items = 0
            entry.next_item = total
            promised = accuracy[position[mask]] * total
            self.entries.append(entry)
            self.parts.append(BatchPart(entry.job.id, 0, total, mask, entry.job.bucket))
        else:
            total = sum(items for _, items in counts)
            left = list(counts)
            for first, items in entry.take(total):
                start = first
                while start < first + items:
                    mask, most = left[0]
                    used = min(most, first + items - start)
                    promised += accuracy[position[mask]] * used
                    self.entries.append(entry)
                    self.parts.append(BatchPart(entry.job.id, start, used, mask, entry.job.bucket))
                    start += used
                    left[0] = (mask, most - used)
                    if used == most:
                        left.pop(0)
        entry.running += total
        entry.planned_items += total
        entry.accuracy_planned += promised
        if entry.alone:
            self.alone = True
        if not entry.own_terms:
            name = entry.job.slo_class
            self._net[name] = self._net.get(name, 0.0) + promised - entry.floor * total

    def take(self, shares: Iterable[Share], now_s: float) -> tuple[list[Waiting], int]:
        """Take all parts of a choice; return the jobs, and how many items they are in all."""
        taken: list[Waiting] = []
        total = 0
        for share in shares:
            entry = share.entry
            before = entry.planned_items
            self.add(entry, share.counts)
            total += entry.planned_items - before
            if share.below_floor:
                entry.below_floor = True
            if entry.dispatched_s is None:
                entry.dispatched_s = now_s
            taken.append(entry)
        return taken, total

    def pairs(self) -> Iterable[tuple[Waiting, BatchPart]]:
        """Return the job of each part, and the part."""
        return zip(self.entries, self.parts, strict=True)

    def spend_debts(self, balances: Mapping[str, AccuracyBalance]) -> None:
        """Book what the batch owes each class's balance; gains wait until it is answered."""
        self._paid = True
        for slo_class, net in self._net.items():
            if net < 0:
                balances[slo_class].spend(-net)

    def return_credit(self, balances: Mapping[str, AccuracyBalance]) -> None:
        """Give back what was booked: the batch was not answered."""
        for slo_class, net in self._net.items():
            if self._paid and net < 0:
                balances[slo_class].earn(-net)

    def settle_balances(self, balances: Mapping[str, AccuracyBalance]) -> None:
        """Book what the answered batch adds to each class's balance; items of clients that left add nothing."""
        if not self._paid:
            return
        accuracy, position = self.plans.model.accuracy, self.plans.position
        answered: dict[str, float] = {}
        for entry, part in zip(self.entries, self.parts, strict=True):
            if entry.doomed is None and not entry.own_terms:
                gain = (accuracy[position[part.modalities]] - entry.floor) * part.items
                name = entry.job.slo_class
                answered[name] = answered.get(name, 0.0) + gain
                entry.banked += gain
        for slo_class, net in self._net.items():
            still = answered.get(slo_class, 0.0)
            if net < 0:
                still -= net
            if still > 0:
                balances[slo_class].earn(still)
            elif still < 0:
                balances[slo_class].owe(-still)

    def complete(self) -> list[Waiting]:
        """Mark all items done; return the jobs, each once."""
        expected, position, name = self.plans.expected_accuracy, self.plans.position, self.plans.name
        jobs: list[Waiting] = []
        last: Waiting | None = None
        for entry, part in zip(self.entries, self.parts, strict=True):
            items = part.items
            entry.running -= items
            entry.done += items
            entry.expected_sum += expected[position[part.modalities]] * items
            entry.parts.append((part.first_item, items, part.modalities, name))
            if entry is not last:  # a job's parts stand together
                jobs.append(entry)
                last = entry
        return jobs

    def give_back(self) -> list[tuple[Waiting, int, bool]]:
        """Mark all items as still to be answered; return (job, items, counts), each job once. The caller queues them.

        A loss ``counts`` against a job that ran alone, or that never lost a batch before: of a job split over
        workers that all die at once, only one does.
        """
        accuracy, position = self.plans.model.accuracy, self.plans.position
        returned: dict[int, tuple[Waiting, int, bool]] = {}
        for entry, part in self.pairs():
            entry.running -= part.items
            entry.planned_items -= part.items
            entry.accuracy_planned -= accuracy[position[part.modalities]] * part.items
            entry.give_back(part.first_item, part.items)
            items = part.items + (returned[entry.job.id][1] if entry.job.id in returned else 0)
            returned[entry.job.id] = (entry, items, self.alone or entry.deaths + entry.failures == 0)
        return list(returned.values())


def answer_of(entry: Waiting, now_s: float) -> Answer:
    """Return the answer of a job whose items are all done."""
    job, parts = entry.job, entry.parts
    started_s = job.arrival_s if entry.dispatched_s is None else entry.dispatched_s
    if len(parts) > 1:
        parts.sort()
        answered = tuple([AnswerPart(*part) for part in parts])
    else:
        answered = (AnswerPart(*parts[0]),)
    queue_s, compute_s = started_s - job.arrival_s, now_s - started_s
    return Answer(
        job.id,
        answered,
        entry.expected_sum / job.items,
        queue_s if queue_s > 0.0 else 0.0,
        compute_s if compute_s > 0.0 else 0.0,
        now_s > job.deadline_s,
        entry.below_floor,
    )
