"""The latency of every stage at every batch size, bucket and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import NUMPY_TYPE
from poise.domain.profile import LatencyPoint
from poise.domain.service import Service
from poise.files import LabelledItems
from poise.profiling.timing import CoreStopwatch, quiet_collector, time_calls
from poise.runtimes import StagedRunner, stage_modalities, stages_of
from poise.runtimes.machine import first_in_line, pinned
from poise.runtimes.tensors import padded

StageKey = tuple[str, str]
"""(variant, stage)."""


class StagePoint(msgspec.Struct, frozen=True):
    """What is timed: a stage of a variant at one batch size, its inputs padded to a rung (None: they have none)."""

    variant: str
    stage: str
    batch: int
    rung: int | None
    bucket: int | None


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, … and the largest batch itself."""
    return tuple(sorted({2**power for power in range(max_batch.bit_length())} | {max_batch}))


def sample_inputs(
    service: Service, items: LabelledItems | None, capacity: int, rung: int | None = None
) -> dict[str, NDArray[Any]]:
    """Return inputs to time with: validation items, over again where they are few, or noise where there are none.

    A free length is that of a rung, None the longest: items are cut to it, or padded with zeros.

    Shapes: [capacity, …] by input name.
    Raises:
        ConfigError: validation items longer than the longest bucket.
    """
    specs = service.inputs_of(service.modalities)
    if items is not None:
        rows = np.arange(capacity) % len(items)
        whole = padded({name: array[rows] for name, array in items.inputs.items()}, specs)
        return {
            name: np.ascontiguousarray(whole[name][(slice(None), *map(slice, spec.shape_at(rung)))])
            for name, spec in specs.items()
        }
    generator = np.random.default_rng(0)
    inputs: dict[str, NDArray[Any]] = {}
    for name, spec in specs.items():
        numpy_type = NUMPY_TYPE[spec.datatype]
        shape = (capacity, *spec.shape_at(rung))
        if np.issubdtype(numpy_type, np.floating):
            inputs[name] = generator.normal(size=shape).astype(numpy_type)
        else:  # small numbers, which are valid as indices too
            inputs[name] = generator.integers(0, 2, shape).astype(numpy_type)
    return inputs


def stage_points(service: Service, variants: Iterable[str]) -> list[StagePoint]:
    """Return all that is to be timed: each stage of some variants at each of its buckets and each batch size."""
    return [
        StagePoint(variant, stage, batch, rung, bucket)
        for variant in variants
        for stage, _ in stages_of(service, variant)
        for rung, bucket in tuple(enumerate(service.buckets_of(stage_modalities(service, stage))))
        or ((None, None),)
        for batch in batch_sizes(service.scheduler.max_batch)
    ]


def measure_latency(
    service: Service,
    runners: Mapping[str, StagedRunner],
    items: LabelledItems | None,
    *,
    threads: int,
    cores: Sequence[int],
    budget_s: float,
    on_round: Callable[[float], None] = lambda done_frac: None,
) -> dict[StageKey, list[LatencyPoint]]:
    """Time all stages of all variants, interleaved, on some cores that this thread is pinned to meanwhile.

    Inputs are ``sample_inputs`` of the validation items.

    Raises:
        ConfigError: validation items longer than the longest bucket.
        WorkerError: a model failed.
    """
    points = stage_points(service, runners)
    inputs = {
        rung: sample_inputs(service, items, service.scheduler.max_batch, rung)
        for rung in {p.rung for p in points}
    }
    calls = [runners[p.variant].stage_call(p.stage, inputs[p.rung], np.arange(p.batch)) for p in points]
    stopwatch = CoreStopwatch(waits=threads > 1)
    with pinned(cores), first_in_line(), quiet_collector():
        timed = time_calls(
            calls, stopwatch, budget_s=budget_s, generator=np.random.default_rng(0), on_round=on_round
        )
    found: dict[StageKey, list[LatencyPoint]] = {}
    for point, result in zip(points, timed, strict=True):
        summary = result.summary(batch=point.batch, threads=threads, busy_cores=1, bucket=point.bucket)
        found.setdefault((point.variant, point.stage), []).append(summary)
    return found
