"""Policies to compare with: what a user would have instead."""

from __future__ import annotations

from poise.planning.service_model import VariantPlans
from poise.scheduling.batches import prefixes, shares_of, time_to_first_deadline
from poise.scheduling.composition import compose, demands_of
from poise.scheduling.view import Choice, DispatchView, Policy


class Edf(Policy):
    """Modality-agnostic earliest deadline first: every item by the most accurate mode.

    Takes as many waiting items as ``max_batch`` and the first job's deadline allow, whenever a worker is free.
    """

    name = "edf"

    def reach(self, plans: VariantPlans, available: int) -> int:
        """Only the most accurate set within the available modalities."""
        return plans.best_only(available)

    def choose(self, view: DispatchView) -> Choice | None:
        """Return the longest prefix of the queue that the first deadline allows."""
        plans = max(view.worker.plans, key=lambda p: max(p.model.accuracy))
        time_s = time_to_first_deadline(view)
        for jobs in prefixes(view, plans.model.max_batch, fine=True):
            planned = compose(plans, demands_of(view, plans, jobs, self.reach), 0.0)
            if planned is not None and planned.latency_s <= time_s:
                return Choice(plans=plans, shares=shares_of(planned), latency_s=planned.latency_s)
        return None
