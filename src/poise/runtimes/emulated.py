"""The emulated runtime: no model; sleeps as long as the profile says and answers zeros."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import structs

from poise.domain.modalities import names_of
from poise.domain.profile import WAY_STAGE, StageProfile, VariantProfile, points_at
from poise.domain.service import Device, Service
from poise.errors import ConfigError, InternalError
from poise.planning.service_time import StageTime
from poise.runtimes.base import Masks, Measured, Outputs, Rows, Tensors
from poise.runtimes.feed import StageFeed
from poise.runtimes.tensors import zeros


class _EmulatedStage:
    """One stage: the masks that use it, and its latency at each bucket of the profile (None: any length)."""

    def __init__(self, service: Service, stage: StageProfile, threads: int, device: Device) -> None:
        self.name = stage.name
        index = service.modality_index
        self.users = [index.mask(names_of(label)) for label in stage.labels]
        modalities = tuple(service.modalities)
        if set(stage.name.split("+")) <= set(modalities):  # an encoder, or a graph of a modality set
            modalities = tuple(stage.name.split("+"))
        self._feed = StageFeed(service.inputs_of(modalities))
        self._times = [
            StageTime(
                structs.replace(stage, latency=points_at(stage.latency, bucket)),
                threads=threads,
                device=device,
            )
            for bucket in (service.buckets_of(modalities) if stage.buckets else ()) or (None,)
        ]

    def seconds(self, inputs: Tensors, rows: Rows, level: float) -> float:
        """Return the latency of some items at a level in [0, 1], at the bucket that holds them."""
        rung = self._feed.rung(inputs, rows) if len(self._times) > 1 else None
        time = self._times[-1 if rung is None else rung]
        if len(rows) > time.max_batch:
            raise InternalError(
                f"stage {self.name!r} was given {len(rows)} items, and is profiled up to {time.max_batch}"
            )
        return time.at(len(rows), level)


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
        self._stages: list[_EmulatedStage] = []
        for stage in profile.stages:
            if stage.name == WAY_STAGE:
                continue
            try:
                self._stages.append(_EmulatedStage(service, stage, threads, device))
            except ValueError as error:
                raise ConfigError(
                    f"variant {profile.name!r}, stage {stage.name!r}: {error}",
                    field="allocation",
                    expected="threads, a device and buckets that the profile has",
                ) from None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages of the profile, but for ``way``."""
        return tuple(stage.name for stage in self._stages)

    def run(self, inputs: Tensors, rows: Rows, masks: Masks) -> tuple[Outputs, Measured]:
        """Sleep for the batch's latency and answer zeros; see ``VariantRunner.run``."""
        unknown = sorted(set(masks.tolist()) - self._answered)
        if unknown:
            raise InternalError(
                f"an emulated variant was given modality mask {unknown[0]}, which it has no mode for"
            )
        measured: Measured = []
        for stage in self._stages:
            used = rows[np.isin(masks, stage.users)]
            if len(used):
                seconds = stage.seconds(inputs, used, float(self._generator.random()))
                measured.append((stage.name, seconds))
        self._sleep(sum(seconds for _, seconds in measured))
        return zeros(self._service.outputs, len(rows)), measured
