"""How long batches take in a simulation: one level of its distribution drawn for each stage that runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.random import Generator

from poise.domain.modalities import ModalityIndex
from poise.domain.profile import WAY_STAGE, Profile, StageProfile, points_at
from poise.domain.service import Device
from poise.errors import ConfigError, InternalError
from poise.planning.service_time import LEVELS, StageTime
from poise.scheduling.commands import BatchPart

_BLOCK = 1 << 14


_Segments = tuple[tuple[float, float, float], ...]
"""Shapes: entry *i* is (lower end, upper end, difference) of what ends at knot *i*. Units: seconds."""

_Measured = tuple[tuple[str, float], ...]


class _Step(NamedTuple):
    """A stage at one batch size: drawn from its segments, or constant where it has none.

    ``way``: no worker could measure it. Units: seconds.
    """

    name: str
    way: bool
    constant_s: float
    segments: _Segments


class _Batch(NamedTuple):
    """The stages that a batch runs, in order; ``fixed``: what ``draw`` returns of it, where nothing varies."""

    steps: tuple[_Step, ...]
    fixed: tuple[float, _Measured] | None = None


class _VariantTimes(msgspec.Struct, frozen=True):
    """A variant on one kind of worker.

    Shapes: ``uses[mask]`` lists the stages, by position, of a modality set; ``steps[stage][rung][items]``, one rung
    where a stage has no buckets. ``alike[mask, items]``: batches of one modality set, worked out when they first
    come. ``padded``: some stage has more than one rung, so that a batch's time depends on its items' lengths.
    """

    steps: tuple[tuple[tuple[_Step, ...], ...], ...]
    uses: dict[int, tuple[int, ...]]
    padded: bool
    alike: dict[tuple[int, int], _Batch] = {}


class ServiceTimes:
    """Draws the time of batches from a profile, in the order in which they are asked for.

    Each stage of a batch has a level of its own, so stages vary independently of each other and of earlier
    batches. ``error_factor`` multiplies every time: how wrong the profile is.
    """

    def __init__(
        self, profile: Profile, index: ModalityIndex, rng: Generator, *, error_factor: float = 1.0
    ) -> None:
        self._profile = profile
        self._index = index
        self._places = _places(rng)
        self._error_factor = error_factor
        self._variants: dict[tuple[str, int, Device], _VariantTimes] = {}

    def prepare(self, variant: str, threads: int, device: Device) -> None:
        """Build the tables of a variant on one kind of worker.

        Raises:
            ConfigError: the profile has no such variant, or no latency at these threads on this device.
        """
        if (variant, threads, device) in self._variants:
            return
        try:
            profile = self._profile.variant(variant)
            stages = tuple(_by_rung(stage, threads, device) for stage in profile.stages)
        except KeyError:
            raise ConfigError(f"variant {variant!r} has no profile", field="variants") from None
        except ValueError as error:
            raise ConfigError(f"variant {variant!r}: {error}", field="variants.stages") from None
        masks = [{self._index.mask(names) for names in stage.modality_sets} for stage in profile.stages]
        way = tuple(stage.name == WAY_STAGE for stage in profile.stages)
        uses = {
            mask: tuple(
                i for i, (using, is_way) in enumerate(zip(masks, way, strict=True)) if is_way or mask in using
            )
            for mask in (self._index.mask(mode.modalities) for mode in profile.modes)
        }
        steps = tuple(
            tuple(
                tuple(_Step(stage.name, is_way, knots[0], _segments(knots)) for knots in time.knots)
                for time in times
            )
            for stage, times, is_way in zip(profile.stages, stages, way, strict=True)
        )
        padded = any(len(times) > 1 for times in stages)
        self._variants[variant, threads, device] = _VariantTimes(steps, uses, padded)

    def draw(
        self, variant: str, threads: int, device: Device, parts: Sequence[BatchPart]
    ) -> tuple[float, tuple[tuple[str, float], ...]]:
        """Return how long a batch takes, and (stage, time) of each stage that a worker could measure itself.

        Units: seconds. The way to the worker and back is in the sum only.

        Raises:
            InternalError: a modality set that the variant does not answer, or a batch beyond the largest
            measured.
        """
        times = self._variants[variant, threads, device]
        if times.padded:
            return self._drawn(self._mixed(variant, times, parts))
        first = parts[0].modalities if parts else 0
        items = 0
        for part in parts:
            if part.modalities != first:
                return self._drawn(self._mixed(variant, times, parts))
            items += part.items
        batch = times.alike.get((first, items))
        if batch is None:
            batch = times.alike[first, items] = self._alike(variant, times, first, items)
        return self._drawn(batch) if batch.fixed is None else batch.fixed

    def _drawn(self, batch: _Batch) -> tuple[float, _Measured]:
        """Draw each stage that varies, in order."""
        places, factor = self._places, self._error_factor
        total = 0.0
        measured: list[tuple[str, float]] = []
        for name, way, constant_s, segments in batch.steps:
            time_s = constant_s
            if segments:  # interpolate() of planning.service_time, at a place
                end, left = next(places)
                low, high, span = segments[end]
                value = high - span * left
                time_s = value if value > low else low
            time_s *= factor
            total += time_s
            if not way:
                measured.append((name, time_s))
        return total, tuple(measured)

    def _alike(self, variant: str, times: _VariantTimes, mask: int, items: int) -> _Batch:
        """Work out a batch of one modality set."""
        batch = self._batch(variant, times, {mask: items}, {})
        varies = any(step.segments for step in batch.steps)
        return batch if varies else _Batch(batch.steps, self._drawn(batch))

    def _mixed(self, variant: str, times: _VariantTimes, parts: Sequence[BatchPart]) -> _Batch:
        """Work out a batch of several modality sets or lengths; there are too many of them to keep."""
        items: dict[int, int] = {}
        rungs: dict[int, int] = {}
        for part in parts:
            items[part.modalities] = items.get(part.modalities, 0) + part.items
            rungs[part.modalities] = max(rungs.get(part.modalities, 0), part.bucket)
        return self._batch(variant, times, items, rungs)

    def _batch(
        self, variant: str, times: _VariantTimes, items_of: dict[int, int], rung_of: dict[int, int]
    ) -> _Batch:
        """Work out a batch; each stage runs at the longest rung of the modality sets that use it."""
        counts, rungs = [0] * len(times.steps), [0] * len(times.steps)
        for mask, items in items_of.items():
            if mask not in times.uses:
                raise InternalError(f"variant {variant!r} was given items with modality set {mask}")
            for g in times.uses[mask]:
                counts[g] += items
                rungs[g] = max(rungs[g], rung_of.get(mask, 0))
        found: list[_Step] = []
        for by_rung, rung, items in zip(times.steps, rungs, counts, strict=True):
            steps = by_rung[min(rung, len(by_rung) - 1)]
            if items >= len(steps):
                most = f"at most {len(steps) - 1} were measured in stage {steps[0].name!r}"
                raise InternalError(f"variant {variant!r} was given {items} items at once, {most}")
            if items:
                found.append(steps[items])
        return _Batch(tuple(found))


def _by_rung(stage: StageProfile, threads: int, device: Device) -> tuple[StageTime, ...]:
    """Return a stage's times at each of its rungs; at one where it has no buckets."""
    return tuple(
        StageTime(
            msgspec.structs.replace(stage, latency=points_at(stage.latency, bucket)),
            threads=threads,
            device=device,
        )
        for bucket in stage.buckets or (None,)
    )


def _segments(knots: tuple[float, ...]) -> _Segments:
    """Return the segments between neighbouring knots, none of a constant; none ends at the first knot."""
    if len(knots) == 1:
        return ()
    return ((knots[0], knots[0], 0.0), *((low, high, high - low) for low, high in itertools.pairwise(knots)))


def _places(rng: Generator) -> Iterator[tuple[int, float]]:
    """Draw levels without end, as ``planning.service_time.place`` gives them, in blocks."""
    edges = np.array(LEVELS)
    widths = np.diff(edges, prepend=0.0)

    def blocks() -> Iterator[Iterable[tuple[int, float]]]:
        while True:
            levels = rng.random(_BLOCK)
            ends = np.ones(_BLOCK, np.int64)
            for edge in LEVELS[1:-1]:
                ends += levels > edge
            left = (edges[ends] - levels) / widths[ends]
            yield zip(ends.tolist(), left.tolist(), strict=True)

    return itertools.chain.from_iterable(blocks())
