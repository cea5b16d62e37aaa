"""A batch on a worker: whose items it answers, and what it does to the accuracy balances."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from poise.planning.service_model import VariantPlans
from poise.scheduling.balance import AccuracyBalance
from poise.scheduling.queue import Waiting


class RunningPart(msgspec.Struct, frozen=True):
    """Consecutive items of one job, answered by one modality set."""

    entry: Waiting
    first_item: int
    items: int
    modalities: int
    alone: bool


class RunningBatch:
    """Mutable: parts are added while it is formed; it ends in ``complete`` or ``give_back``."""

    __slots__ = ("_net", "_paid", "parts", "plans")

    def __init__(self, plans: VariantPlans) -> None:
        self.plans = plans
        self.parts: list[RunningPart] = []
        self._net: dict[str, float] = {}
        self._paid = False

    def predicted(self) -> tuple[float, float]:
        """What the profile's medians say of its stages, and of the way to the worker and back. Units: seconds."""
        counts = [0] * len(self.plans.model.sets)
        for part in self.parts:
            counts[self.plans.position[part.modalities]] += part.items
        stages_s = self.plans.median_stages.latency_s(counts)
        return stages_s, self.plans.median.latency_s(counts) - stages_s

    def add(self, part: RunningPart) -> None:
        """Add a part that was just taken from its job."""
        entry = part.entry
        accuracy = self.plans.model.accuracy[self.plans.position[part.modalities]]
        self.parts.append(part)
        entry.running += part.items
        entry.planned_items += part.items
        entry.accuracy_planned += accuracy * part.items
        if not entry.own_terms:
            net = (accuracy - entry.floor) * part.items
            self._net[entry.job.slo_class] = self._net.get(entry.job.slo_class, 0.0) + net

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
        answered = dict.fromkeys(self._net, 0.0)
        for part in self.parts:
            entry = part.entry
            if entry.doomed is None and not entry.own_terms:
                accuracy = self.plans.model.accuracy[self.plans.position[part.modalities]]
                gain = (accuracy - entry.floor) * part.items
                answered[entry.job.slo_class] += gain
                entry.banked += gain
        for slo_class, net in self._net.items():
            still = answered[slo_class] + max(0.0, -net)
            if still > 0:
                balances[slo_class].earn(still)
            elif still < 0:
                balances[slo_class].owe(-still)

    def complete(self) -> list[Waiting]:
        """Mark all items done; return the jobs, each once."""
        for part in self.parts:
            entry = part.entry
            entry.running -= part.items
            entry.done += part.items
            expected = self.plans.expected_accuracy[self.plans.position[part.modalities]]
            entry.expected_sum += expected * part.items
            entry.parts.append((part.first_item, part.items, part.modalities, self.plans.name))
        return list({id(part.entry): part.entry for part in self.parts}.values())

    def give_back(self) -> list[tuple[Waiting, int, bool]]:
        """Mark all items as still to be answered; return (job, items, counts), each job once. The caller queues them.

        A loss ``counts`` against a job that ran alone, or that never lost a batch before: of a job split over
        workers that all die at once, only one does.
        """
        returned: dict[int, tuple[Waiting, int, bool]] = {}
        for part in self.parts:
            entry = part.entry
            entry.running -= part.items
            entry.planned_items -= part.items
            accuracy = self.plans.model.accuracy[self.plans.position[part.modalities]]
            entry.accuracy_planned -= accuracy * part.items
            entry.lost.append((part.first_item, part.items))
            items = part.items + (returned[id(entry)][1] if id(entry) in returned else 0)
            returned[id(entry)] = (entry, items, part.alone or entry.deaths + entry.failures == 0)
        return list(returned.values())
