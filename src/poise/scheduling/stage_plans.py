"""A variant's stages by name: what the profile predicts of each; plans with stages that take longer than it says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from poise.domain.modalities import ModalityIndex
from poise.domain.profile import WAY_STAGE, LatencyStatistic, VariantProfile, latency_table
from poise.domain.service import Device
from poise.planning.frontier import Frontier
from poise.planning.latency_model import StageGroup, bucket_at
from poise.planning.service_model import VariantPlans
from poise.scheduling.calibration import Shape

MOST_SHAPES = 64
"""Plans for so many shapes of a variant are kept."""
MOST_PREDICTED = 4096
"""What is predicted of so many different batches of a variant is kept."""


class _Stage(msgspec.Struct, frozen=True):
    """One stage. Shapes: ``uses[s]`` says whether modality set *s* uses it; both tables by rung and items, in seconds.

    The last rung is the longest; there is one where the variant has no buckets.
    """

    name: str
    uses: tuple[bool, ...]
    median_s: tuple[tuple[float, ...], ...]
    planned_s: tuple[tuple[float, ...], ...]


class StagePlans:
    """The stages of a variant on one kind of worker."""

    def __init__(
        self,
        profile: VariantProfile,
        plans: VariantPlans,
        index: ModalityIndex,
        *,
        statistic: LatencyStatistic,
        threads: int,
        device: Device,
    ) -> None:
        self.plans = plans
        self._stages: list[_Stage] = []
        for stage in profile.stages:
            masks = {index.mask(names) for names in stage.modality_sets}
            buckets = [bucket_at(stage, rung) for rung in (*range(len(plans.shorter)), None)]
            median, planned = (
                tuple(
                    latency_table(stage.latency, name, threads=threads, device=device, bucket=bucket)
                    for bucket in buckets
                )
                for name in ("p50", statistic)
            )
            uses = tuple(mask in masks for mask in plans.model.sets)
            self._stages.append(_Stage(stage.name, uses, median, planned))
        self._shaped: dict[Shape, VariantPlans] = {(): plans}
        self._predicted: dict[tuple[int, ...], tuple[dict[str, float], float]] = {}

    def predicted(
        self, counts: Sequence[int], rungs_of: Callable[[], Sequence[int]] | None = None
    ) -> tuple[Mapping[str, float], float]:
        """Return the median time of each stage of a batch, and of the way to the worker and back. Units: seconds.

        A stage runs at the longest rung of the items that use it; where those are not told, at the longest of all.
        ``rungs_of`` is called where there are several.

        Shapes: ``counts[s]`` items of modality set *s*, in the order of the model's sets, the longest of which needs
        rung ``rungs_of()[s]``.
        """
        longest = len(self.plans.shorter)
        if longest and rungs_of is not None:
            return self._reckon(counts, rungs_of())
        key = tuple(counts)
        found = self._predicted.get(key)
        if found is None:
            if len(self._predicted) >= MOST_PREDICTED:
                self._predicted.clear()
            found = self._predicted[key] = self._reckon(counts, None)
        return found

    def _reckon(self, counts: Sequence[int], rungs: Sequence[int] | None) -> tuple[dict[str, float], float]:
        found: dict[str, float] = {}
        way_s = 0.0
        longest = len(self.plans.shorter)
        for stage in self._stages:
            items = 0
            for count, used in zip(counts, stage.uses, strict=True):
                if used:
                    items += count
            if items:
                rung = longest if rungs is None else min(longest, _rung_of(stage.uses, counts, rungs))
                time_s = stage.median_s[rung][items]
                if stage.name == WAY_STAGE:
                    way_s = time_s
                else:
                    found[stage.name] = time_s
        return found, way_s

    def shaped(self, shape: Shape) -> VariantPlans:
        """Return the plans with each named stage's times multiplied by its factor."""
        found = self._shaped.get(shape)
        if found is None:
            if len(self._shaped) >= MOST_SHAPES:
                self._shaped = {(): self.plans}
            found = self._shaped[shape] = ShapedPlans(self.plans, self._stages, dict(shape))
        return found


def _rung_of(uses: Sequence[bool], counts: Sequence[int], rungs: Sequence[int]) -> int:
    """Return the longest rung of the items that use a stage."""
    return max(rung for rung, count, used in zip(rungs, counts, uses, strict=True) if used and count)


class ShapedPlans(VariantPlans):
    """Plans whose points are those of the profile's frontiers, with other latencies.

    A point that the profile's frontier leaves out as dominated stays out, though under these latencies it might not
    be: to work the frontiers out again would take longer than a decision may.
    """

    def __init__(
        self,
        plans: VariantPlans,
        stages: Sequence[_Stage],
        factors: Mapping[str, float],
        rung: int = -1,
    ) -> None:
        """Reshape the plans of a rung (the last is the longest), and of those shorter than it."""
        self.__dict__.update(copy.copy(plans.__dict__))
        self._plain = plans
        self.shorter = tuple(
            ShapedPlans(other, stages, factors, below) for below, other in enumerate(plans.shorter)
        )
        self._cache: dict[tuple[int, int], Frontier | None] = {}
        size = plans.model.max_batch + 1
        groups: dict[tuple[bool, ...], list[float]] = {}
        for stage in stages:
            if any(stage.uses):
                table = [time_s * factors.get(stage.name, 1.0) for time_s in stage.planned_s[rung][:size]]
                known = groups.get(stage.uses)
                groups[stage.uses] = (
                    table if known is None else [a + b for a, b in zip(known, table, strict=True)]
                )
        self.model = msgspec.structs.replace(
            plans.model,
            groups=tuple(StageGroup(uses=uses, table=tuple(table)) for uses, table in groups.items()),
        )

    def frontier(self, allowed: int, batch: int) -> Frontier | None:
        """Return the profile's frontier with these latencies, without what is dominated now."""
        key = (allowed, batch)
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._reckon(self._plain.frontier(allowed, batch))
        return found

    def _reckon(self, plain: Frontier | None) -> Frontier | None:
        if plain is None or not len(plain):
            return plain
        columns = [self.position[mask] for mask in plain.sets]
        latency = np.zeros(len(plain))
        for group in self.model.groups:
            uses = np.array([group.uses[s] for s in columns])
            latency += np.asarray(group.table)[plain.counts @ uses]
        accuracy = np.asarray(plain.accuracy)
        order = np.lexsort((-accuracy, latency))
        best = np.maximum.accumulate(np.concatenate(([-np.inf], accuracy[order][:-1])))
        kept = order[accuracy[order] > best]
        return Frontier(
            plain.batch, plain.sets, latency[kept].tolist(), accuracy[kept].tolist(), plain.counts[kept]
        )
