"""Everything the scheduler plans with, worked out once from a service and its profile."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from poise.domain.profile import WAY_STAGE, LatencyStatistic, Profile
from poise.domain.service import Device, Service
from poise.errors import ConfigError
from poise.planning.accuracy_bounds import promised_accuracy
from poise.planning.frontier import Frontier, FrontierTable, frontier_table
from poise.planning.latency_model import LatencyModel, latency_model, restrict

FLOOR_TOLERANCE = 1e-9

MOST_TABLES = 128
"""How many frontier tables are made with a variant's plans; further ones when a job first needs them."""

Tables = Mapping[int, FrontierTable]
"""Frontier tables by the key of the allowed modality sets (a bit mask over positions of the model's sets)."""


class FrontierStore(Protocol):
    """Keeps frontier tables from one run to the next."""

    def tables(
        self, name: str, model: LatencyModel, keys: tuple[int, ...], build: Callable[[], Tables]
    ) -> Tables:
        """Return the tables of a model for some keys: those kept under ``name``, else what ``build`` returns.

        The model determines its tables, so what is kept for another model is not used.
        """
        ...


class VariantPlans:
    """The frontiers of one variant on one kind of worker, by which modality sets are allowed.

    ``allowed`` keys are bit masks over positions of ``model.sets``. Where stages have buckets these are the plans of
    the longest; ``at`` gives those of another rung, which differ in latency only.
    """

    def __init__(
        self,
        name: str,
        model: LatencyModel,
        *,
        median: LatencyModel,
        median_stages: LatencyModel,
        expected: tuple[float, ...],
        shorter: tuple[VariantPlans, ...] = (),
    ) -> None:
        self.name = name
        self.shorter = shorter
        """The plans of each rung below the longest; none where no stage has more than one bucket."""
        self.model = model
        self.median = median
        """The same at the profile's medians; ``median_stages`` is that without the way to a worker."""
        self.median_stages = median_stages
        self.expected_accuracy = expected
        """Measured mean accuracy by position in ``model.sets`` (``model.accuracy`` is what is promised)."""
        self.dearest_item_s = max(
            (
                t
                for t in (model.latency_s(_one(s, len(model.sets))) for s in range(len(model.sets)))
                if t < math.inf
            ),
            default=0.0,
        )
        """The most that one item may take. Units: profile seconds."""
        self.position = {mask: s for s, mask in enumerate(model.sets)}
        self._tables: dict[int, FrontierTable] = {}
        self._frontiers: dict[int, list[Frontier | None]] = {}
        self._allowed: dict[tuple[int, int], int] = {}
        self._any_accuracy: dict[int, int] = {}
        self._sorted_accuracy = sorted(model.accuracy)

    def at(self, rung: int) -> VariantPlans:
        """Return the plans of batches whose longest item needs a rung: these, where there are no shorter ones."""
        shorter = self.shorter
        return shorter[rung] if rung < len(shorter) else self

    def allowed(self, available: int, least_accuracy: float = 0.0) -> int:
        """Return the key of the sets within the available modalities with at least some accuracy each."""
        if not least_accuracy:  # what most ask, several times a decision
            within = self._any_accuracy.get(available)
            if within is not None:
                return within
        # Kept by how many sets are accurate enough, not by the number itself, which may be any client's.
        worse = bisect_left(self._sorted_accuracy, least_accuracy - FLOOR_TOLERANCE)
        found = self._allowed.get((available, worse))
        if found is None:
            found = 0
            for s, (mask, accuracy) in enumerate(zip(self.model.sets, self.model.accuracy, strict=True)):
                if mask & ~available == 0 and accuracy >= least_accuracy - FLOOR_TOLERANCE:
                    found |= 1 << s
            self._allowed[available, worse] = found
        if not least_accuracy:
            self._any_accuracy[available] = found
        return found

    def best_only(self, available: int) -> int:
        """Return the key of the single most accurate set within the available modalities (0: none)."""
        best = None
        for s, (mask, accuracy) in enumerate(zip(self.model.sets, self.model.accuracy, strict=True)):
            if mask & ~available == 0 and (best is None or accuracy > self.model.accuracy[best]):
                best = s
        return 0 if best is None else 1 << best

    def frontier(self, allowed: int, batch: int) -> Frontier | None:
        """Return the frontier of a batch size over the allowed sets, or None beyond the largest batch."""
        if allowed == 0 or batch > self.model.max_batch:
            return None
        sizes = self._frontiers.get(allowed)
        if sizes is None:
            self.adopt({allowed: self.table(allowed)})
            sizes = self._frontiers[allowed]
        found = sizes[batch]
        if found is None:
            found = sizes[batch] = self._tables[allowed].frontier(batch)
        return found

    def table(self, allowed: int) -> FrontierTable:
        """Return the frontiers of all batch sizes over some sets, worked out now unless they were before."""
        found = self._tables.get(allowed)
        if found is None:
            found = frontier_table(self.restricted(allowed))
        return found

    def restricted(self, allowed: int) -> LatencyModel:
        """Return the model with the allowed sets only."""
        return restrict(self.model, [s for s in range(len(self.model.sets)) if allowed >> s & 1])

    def adopt(self, tables: Tables) -> None:
        """Keep tables that were worked out before."""
        for allowed, table in tables.items():
            self._tables[allowed] = table
            self._frontiers[allowed] = [None] * (self.model.max_batch + 1)

    def highest_accuracy(self, allowed: int) -> float:
        """Return the accuracy of the best allowed set; -inf where none is allowed."""
        return max((a for s, a in enumerate(self.model.accuracy) if allowed >> s & 1), default=-math.inf)


def _one(position: int, sets: int) -> list[int]:
    return [int(s == position) for s in range(sets)]


class ServiceModel:
    """The plans of every variant of a service, each worked out when it is first asked for.

    With them come the frontiers of every set of modalities that a job may have; with a ``store`` they are taken
    from it where it has them, and in scope ``job`` those within every accuracy floor are made too.
    """

    def __init__(self, service: Service, profile: Profile, store: FrontierStore | None = None) -> None:
        self._store = store
        self.service = service
        self.profile = profile
        self.index = service.modality_index
        self._plans: dict[tuple[str, int, str], VariantPlans] = {}

    def plans(self, variant: str, threads: int = 1, device: Device = "cpu") -> VariantPlans:
        """Return the plans of a variant at some threads on a device.

        Raises:
            ConfigError: the profile has no latency there, or stages that E1 cannot treat.
        """
        key = (variant, threads, device)
        found = self._plans.get(key)
        if found is None:
            found = self._plans[key] = self._build(variant, threads, device)
        return found

    def _build(self, variant: str, threads: int, device: Device) -> VariantPlans:
        longest = max(len(stage.buckets) for stage in self.profile.variant(variant).stages)
        try:
            shorter = tuple(
                self._plans_at(variant, threads, device, rung=rung) for rung in range(longest - 1)
            )
            return self._plans_at(variant, threads, device, shorter=shorter)
        except ValueError as error:
            raise ConfigError(
                f"variant {variant!r} with {threads} threads on {device}: {error}",
                file=self.service.profile,
                field="variants.stages",
            ) from None

    def _plans_at(
        self,
        variant: str,
        threads: int,
        device: Device,
        *,
        rung: int | None = None,
        shorter: tuple[VariantPlans, ...] = (),
    ) -> VariantPlans:
        settings = self.service.scheduler
        measured = self.profile.variant(variant)
        modes = sum(len(v.modes) for v in self.profile.variants)
        confidence = self.service.guarantee.confidence
        promised = {
            self.index.mask(mode.modalities): promised_accuracy(mode, confidence, modes)
            for mode in measured.modes
        }
        expected = {self.index.mask(mode.modalities): mode.accuracy for mode in measured.modes}

        def model(statistic: LatencyStatistic, without: str | None = None) -> LatencyModel:
            return latency_model(
                measured,
                self.index,
                statistic=statistic,
                threads=threads,
                max_batch=settings.max_batch,
                accuracy=promised,
                device=device,
                without=without,
                rung=rung,
            )

        planned = model(settings.latency)
        plans = VariantPlans(
            variant,
            planned,
            median=model("p50"),
            median_stages=model("p50", WAY_STAGE),
            expected=tuple(expected[m] for m in planned.sets),
            shorter=shorter,
        )
        name = f"{variant}/{threads}/{device}"
        plans.adopt(self._tables(name if rung is None else f"{name}/{rung}", plans))
        return plans

    def _tables(self, name: str, plans: VariantPlans) -> Tables:
        """Return the tables that are made with the plans, so that no job waits for one later."""
        keys = tuple(dict.fromkeys(self._keys(plans)))[:MOST_TABLES]

        def build() -> Tables:
            return {key: plans.table(key) for key in keys}

        return build() if self._store is None else self._store.tables(name, plans.model, keys, build)

    def _keys(self, plans: VariantPlans) -> Iterable[int]:
        """Yield the keys that jobs can call for, those that lack the fewest modalities first."""
        by_few_missing = sorted(self.index.every_set(), key=int.bit_count, reverse=True)
        yield from filter(None, map(plans.allowed, by_few_missing))
        if self._store is None or self.service.guarantee.scope != "job":
            return
        classes = self.service.classes.values()
        highest = max(slo.accuracy_floor if slo.max_floor is None else slo.max_floor for slo in classes)
        steps = sorted({a for a in plans.model.accuracy if a < highest})
        for available in by_few_missing:
            # A floor just above each accuracy leaves out one set more.
            for step in steps:
                key = plans.allowed(available, step + 2 * FLOOR_TOLERANCE)
                if key:
                    yield key
