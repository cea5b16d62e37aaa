"""Exhaustive answers for small instances: what the optimisers are held against in tests."""

from __future__ import annotations

from collections.abc import Iterator

from poise.planning.latency_model import LatencyModel


def every_plan(batch: int, sets: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to split ``batch`` items over ``sets`` modality sets."""
    if sets == 1:
        yield (batch,)
        return
    for first in range(batch + 1):
        for rest in every_plan(batch - first, sets - 1):
            yield (first, *rest)


def cheapest_latency_s(
    model: LatencyModel, batch: int, accuracy: float, tolerance: float = 1e-9
) -> float | None:
    """Return the least latency in seconds of a plan with at least this mean accuracy, or None, by trying all."""
    best: float | None = None
    for counts in every_plan(batch, len(model.sets)):
        mean = sum(n * a for n, a in zip(counts, model.accuracy, strict=True)) / batch
        if mean >= accuracy - tolerance:
            latency = model.latency_s(counts)
            if latency != float("inf") and (best is None or latency < best):
                best = latency
    return best
