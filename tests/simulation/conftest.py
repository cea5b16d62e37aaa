"""Small emulated services for simulations."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.workload.jobs import JobDraw

Emulated = Callable[..., tuple[Service, Profile]]
Draws = Callable[..., list[JobDraw]]


def stage(
    name: str, sets: Sequence[Sequence[str]], one_s: float, more_s: float, spread: float
) -> dict[str, Any]:
    def point(batch: int) -> dict[str, Any]:
        mean = one_s + more_s * (batch - 1)
        if not spread:
            return {"batch": batch, "mean_s": mean}
        quantiles = {"p50_s": mean, "p95_s": mean * (1 + spread), "p99_s": mean * (1 + 2 * spread)}
        return {"batch": batch, "mean_s": mean * (1 + spread / 4), **quantiles}

    return {"name": name, "modality_sets": sets, "latency": [point(batch) for batch in (1, 2, 4, 8, 16)]}


@pytest.fixture
def emulated() -> Emulated:
    """Builds a service of two modalities and two variants, *small* and *large*, with shared stages."""

    def build(*, spread: float = 0.1, **fields: Any) -> tuple[Service, Profile]:
        tensor = {"datatype": "FP32", "shape": [4]}
        sets = [["clip"], ["speech"], ["clip", "speech"]]
        service = {
            "format": 1,
            "service": "pair",
            "modalities": {"clip": {"inputs": {"c": tensor}}, "speech": {"inputs": {"s": tensor}}},
            "outputs": {"logits": tensor},
            "variants": {"small": {"runtime": "emulated"}, "large": {"runtime": "emulated"}},
            "classes": {
                "interactive": {"latency_slo_ms": 50, "accuracy_floor": 0.6},
                "bulk": {"latency_slo_ms": 400, "accuracy_floor": 0.5},
            },
            "budget": {"cores": 2},
            **fields,
        }
        variants = []
        for name, scale, gain in (("small", 1.0, 0.0), ("large", 3.0, 0.08)):
            accuracies = (0.62 + gain, 0.7 + gain, 0.81 + gain)
            variants.append(
                {
                    "name": name,
                    "memory_bytes": 10_000_000,
                    "modes": [
                        {"modalities": names, "accuracy": accuracy}
                        for names, accuracy in zip(sets, accuracies, strict=True)
                    ],
                    "stages": [
                        stage("clip", [sets[0], sets[2]], 0.003 * scale, 0.002 * scale, spread),
                        stage("speech", [sets[1], sets[2]], 0.001 * scale, 0.0005 * scale, spread),
                        stage("head", sets, 0.0005, 0.0001, spread),
                        stage("way", sets, 0.0001, 0.00001, spread),
                    ],
                }
            )
        profile = {"format": 1, "service": "pair", "variants": variants}
        return msgspec.convert(service, Service), msgspec.convert(profile, Profile)

    return build


@pytest.fixture
def draws() -> Draws:
    """Builds jobs that arrive at given times; other fields alike for all."""

    def build(times_s: Sequence[float], **fields: Any) -> list[JobDraw]:
        common: dict[str, Any] = {
            "slo_class": "interactive",
            "items": 1,
            "deadline_s": None,
            "accuracy_floor": None,
            "available": 3,
        }
        return [
            JobDraw(number=number, arrival_s=at_s, **(common | fields)) for number, at_s in enumerate(times_s)
        ]

    return build
