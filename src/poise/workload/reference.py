"""The latency that deadlines by slack are added to."""

from __future__ import annotations

from collections.abc import Callable

from poise.domain.profile import LatencyStatistic, Profile, VariantProfile, latency_table
from poise.domain.service import Device
from poise.errors import ConfigError


def best_latency(
    profile: Profile, *, statistic: LatencyStatistic = "mean", threads: int = 1, device: Device = "cpu"
) -> Callable[[int], float]:
    """Return items -> latency of the most accurate mode, in seconds; of equally accurate modes the faster.

    A job of more items than any measured batch is answered in several: the largest as often as they fit, then
    the rest.

    Raises:
        ConfigError: no mode has a latency with these threads on this device.
    """
    found: list[tuple[float, float, tuple[float, ...]]] = []
    for variant in profile.variants:
        for mode in variant.modes:
            table = _mode_table(variant, mode.label, statistic, threads, device)
            if table is not None:
                found.append((-mode.accuracy, table[1], table))
    if not found:
        raise ConfigError(
            f"no latency was measured with {threads} threads on {device}",
            field="variants",
            expected="a profile with one",
        )
    table = min(found)[2]

    def latency_s(items: int) -> float:
        whole, rest = divmod(items, len(table) - 1)
        return whole * table[-1] + table[rest]

    return latency_s


def _mode_table(
    variant: VariantProfile, label: str, statistic: LatencyStatistic, threads: int, device: Device
) -> tuple[float, ...] | None:
    """Latency by batch size of one mode alone, up to where all its stages were measured; None if one was not."""
    try:
        tables = [
            latency_table(stage.latency, statistic, threads=threads, device=device)
            for stage in variant.stages
            if label in stage.labels
        ]
    except ValueError:
        return None
    return tuple(sum(column) for column in zip(*tables, strict=False))
