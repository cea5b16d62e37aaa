"""What load some cores of a variant carry: InfAdapter's line through profiled points, or the latency of one item."""

from __future__ import annotations

import math

import numpy as np

from poise.domain.adapter_settings import AdapterSettings
from poise.domain.profile import VariantProfile
from poise.planning.core_allocation import Candidate

SLO_TOLERANCE = 1e-9


def candidate_of(profile: VariantProfile, slo_s: float, cores: int, settings: AdapterSettings) -> Candidate:
    """Return a variant as E3 knows it: its best mode's accuracy, and the load that each number of cores carries.

    Where ``capacity`` was profiled at this SLO: ``settings.capacity_factor`` times the line of least squares through
    the points at ``settings.fit_cores``, floored to whole requests per second (as InfAdapter's authors do). Else each
    core answers one item after another by the best mode, at the mean of its latency, times the same factor; and
    none if p99 exceeds the SLO. Units: seconds.

    Raises:
        ValueError: neither says anything: fewer than two profiled points, and no latency of one item on one thread.
    """
    best = max(profile.modes, key=lambda mode: mode.accuracy)
    points = [
        (point.cores, point.rps)
        for point in profile.capacity
        if point.cores in settings.fit_cores and math.isclose(point.slo_s, slo_s, rel_tol=SLO_TOLERANCE)
    ]
    if len(points) >= 2:
        each_rps, fixed_rps = np.polyfit(
            np.array([n for n, _ in points]), np.array([rps for _, rps in points]), 1
        ).tolist()
        carried = [
            float(math.floor(settings.capacity_factor * (each_rps * n + fixed_rps)))
            for n in range(1, cores + 1)
        ]
    else:
        each_s = _item_s(profile, best.label, slo_s)
        carried = [settings.capacity_factor * n / each_s for n in range(1, cores + 1)]
    return Candidate(
        name=profile.name,
        accuracy=best.accuracy,
        load_time_s=profile.load_time_s,
        capacity_rps=(0.0, *(max(0.0, rps) for rps in carried)),
    )


def _item_s(profile: VariantProfile, label: str, slo_s: float) -> float:
    """Return the mean seconds of one item by a mode on one thread; infinite where p99 exceeds the SLO."""
    mean_s = p99_s = 0.0
    for stage in profile.stages:
        if label in stage.labels:
            alone = [p for p in stage.latency if p.batch == 1 and p.threads == 1 and p.device == "cpu"]
            if not alone:
                raise ValueError(
                    f"variant {profile.name!r}: stage {stage.name!r} has no latency at batch 1 on 1 thread, and fewer "
                    f"than two points of capacity at an SLO of {slo_s:g} s; expected either"
                )
            slowest = max(alone, key=lambda p: (p.bucket or 0, p.busy_cores or 0))
            mean_s += slowest.mean_s
            p99_s += slowest.statistic("p99")
    return mean_s if 0 < p99_s <= slo_s else math.inf
