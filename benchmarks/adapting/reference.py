"""InfAdapter's setting: its profile of ResNets on CPU, its constants, its slices of the Twitter trace.

The data stand beside the project, in ``../shared/reference``, or come from the public repositories
``reconfigurable-ml-pipeline/InfAdapter`` (``auto_tuner/adapter/capacity_result_Feb_21.csv``) and
``reconfigurable-ml-pipeline/web-service-datasets`` (``dataset/twitter_trace/workload.tbz2``).
"""

from __future__ import annotations

import csv
import lzma
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.adapter_settings import AdapterSettings
from poise.domain.profile import (
    CapacityPoint,
    LatencyPoint,
    ModeProfile,
    Profile,
    StageProfile,
    VariantProfile,
)
from poise.domain.service import (
    Budget,
    Modality,
    SchedulerSettings,
    Service,
    SLOClass,
    TensorSpec,
    Variant,
)

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
CAPACITY = REFERENCE / "infadapter" / "capacity.csv"
TRACE = REFERENCE / "traces" / "twitter.txt.xz"

DAY_S = 86_400
BURSTY_FROM_S = 15 * DAY_S + 82 * 60
CALM_FROM_S = BURSTY_FROM_S - DAY_S
SLICE_S = 21 * 60

CORES = 20
SLO_S = 0.75
ACCURACY: Mapping[str, float] = MappingProxyType(
    {"18": 0.69758, "34": 0.73314, "50": 0.76130, "101": 0.77374, "152": 0.78312}
)
LOAD_S: Mapping[str, float] = MappingProxyType({"18": 6.44, "34": 6.79, "50": 6.82, "101": 7.77, "152": 8.52})
MEMORY_GB: Mapping[str, float] = MappingProxyType(
    {"18": 1.25, "34": 1.5, "50": 1.75, "101": 2.25, "152": 2.5}
)
BEST = max(ACCURACY.values())


def missing() -> str | None:
    """Return which of the reference data are not at hand; None where all are."""
    gone = [path for path in (CAPACITY, TRACE) if not path.exists()]
    if not gone:
        return None
    return f"{gone[0].name} is not in {REFERENCE} (reference.py says where it is published)"


@cache
def rates() -> NDArray[np.float64]:
    """Return the Twitter trace. Units: jobs/s."""
    with lzma.open(TRACE, "rt") as file:
        return np.array(file.read().split(), np.float64)


def past(from_s: int) -> NDArray[np.float64]:
    """Return what came before a second; its zeros, gaps of the recording, are NaN."""
    before = rates()[:from_s].copy()
    before[before == 0] = np.nan
    return before


@cache
def profile() -> Profile:
    """Return the authors' measurements as a profile: one item at a time, on workers of one thread.

    A batch's time is what saturation says: cores by throughput, for each number of busy cores.
    """
    points: dict[str, list[LatencyPoint]] = {name: [] for name in ACCURACY}
    capacity: dict[str, dict[int, CapacityPoint]] = {name: {} for name in ACCURACY}
    with CAPACITY.open() as file:
        for row in csv.DictReader(file):
            if int(row["SLA"]) != SLO_S * 1000 or row["ARCH"] not in ACCURACY or not row["capacity"]:
                continue
            name, cores = row["ARCH"], int(row["CPU"])
            if cores in capacity[name]:
                continue
            capacity[name][cores] = CapacityPoint(cores=cores, rps=float(row["capacity"]), slo_s=SLO_S)
            points[name].append(
                LatencyPoint(
                    threads=1, busy_cores=cores, batch=1, mean_s=round(cores / float(row["saturation_tp"]), 6)
                )
            )
    return Profile(
        format=1,
        service="resnets",
        variants=tuple(
            VariantProfile(
                name=f"resnet{name}",
                load_time_s=LOAD_S[name],
                memory_bytes=round(MEMORY_GB[name] * 1e9),
                modes=(ModeProfile(modalities=("image",), accuracy=accuracy),),
                stages=(
                    StageProfile(name="image", modality_sets=(("image",),), latency=tuple(points[name])),
                ),
                capacity=tuple(capacity[name].values()),
            )
            for name, accuracy in ACCURACY.items()
        ),
    )


def service(
    *, policy: str, adapter: str, beta: float = 0.05, variant: str | None = None, **settings: object
) -> Service:
    """Return the service; ``settings`` are further ones of the adapter."""
    adapting = AdapterSettings(
        policy=adapter, beta=beta, min_cores=2, variant=None if variant is None else f"resnet{variant}"
    )
    return Service(
        format=1,
        service="resnets",
        modalities={"image": Modality(inputs={"image": TensorSpec(datatype="UINT8", shape=(8,))})},
        outputs={"logits": TensorSpec(datatype="FP32", shape=(10,))},
        variants={f"resnet{name}": Variant(runtime="emulated") for name in ACCURACY},
        classes={"default": SLOClass(latency_slo_ms=SLO_S * 1000)},
        budget=Budget(cores=CORES, memory="200GB"),
        scheduler=SchedulerSettings(policy=policy, max_batch=1),
        adapter=msgspec.structs.replace(adapting, **settings),
    )
