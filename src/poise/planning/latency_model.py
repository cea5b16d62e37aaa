"""The latency of a mixed batch: ``l(x) = Σ_g L_g(n_g)``, with ``n_g`` the items whose modality set uses stage g."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from poise.domain.modalities import ModalityIndex
from poise.domain.profile import LatencyStatistic, StageProfile, VariantProfile, latency_table, points_at
from poise.domain.service import Device


class StageGroup(msgspec.Struct, frozen=True):
    """All stages that the same modality sets use, as one curve.

    Shapes: ``uses[s]`` says whether modality set *s* uses it; ``table[n]`` is the latency in seconds of *n*
    items, infinite beyond the largest measured batch.
    """

    uses: tuple[bool, ...]
    table: tuple[float, ...]


class LatencyModel(msgspec.Struct, frozen=True):
    """A variant's modes and stage curves at one (threads, device, statistic).

    Shapes: ``sets`` are modality masks, ``accuracy`` one number in [0, 1] for each. Units: seconds.
    """

    sets: tuple[int, ...]
    accuracy: tuple[float, ...]
    groups: tuple[StageGroup, ...]
    max_batch: int

    def latency_s(self, counts: Sequence[int]) -> float:
        """Return the latency of a batch with ``counts[s]`` items of modality set *s*; infinite if not measured."""
        total = 0.0
        for group in self.groups:
            items = sum(count for count, used in zip(counts, group.uses, strict=True) if used)
            if items >= len(group.table):
                return math.inf
            total += group.table[items]
        return total


def latency_model(
    profile: VariantProfile,
    index: ModalityIndex,
    *,
    statistic: LatencyStatistic,
    threads: int,
    max_batch: int,
    accuracy: dict[int, float] | None = None,
    device: Device = "cpu",
    without: str | None = None,
    rung: int | None = None,
) -> LatencyModel:
    """Build the model of a variant from its profile, leaving out the stage named ``without``.

    Stages with buckets take the curve of a ``rung``, the position of one of their buckets; None is the longest.
    ``accuracy`` replaces the measured means by mask, where a promise is held against bounds. The largest batch
    is the smaller of ``max_batch`` and the largest that every stage was measured at, at each of its buckets: a
    larger job is split, and a batch that only some modality sets could take would leave the others' items waiting.

    Raises:
        ValueError: a stage has no latency at these threads on this device, or none at this rung.
    """
    measured = {index.mask(mode.modalities): mode.accuracy for mode in profile.modes}
    sets = tuple(sorted(measured))
    values = measured if accuracy is None else accuracy
    merged: dict[tuple[bool, ...], list[float]] = {}
    limit = max_batch
    for stage in profile.stages:
        masks = {index.mask(names) for names in stage.modality_sets}
        uses = tuple(mask in masks for mask in sets)
        if not any(uses) or stage.name == without:
            continue
        bucket = bucket_at(stage, rung)
        table = latency_table(stage.latency, statistic, threads=threads, device=device, bucket=bucket)
        limit = min(limit, _largest_batch(stage, threads, device))
        known = merged.get(uses)
        merged[uses] = list(table) if known is None else [a + b for a, b in zip(known, table, strict=False)]
    groups = tuple(StageGroup(uses=uses, table=tuple(table[: limit + 1])) for uses, table in merged.items())
    return LatencyModel(
        sets=sets, accuracy=tuple(values[mask] for mask in sets), groups=groups, max_batch=limit
    )


def bucket_at(stage: StageProfile, rung: int | None) -> int | None:
    """Return the bucket of a stage at a rung; its longest beyond the last, None where it has none or for rung None."""
    buckets = stage.buckets
    return None if rung is None or not buckets else buckets[min(rung, len(buckets) - 1)]


def _largest_batch(stage: StageProfile, threads: int, device: Device) -> int:
    """Return the largest batch that a stage was measured at, at each of the buckets it has there."""
    here = tuple(point for point in stage.latency if point.threads == threads and point.device == device)
    buckets = {point.bucket for point in here}
    return min(max(point.batch for point in points_at(here, bucket)) for bucket in buckets)


def restrict(model: LatencyModel, allowed: Sequence[int]) -> LatencyModel:
    """Return the model with only some of its modality sets, given as positions in ``sets``."""
    return LatencyModel(
        sets=tuple(model.sets[s] for s in allowed),
        accuracy=tuple(model.accuracy[s] for s in allowed),
        groups=tuple(
            StageGroup(uses=tuple(group.uses[s] for s in allowed), table=group.table)
            for group in model.groups
            if any(group.uses[s] for s in allowed)
        ),
        max_batch=model.max_batch,
    )
