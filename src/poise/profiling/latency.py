"""The latency of every stage at every batch size and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import NUMPY_TYPE
from poise.domain.profile import LatencyPoint
from poise.domain.service import Service
from poise.files import LabelledItems
from poise.profiling.timing import CoreStopwatch, quiet_collector, time_calls
from poise.runtimes import StagedRunner, stages_of
from poise.runtimes.machine import first_in_line, pinned
from poise.runtimes.tensors import fixed_shape

StageKey = tuple[str, str]
"""(variant, stage)."""


class StagePoint(msgspec.Struct, frozen=True):
    """What is timed: a stage of a variant at one batch size."""

    variant: str
    stage: str
    batch: int


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, … and the largest batch itself."""
    return tuple(sorted({2**power for power in range(max_batch.bit_length())} | {max_batch}))


def sample_inputs(service: Service, items: LabelledItems | None, capacity: int) -> dict[str, NDArray[Any]]:
    """Return inputs to time with: validation items, over again where they are few, or noise where there are none.

    Shapes: [capacity, …] by input name.
    """
    if items is not None:
        rows = np.arange(capacity) % len(items)
        return {name: np.ascontiguousarray(array[rows]) for name, array in items.inputs.items()}
    generator = np.random.default_rng(0)
    inputs: dict[str, NDArray[Any]] = {}
    for modality in service.modalities.values():
        for name, spec in modality.inputs.items():
            numpy_type = NUMPY_TYPE[spec.datatype]
            shape = (capacity, *fixed_shape(spec, longest=True))
            if np.issubdtype(numpy_type, np.floating):
                inputs[name] = generator.normal(size=shape).astype(numpy_type)
            else:  # small numbers, which are valid as indices too
                inputs[name] = generator.integers(0, 2, shape).astype(numpy_type)
    return inputs


def measure_latency(
    service: Service,
    runners: Mapping[str, StagedRunner],
    inputs: Mapping[str, NDArray[Any]],
    *,
    threads: int,
    cores: Sequence[int],
    budget_s: float,
    on_round: Callable[[float], None] = lambda done_frac: None,
) -> dict[StageKey, list[LatencyPoint]]:
    """Time all stages of all variants, interleaved, on some cores that this thread is pinned to meanwhile.

    Raises:
        WorkerError: a model failed.
    """
    points = [
        StagePoint(variant, stage, batch)
        for variant in runners
        for stage, _ in stages_of(service, variant)
        for batch in batch_sizes(service.scheduler.max_batch)
    ]
    calls = [runners[p.variant].stage_call(p.stage, inputs, np.arange(p.batch)) for p in points]
    stopwatch = CoreStopwatch(waits=threads > 1)
    with pinned(cores), first_in_line(), quiet_collector():
        timed = time_calls(
            calls, stopwatch, budget_s=budget_s, generator=np.random.default_rng(0), on_round=on_round
        )
    found: dict[StageKey, list[LatencyPoint]] = {}
    for point, result in zip(points, timed, strict=True):
        summary = result.summary(batch=point.batch, threads=threads, busy_cores=1)
        found.setdefault((point.variant, point.stage), []).append(summary)
    return found
