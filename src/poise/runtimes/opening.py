"""Opens a variant with the runtime that its service file names. A runtime's library is imported only here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from poise.domain.profile import Profile
from poise.domain.service import Device, Service
from poise.errors import ConfigError
from poise.runtimes.base import StagedRunner, VariantRunner

Resolve = Callable[[str, str], Path]
"""(relative path, field of the service file) -> the real path of an existing file inside the service's folder."""


def open_variant(
    service: Service,
    variant: str,
    resolve: Resolve,
    *,
    profile: Profile | None = None,
    threads: int = 1,
    device: Device = "cpu",
    seed: int = 0,
    sleep: Callable[[float], None] = time.sleep,
) -> VariantRunner:
    """Load a variant and hold it against the service.

    ``profile``, ``seed`` and ``sleep`` matter to an emulated variant only, which cannot do without a profile.

    Raises:
        ConfigError: no such variant, a runtime or device that is not available, a missing or corrupt model file, a
            graph whose inputs or outputs are not the service's, or an emulated variant without a profile.
        WorkerError: the model fails on a batch of zeros, or the operator's code fails.
    """
    if variant in service.variants and service.variants[variant].runtime == "emulated":
        from poise.runtimes.emulated import EmulatedRunner

        try:
            measured = profile.variant(variant) if profile is not None else None
        except KeyError:
            measured = None
        if measured is None:
            raise ConfigError(
                f"emulated variant {variant!r} has no profile",
                field=f"variants.{variant}",
                expected=f"its modes and stages in {service.profile}",
            )
        generator = np.random.default_rng(seed)
        return EmulatedRunner(
            service, measured, threads=threads, device=device, generator=generator, sleep=sleep
        )
    return open_staged(service, variant, resolve, threads=threads, device=device)


def open_staged(
    service: Service, variant: str, resolve: Resolve, *, threads: int = 1, device: Device = "cpu"
) -> StagedRunner:
    """Load a variant that has real stages; as ``open_variant``.

    Raises:
        ConfigError: as ``open_variant``, and for an emulated variant.
        WorkerError: the model fails on a batch of zeros.
    """
    if variant not in service.variants:
        raise ConfigError(
            f"got variant {variant!r}", field="variants", expected=f"one of {', '.join(service.variants)}"
        )
    declared = service.variants[variant]
    if device not in declared.devices:
        raise ConfigError(
            f"variant {variant!r} was asked for on {device}",
            field=f"variants.{variant}.devices",
            expected=f"one of {', '.join(declared.devices)}",
        )
    if declared.runtime == "onnx":
        from poise.runtimes.onnx import open_onnx

        return open_onnx(service, variant, resolve, threads=threads, device=device)
    if declared.runtime == "torch":
        from poise.runtimes.torch_export import open_torch

        return open_torch(service, variant, resolve, threads=threads, device=device)
    if declared.runtime == "python":
        from poise.runtimes.python import open_python

        return open_python(service, variant, resolve, threads=threads, device=device)
    raise ConfigError(
        f"variant {variant!r} is emulated",
        field=f"variants.{variant}.runtime",
        expected="one that runs a model",
    )
