"""The profile (``profile.json``): measured accuracy of every mode, measured latency of every stage."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from poise.domain.file_struct import FileStruct
from poise.domain.modalities import label_of
from poise.domain.quantities import (
    require_at_least_one,
    require_fraction,
    require_not_negative,
    require_positive,
    require_within,
)
from poise.domain.service import MAX_BATCH, Device

LatencyStatistic = Literal["mean", "p50", "p95", "p99"]
LONGEST_S = 1e6
"""A stage that takes longer than eleven days was not measured."""
WAY_STAGE = "way"
"""Name of the stage that is the cost of reaching a worker and back; every modality set uses it."""


class LatencyPoint(FileStruct, frozen=True, kw_only=True):
    """Latency of a stage at one (device, threads, busy cores, bucket, batch). Units: seconds.

    ``bucket`` is the length that the stage's inputs were padded to along their free axis; absent where they have
    none. Of several inputs with buckets it is that of the first one with most of them. Quantiles left out mean that
    the latency is constant. ``contaminated`` marks a point whose runs were disturbed by other load even after
    repetition.
    """

    device: Device = "cpu"
    threads: int = 1
    busy_cores: int | None = None
    bucket: int | None = None
    batch: int
    mean_s: float
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    runs: int | None = None
    contaminated: bool = False

    def __post_init__(self) -> None:
        require_at_least_one(self.threads, "threads")
        require_at_least_one(self.batch, "batch")
        if self.batch > MAX_BATCH:
            raise ValueError(f"got batch {self.batch}, expected at most {MAX_BATCH}")
        if self.bucket is not None:
            require_at_least_one(self.bucket, "bucket")
        require_within(self.mean_s, 0.0, LONGEST_S, "mean_s")
        last = 0.0
        for field in ("p50_s", "p95_s", "p99_s"):
            value = getattr(self, field)
            if value is not None:
                require_within(value, 0.0, LONGEST_S, field)
                if value < last:
                    raise ValueError(
                        f"got {field} {value!r} below a lower quantile, expected quantiles that rise"
                    )
                last = value

    def statistic(self, name: LatencyStatistic) -> float:
        """Return the latency in seconds that a statistic names; the next lower known one where it is absent."""
        known = {"mean": self.mean_s, "p50": self.p50_s, "p95": self.p95_s, "p99": self.p99_s}
        order: tuple[LatencyStatistic, ...] = ("p99", "p95", "p50", "mean")
        for candidate in order[order.index(name) :]:
            value = known[candidate]
            if value is not None:
                return value
        return self.mean_s


class StageProfile(FileStruct, frozen=True, kw_only=True):
    """One stage: which modality sets use it, and its latency points."""

    name: str
    modality_sets: tuple[tuple[str, ...], ...]
    latency: tuple[LatencyPoint, ...]

    def __post_init__(self) -> None:
        if not self.modality_sets:
            raise ValueError(f"stage {self.name!r}: got no modality_sets, expected those that use it")
        if not self.latency:
            raise ValueError(f"stage {self.name!r}: got no latency, expected at least one measured point")
        keys = [(p.device, p.threads, p.busy_cores, p.bucket, p.batch) for p in self.latency]
        if len(set(keys)) != len(keys):
            raise ValueError(
                f"stage {self.name!r}: a (device, threads, busy_cores, bucket, batch) stands twice in latency"
            )
        if len({p.bucket is None for p in self.latency}) > 1:
            raise ValueError(
                f"stage {self.name!r}: some points of latency have a bucket, expected all of them or none"
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the modality sets that use this stage."""
        return tuple(label_of(names) for names in self.modality_sets)

    @property
    def buckets(self) -> tuple[int, ...]:
        """The buckets it was measured at, rising; empty where it has none."""
        return tuple(sorted({p.bucket for p in self.latency if p.bucket is not None}))


class ModeProfile(FileStruct, frozen=True, kw_only=True):
    """Accuracy of one modality set of the variant, in [0, 1], over ``samples`` independent items."""

    modalities: tuple[str, ...]
    accuracy: float
    accuracy_std: float | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"got modalities {list(self.modalities)}, expected at least one, each once")
        require_fraction(self.accuracy, "accuracy")
        if self.accuracy_std is not None:
            require_not_negative(self.accuracy_std, "accuracy_std")
        if self.samples is not None:
            require_at_least_one(self.samples, "samples")

    @property
    def label(self) -> str:
        """Label of the modality set."""
        return label_of(self.modalities)


class CapacityPoint(FileStruct, frozen=True, kw_only=True):
    """Throughput of a variant that holds an SLO at p99 on some cores. Units: requests/s, seconds."""

    cores: int
    rps: float
    slo_s: float

    def __post_init__(self) -> None:
        require_at_least_one(self.cores, "cores")
        require_not_negative(self.rps, "rps")
        require_positive(self.slo_s, "slo_s")


class VariantProfile(FileStruct, frozen=True, kw_only=True):
    """Everything measured about one variant."""

    name: str
    load_time_s: float = 0.0
    memory_bytes: int = 0
    modes: tuple[ModeProfile, ...]
    stages: tuple[StageProfile, ...]
    capacity: tuple[CapacityPoint, ...] = ()

    def __post_init__(self) -> None:
        require_not_negative(self.load_time_s, "load_time_s")
        require_not_negative(self.memory_bytes, "memory_bytes")
        labels = [mode.label for mode in self.modes]
        if not labels or len(set(labels)) != len(labels):
            raise ValueError(f"variant {self.name!r}: expected at least one mode, each modality set once")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"variant {self.name!r}: expected at least one stage, each name once")
        covered = {label for stage in self.stages for label in stage.labels}
        missing = sorted(set(labels) - covered)
        if missing:
            raise ValueError(
                f"variant {self.name!r}: modes {missing} have no stage, expected one that lists them"
            )


class MachineFingerprint(FileStruct, frozen=True, kw_only=True):
    """The machine and runtime a profile was measured on."""

    cpu: str = ""
    cores: int = 0
    runtime: str = ""


class Profile(FileStruct, frozen=True, kw_only=True):
    """The profile of a service."""

    format: Literal[1]
    service: str
    files: dict[str, str] = {}
    device: MachineFingerprint = MachineFingerprint()
    variants: tuple[VariantProfile, ...]

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise ValueError("expected at least one variant, each name once")

    def variant(self, name: str) -> VariantProfile:
        """Return the profile of a variant; KeyError where it has none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)


def points_at(points: tuple[LatencyPoint, ...], bucket: int | None = None) -> tuple[LatencyPoint, ...]:
    """Return a stage's points for inputs of one length: those of the shortest bucket that holds it.

    ``bucket`` None stands for the longest. Points without buckets hold for any length.

    Raises:
        ValueError: no bucket measured is as long.
    """
    measured = sorted({p.bucket for p in points if p.bucket is not None})
    if not measured:
        return points
    chosen = measured[-1] if bucket is None else next((b for b in measured if b >= bucket), None)
    if chosen is None:
        raise ValueError(f"no latency measured at length {bucket}: the longest bucket is {measured[-1]}")
    return tuple(p for p in points if p.bucket == chosen)


def latency_table(
    points: tuple[LatencyPoint, ...],
    statistic: LatencyStatistic,
    *,
    threads: int,
    device: Device = "cpu",
    bucket: int | None = None,
) -> tuple[float, ...]:
    """Return ``L[0..max]``: the latency in seconds of each batch size, L[0] = 0.

    Of a stage with buckets it is the curve that ``points_at`` names: the longest bucket's unless told otherwise.

    Measured points are used as they are; between them latency is linear; the table ends at the largest
    measured batch. Of rows measured with different numbers of busy cores the one with the most counts.
    A first point above batch 1 stands for all smaller batches too (a batch of one cannot cost more than it).

    Raises:
        ValueError: no point at these threads on this device, or none at this bucket.
    """
    best: dict[int, LatencyPoint] = {}
    here = tuple(point for point in points if point.threads == threads and point.device == device)
    for point in points_at(here, bucket):
        held = best.get(point.batch)
        if held is None or (point.busy_cores or math.inf) > (held.busy_cores or math.inf):
            best[point.batch] = point
    if not best:
        raise ValueError(f"no latency measured with {threads} threads on {device}")
    batches = sorted(best)
    values = [best[batch].statistic(statistic) for batch in batches]
    table = [0.0] + [values[0]] * batches[0]
    for (low, at_low), (high, at_high) in pairwise(zip(batches, values, strict=True)):
        for batch in range(low + 1, high + 1):
            table.append(at_low + (at_high - at_low) * (batch - low) / (high - low))
    return tuple(table)
