"""The latency of every stage at every batch size, bucket and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.service import Service
from poise.files import LabelledItems
from poise.profiling.timing import CoreStopwatch, Timings, quiet_collector, time_calls
from poise.runtimes import StagedRunner, stage_modalities, stages_of
from poise.runtimes.machine import first_in_line, pinned
from poise.runtimes.tensors import padded

StageKey = tuple[str, str]
"""(variant, stage)."""


class Setting(msgspec.Struct, frozen=True):
    """How stages are timed: in a worker of some threads, while so many cores are busy with the same work.

    ``busy_cores`` counts the worker's own, so it equals ``threads`` for a worker alone.
    """

    threads: int
    busy_cores: int

    def __str__(self) -> str:
        """Return it in words."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads}, {self.busy_cores} core{'s' if self.busy_cores > 1 else ''} busy"

    def places(self, cores: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the cores of each worker, the one that is timed first; it has the last of the cores."""
        last = len(cores)
        return [
            tuple(cores[last - at - self.threads : last - at])
            for at in range(0, self.busy_cores, self.threads)
        ]


def settings(threads: Iterable[int], cores: int) -> list[Setting]:
    """Return each number of threads with one worker alone, and with as many as the cores hold where that is more."""
    found = []
    for count in sorted(threads):
        found.append(Setting(count, count))
        full = cores // count * count
        if full > count:
            found.append(Setting(count, full))
    return found


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
        numpy_type = spec.numpy_type
        shape = (capacity, *spec.shape_at(rung))
        if spec.datatype == "BYTES":
            inputs[name] = np.zeros(shape, numpy_type)
        elif np.issubdtype(numpy_type, np.floating):
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


def stage_calls(
    service: Service,
    runners: Mapping[str, StagedRunner],
    items: LabelledItems | None,
    points: Sequence[StagePoint],
) -> list[Callable[[], object]]:
    """Return what to time for each point; inputs are ``sample_inputs`` of the validation items.

    Raises:
        ConfigError: validation items longer than the longest bucket.
    """
    inputs = {
        rung: sample_inputs(service, items, service.scheduler.max_batch, rung)
        for rung in {p.rung for p in points}
    }
    return [runners[p.variant].stage_call(p.stage, inputs[p.rung], np.arange(p.batch)) for p in points]


def time_stages(
    calls: Sequence[Callable[[], object]],
    *,
    waits: bool,
    cores: Sequence[int],
    budget_s: float,
    timings: Timings,
    on_visit: Callable[[int | None], None] = lambda at: None,
    on_round: Callable[[float], None] = lambda done_frac: None,
) -> None:
    """Time stages, interleaved, on some cores that this thread is pinned to meanwhile; see ``time_calls``.

    ``waits`` says that a call waits for other threads. Where ``timings`` hold rounds, this goes on after them.

    Raises:
        WorkerError: a model failed.
    """
    with pinned(cores), first_in_line(), quiet_collector():
        time_calls(
            calls,
            CoreStopwatch(waits=waits),
            budget_s=budget_s,
            generator=np.random.default_rng(timings.rounds),
            timings=timings,
            on_visit=on_visit,
            on_round=on_round,
        )
