"""A service's configuration in the words of Triton's model configuration extension, for clients that ask for it.

It says what holds: which inputs may be left out, how many workers there are at the moment, how long a job may wait.
What Triton can be told and poise has no like of is left out, or stands at Triton's own default.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from poise.domain.allocation import Workers
from poise.domain.service import Service
from poise.protocol.wire import ServiceWire
from poise.scheduling.admission import DEFAULT_PRIORITY, LOWEST_PRIORITY

PLATFORM = "poise"


class InputConfig(msgspec.Struct, frozen=True):
    """One input. Shapes: ``dims`` is one item's. ``optional``: it may be left out, with the rest of its modality."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool
    format: str = "FORMAT_NONE"
    is_shape_tensor: bool = False
    allow_ragged_batch: bool = False
    is_non_linear_format_io: bool = False


class OutputConfig(msgspec.Struct, frozen=True):
    """One output. Shapes: ``dims`` is one item's."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    label_filename: str = ""
    is_shape_tensor: bool = False
    is_non_linear_format_io: bool = False


class LatestVersions(msgspec.Struct, frozen=True):
    """How many versions are served."""

    num_versions: int = 1


class VersionPolicy(msgspec.Struct, frozen=True):
    """Which versions are served."""

    latest: LatestVersions = LatestVersions()


class QueuePolicy(msgspec.Struct, frozen=True):
    """How jobs wait. Units: microseconds; a request may shorten its own. ``max_queue_size`` is in items."""

    default_timeout_microseconds: int
    max_queue_size: int
    timeout_action: str = "REJECT"
    allow_timeout_override: bool = True


class DynamicBatching(msgspec.Struct, frozen=True):
    """How batches are made: up to the preferred size, as soon as a worker is free."""

    preferred_batch_size: tuple[int, ...]
    default_queue_policy: QueuePolicy
    max_queue_delay_microseconds: int = 0
    preserve_ordering: bool = False
    priority_levels: int = LOWEST_PRIORITY
    default_priority_level: int = DEFAULT_PRIORITY
    priority_queue_policy: dict[str, QueuePolicy] = {}


class InstanceGroup(msgspec.Struct, frozen=True):
    """Workers alike that there are at the moment."""

    name: str
    kind: str
    count: int
    gpus: tuple[int, ...] = ()
    secondary_devices: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    passive: bool = False
    host_policy: str = ""


class Parameter(msgspec.Struct, frozen=True):
    """A setting of poise's own."""

    string_value: str


class ModelConfig(msgspec.Struct, frozen=True):
    """All of one service. ``max_batch_size`` is the most items that one request may have."""

    name: str
    max_batch_size: int
    input: tuple[InputConfig, ...]
    output: tuple[OutputConfig, ...]
    dynamic_batching: DynamicBatching
    instance_group: tuple[InstanceGroup, ...]
    parameters: dict[str, Parameter]
    platform: str = PLATFORM
    backend: str = PLATFORM
    runtime: str = ""
    version_policy: VersionPolicy = VersionPolicy()


def model_config(wire: ServiceWire, service: Service, workers: Sequence[Workers]) -> ModelConfig:
    """Return the configuration of a service and the workers that it has."""
    several = len(wire.modalities) > 1
    settings = service.scheduler
    slo_us = round(wire.classes[wire.default_class].latency_slo_s * 1e6)
    return ModelConfig(
        name=wire.name,
        max_batch_size=wire.max_items,
        input=tuple(
            InputConfig(tensor.name, data_type(tensor.datatype), tensor.shape, several)
            for tensor in wire.inputs.values()
        ),
        output=tuple(
            OutputConfig(tensor.name, data_type(tensor.datatype), tensor.shape)
            for tensor in wire.outputs.values()
        ),
        dynamic_batching=DynamicBatching(
            preferred_batch_size=(min(settings.max_batch, wire.max_items),),
            default_queue_policy=QueuePolicy(slo_us, wire.max_items),
        ),
        instance_group=tuple(
            InstanceGroup(
                name=f"{wire.name}_{number}",
                kind="KIND_CPU" if group.device == "cpu" else "KIND_GPU",
                count=group.count,
            )
            for number, group in enumerate(workers)
        ),
        parameters={
            "poise_classes": Parameter(",".join(wire.classes)),
            "poise_default_class": Parameter(wire.default_class),
            "poise_modalities": Parameter(",".join(wire.modalities)),
            "poise_variants": Parameter(",".join(service.variants)),
        },
    )


def data_type(datatype: str) -> str:
    """Return a datatype's name in the configuration."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
