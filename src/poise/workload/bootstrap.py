"""Confidence in an accuracy that was measured on items which came up more than once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from poise.workload.summary import Interval

_BLOCK = 4_000_000


def bootstrap_mean(
    values: NDArray[np.float64], groups: NDArray[np.int64], rng: Generator, n: int = 2000
) -> NDArray[np.float64]:
    """Return ``n`` resampled means of ``values``, sorted, by drawing distinct items again with replacement.

    A run sends the same test item many times and its answers then agree, so answers are not independent but
    the distinct items are: whole groups are drawn, not single values.

    Shapes: ``values``, ``groups`` [answers], where ``groups`` says which distinct item each is of; returns
    [n].

    Raises:
        ValueError: no values, or lengths that differ.
    """
    if len(values) == 0 or len(values) != len(groups):
        raise ValueError(f"got {len(values)} values and {len(groups)} groups, expected as many, at least one")
    _, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, values), np.bincount(member).astype(np.float64)
    distinct = len(counts)
    even = np.full(distinct, 1.0 / distinct)
    means: list[NDArray[np.float64]] = []
    block = max(1, _BLOCK // distinct)
    for start in range(0, n, block):
        times = rng.multinomial(distinct, even, size=min(block, n - start)).astype(np.float64)
        means.append((times @ sums) / (times @ counts))
    return np.sort(np.concatenate(means))


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.float64],
    groups: Sequence[int] | NDArray[np.int64],
    rng: Generator,
    *,
    level: float = 0.95,
    n: int = 2000,
) -> Interval:
    """Return the central interval of the resampled means at ``level``.

    Raises:
        ValueError: as ``bootstrap_mean``.
    """
    means = bootstrap_mean(np.asarray(values, np.float64), np.asarray(groups, np.int64), rng, n)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low=low, high=high, level=level)
