"""The emulated runtime: no model; sleeps as long as the profile says and answers zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.modalities import names_of
from poise.domain.profile import WAY_STAGE, VariantProfile
from poise.domain.service import Device, Service
from poise.errors import ConfigError, InternalError
from poise.planning.service_time import StageTime
from poise.runtimes.base import Masks, Measured, Rows, Tensors
from poise.runtimes.tensors import zeros


class EmulatedRunner:
    """Draws each stage's latency from the profile, sleeps for their sum, and answers zeros.

    The stage ``way`` is left out, because a live server pays for its way in earnest. The seconds it returns are
    those drawn, not those slept: the operating system adds some 0.1 ms to a sleep.
    """

    def __init__(
        self,
        service: Service,
        profile: VariantProfile,
        *,
        threads: int,
        device: Device,
        generator: np.random.Generator,
        sleep: Callable[[float], None],
    ) -> None:
        index = service.modality_index
        self._service = service
        self._generator = generator
        self._sleep = sleep
        self._answered = {index.mask(mode.modalities) for mode in profile.modes}
        self._stages: list[tuple[str, frozenset[int], StageTime]] = []
        for stage in profile.stages:
            if stage.name == WAY_STAGE:
                continue
            masks = frozenset(index.mask(names_of(label)) for label in stage.labels)
            try:
                time = StageTime(stage, threads=threads, device=device)
            except ValueError as error:
                raise ConfigError(
                    f"variant {profile.name!r}, stage {stage.name!r}: {error}",
                    field="allocation",
                    expected="threads and a device that the profile has",
                ) from None
            self._stages.append((stage.name, masks, time))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages of the profile, but for ``way``."""
        return tuple(name for name, _, _ in self._stages)

    def run(self, inputs: Tensors, rows: Rows, masks: Masks) -> tuple[dict[str, NDArray[Any]], Measured]:
        """Sleep for the batch's latency and answer zeros; see ``VariantRunner.run``."""
        counts = {
            int(mask): int(count) for mask, count in zip(*np.unique(masks, return_counts=True), strict=True)
        }
        unknown = sorted(set(counts) - self._answered)
        if unknown:
            raise InternalError(
                f"an emulated variant was given modality mask {unknown[0]}, which it has no mode for"
            )
        measured: Measured = []
        for name, users, time in self._stages:
            items = sum(count for mask, count in counts.items() if mask in users)
            if items > time.max_batch:
                raise InternalError(
                    f"stage {name!r} was given {items} items, and is profiled up to {time.max_batch}"
                )
            if items:
                measured.append((name, time.at(items, float(self._generator.random()))))
        self._sleep(sum(seconds for _, seconds in measured))
        return zeros(self._service.outputs, len(rows)), measured
