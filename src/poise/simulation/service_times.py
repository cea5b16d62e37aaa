"""How long batches take in a simulation: one level of its distribution drawn for each stage that runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.random import Generator

from poise.domain.modalities import ModalityIndex
from poise.domain.profile import WAY_STAGE, Profile
from poise.domain.service import Device
from poise.errors import ConfigError, InternalError
from poise.planning.service_time import LEVELS, StageTime, interpolate
from poise.scheduling.commands import BatchPart

_BLOCK = 1 << 14


class _VariantTimes(msgspec.Struct, frozen=True):
    """A variant on one kind of worker. Shapes: ``uses[mask]`` lists the stages, by position, of a modality
    set.
    """

    names: tuple[str, ...]
    stages: tuple[StageTime, ...]
    way: tuple[bool, ...]
    uses: dict[int, tuple[int, ...]]


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
            stages = tuple(StageTime(stage, threads=threads, device=device) for stage in profile.stages)
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
        names = tuple(stage.name for stage in profile.stages)
        self._variants[variant, threads, device] = _VariantTimes(names, stages, way, uses)

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
        counts = [0] * len(times.stages)
        uses = times.uses
        try:
            for part in parts:
                for g in uses[part.modalities]:
                    counts[g] += part.items
        except KeyError as error:
            raise InternalError(f"variant {variant!r} was given items with modality set {error}") from None
        total = 0.0
        measured: list[tuple[str, float]] = []
        for g, items in enumerate(counts):
            if items:
                stage = times.stages[g]
                if items > stage.max_batch:
                    most = f"at most {stage.max_batch} were measured in stage {times.names[g]!r}"
                    raise InternalError(f"variant {variant!r} was given {items} items at once, {most}")
                knots = stage.knots[items]
                time_s = self._error_factor * (
                    knots[0] if len(knots) == 1 else interpolate(knots, *next(self._places))
                )
                total += time_s
                if not times.way[g]:
                    measured.append((times.names[g], time_s))
        return total, tuple(measured)


def _places(rng: Generator) -> Iterator[tuple[int, float]]:
    """Draw levels without end, as ``planning.service_time.place`` gives them, in blocks."""
    edges = np.array(LEVELS)
    while True:
        levels = rng.random(_BLOCK)
        ends = np.maximum(1, np.searchsorted(edges, levels, side="left"))
        left = (edges[ends] - levels) / (edges[ends] - edges[ends - 1])
        yield from zip(ends.tolist(), left.tolist(), strict=True)
