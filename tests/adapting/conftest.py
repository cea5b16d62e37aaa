"""A family of two emulated variants, and situations to decide on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from poise.adapting.policy import Situation
from poise.domain.adapter_settings import AdapterSettings
from poise.domain.allocation import Workers
from poise.domain.profile import (
    CapacityPoint,
    LatencyPoint,
    ModeProfile,
    Profile,
    StageProfile,
    VariantProfile,
)
from poise.domain.service import Budget, Modality, Service, SLOClass, TensorSpec, Variant


def variant_profile(
    name: str, accuracy: float, core_rps: float, load_s: float, cores: int = 16
) -> VariantProfile:
    return VariantProfile(
        name=name,
        load_time_s=load_s,
        memory_bytes=1000,
        modes=(ModeProfile(modalities=("image",), accuracy=accuracy),),
        stages=(
            StageProfile(
                name="image",
                modality_sets=(("image",),),
                latency=(LatencyPoint(threads=1, batch=1, mean_s=1 / core_rps),),
            ),
        ),
        capacity=tuple(CapacityPoint(cores=n, rps=core_rps * n, slo_s=0.5) for n in range(1, cores + 1)),
    )


@pytest.fixture
def profile() -> Profile:
    return Profile(
        format=1,
        service="family",
        variants=(variant_profile("small", 0.7, 12.5, 2.0), variant_profile("large", 0.8, 5.0, 4.0)),
    )


def service_of(**adapter: Any) -> Service:
    return Service(
        format=1,
        service="family",
        modalities={"image": Modality(inputs={"image": TensorSpec(datatype="UINT8", shape=(4,))})},
        outputs={"logits": TensorSpec(datatype="FP32", shape=(2,))},
        variants={"small": Variant(runtime="emulated"), "large": Variant(runtime="emulated")},
        classes={"default": SLOClass(latency_slo_ms=500)},
        budget=Budget(cores=8, memory=1_000_000),
        adapter=msgspec.structs.replace(AdapterSettings(), **adapter),
    )


def situation_at(rps: float, running: tuple[Workers, ...] = (), now_s: float = 0.0, **more: Any) -> Situation:
    given: dict[str, Any] = {
        "now_s": now_s,
        "forecast": None,
        "planned_jobs_rps": {"default": rps},
        "planned_items_rps": {"default": rps},
        "running": running,
        "resident": running,
        "excluded": frozenset(),
        "busy_cores": 0.0,
        "cores": 8,
        "memory_bytes": 1_000_000,
    }
    return Situation(**{**given, **more})


def workers(variant: str, count: int) -> Workers:
    return Workers(variants=(variant,), count=count)
