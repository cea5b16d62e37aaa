"""Everything the scheduler plans with, worked out once from a service and its profile."""

from __future__ import annotations

import math
from bisect import bisect_left

from poise.domain.profile import WAY_STAGE, LatencyStatistic, Profile
from poise.domain.service import Device, Service
from poise.errors import ConfigError
from poise.planning.accuracy_bounds import promised_accuracy
from poise.planning.frontier import Frontier, frontiers
from poise.planning.latency_model import LatencyModel, latency_model, restrict

FLOOR_TOLERANCE = 1e-9


class VariantPlans:
    """The frontiers of one variant on one kind of worker, by which modality sets are allowed.

    ``allowed`` keys are bit masks over positions of ``model.sets``.
    """

    def __init__(
        self,
        name: str,
        model: LatencyModel,
        *,
        median: LatencyModel,
        median_stages: LatencyModel,
        expected: tuple[float, ...],
    ) -> None:
        self.name = name
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
        self._frontiers: dict[int, tuple[Frontier, ...]] = {}
        self._allowed: dict[tuple[int, int], int] = {}
        self._sorted_accuracy = sorted(model.accuracy)

    def allowed(self, available: int, least_accuracy: float = 0.0) -> int:
        """Return the key of the sets within the available modalities with at least some accuracy each."""
        # Kept by how many sets are accurate enough, not by the number itself, which may be any client's.
        worse = bisect_left(self._sorted_accuracy, least_accuracy - FLOOR_TOLERANCE)
        found = self._allowed.get((available, worse))
        if found is None:
            found = 0
            for s, (mask, accuracy) in enumerate(zip(self.model.sets, self.model.accuracy, strict=True)):
                if mask & ~available == 0 and accuracy >= least_accuracy - FLOOR_TOLERANCE:
                    found |= 1 << s
            self._allowed[available, worse] = found
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
        found = self._frontiers.get(allowed)
        if found is None:
            positions = [s for s in range(len(self.model.sets)) if allowed >> s & 1]
            found = self._frontiers[allowed] = frontiers(restrict(self.model, positions))
        return found[batch]

    def highest_accuracy(self, allowed: int) -> float:
        """Return the accuracy of the best allowed set; -inf where none is allowed."""
        return max((a for s, a in enumerate(self.model.accuracy) if allowed >> s & 1), default=-math.inf)


def _one(position: int, sets: int) -> list[int]:
    return [int(s == position) for s in range(sets)]


class ServiceModel:
    """The plans of every variant of a service. Built once; frontiers are worked out as they are first used."""

    def __init__(self, service: Service, profile: Profile) -> None:
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
            )

        try:
            planned = model(settings.latency)
            plans = VariantPlans(
                variant,
                planned,
                median=model("p50"),
                median_stages=model("p50", WAY_STAGE),
                expected=tuple(expected[m] for m in planned.sets),
            )
            for available in self._worked_out_at_once():
                plans.frontier(plans.allowed(available), planned.max_batch)
        except ValueError as error:
            raise ConfigError(
                f"variant {variant!r} with {threads} threads on {device}: {error}",
                file=self.service.profile,
                field="variants.stages",
            ) from None
        return plans

    def _worked_out_at_once(self) -> tuple[int, ...]:
        """Availabilities whose frontiers are made with the plans, so that no first job waits for them.

        With four modalities or more only the whole set: each table takes a second or so.
        """
        return self.index.every_set() if len(self.index.names) < 4 else (self.index.all,)
