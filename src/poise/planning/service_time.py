"""How long a batch really takes, drawn from the profile's quantiles: for the simulator and emulated variants.

Source: the inverse of the distribution function that the profile's p50, p95 and p99 fix, linear between the
levels 0, 0.5, 0.95, 0.99 and 1. The two ends are not in the profile; they are chosen so that the mean is the
measured one: with ``m`` the mean, the segments' means weighted by their lengths give

    m = ½·(bottom + p50)/2 + 0.45·(p50 + p95)/2 + 0.04·(p95 + p99)/2 + 0.01·(p99 + top)/2

The top is first taken one p99 − p95 span above p99 and the equation solved for the bottom. Where that is not
in [0, p50], the bottom stays at the nearer end and the equation is solved for the top, which is never below
p99: rare hiccups that lift the mean above all quantiles so come back as rare hiccups. Only a mean below what
the quantiles allow is not met.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from poise.domain.profile import StageProfile, latency_table
from poise.domain.service import Device

LEVELS = (0.0, 0.5, 0.95, 0.99, 1.0)
"""The levels of a stage's knots."""


class StageTime:
    """The latency of one stage as a random quantity: a level in [0, 1] to seconds, for each batch size.

    A stage whose points have no quantiles is constant. ``max_batch`` is the largest measured batch.

    Shapes: ``knots[batch]`` is the latency at each of ``LEVELS``, or one number where it is constant.
    Units: seconds.

    Raises:
        ValueError: no latency is measured with these threads on this device.
    """

    __slots__ = ("knots", "max_batch")

    def __init__(self, stage: StageProfile, *, threads: int, device: Device = "cpu") -> None:
        mean, p50, p95, p99 = (
            latency_table(stage.latency, name, threads=threads, device=device)
            for name in ("mean", "p50", "p95", "p99")
        )
        self.max_batch = len(mean) - 1
        self.knots = tuple(knots_of(*values) for values in zip(mean, p50, p95, p99, strict=True))

    def at(self, batch: int, level: float) -> float:
        """Return the latency of a batch at a level in [0, 1]: 0.5 is the median. Zero for an empty batch.

        Raises:
            IndexError: a batch beyond ``max_batch``.
        """
        return interpolate(self.knots[batch], *place(level))


def place(level: float) -> tuple[int, float]:
    """Return where a level lies: the segment that ends at ``LEVELS[i]``, and the share of it that is left."""
    i = max(1, bisect_left(LEVELS, level))
    return i, (LEVELS[i] - level) / (LEVELS[i] - LEVELS[i - 1])


def interpolate(knots: tuple[float, ...], i: int, left: float) -> float:
    """Return the value at a place: exactly a knot at its level, and never falling as the level rises."""
    if len(knots) == 1:
        return knots[0]
    low, high = knots[i - 1], knots[i]
    value = high - (high - low) * left
    return value if value > low else low


def batch_time_s(stages: Sequence[tuple[StageTime, int]], levels: Sequence[float]) -> float:
    """Return the time of a batch: the sum over (stage, items) of each stage at its own level."""
    return sum(stage.at(items, level) for (stage, items), level in zip(stages, levels, strict=True) if items)


def knots_of(mean: float, p50: float, p95: float, p99: float) -> tuple[float, ...]:
    """Return the latency at each of ``LEVELS``, or one number where it is constant. Units: seconds."""
    # A point may give some of its quantiles only; the others then fall back on the mean, which may lie above.
    p95 = max(p50, p95)
    p99 = max(p95, p99)
    if mean == p50 == p99:
        return (mean,)
    middle = 0.45 * (p50 + p95) / 2 + 0.04 * (p95 + p99) / 2
    top = p99 + (p99 - p95)
    bottom = 4 * (mean - middle - 0.01 * (p99 + top) / 2) - p50
    if not 0.0 <= bottom <= p50:
        bottom = min(max(0.0, bottom), p50)
        top = max(p99, 200 * (mean - middle - 0.5 * (bottom + p50) / 2) - p99)
    return (bottom, p50, p95, p99, top)
