"""How often something of a known probability may happen before a test calls it too often."""

from __future__ import annotations

import math

CHANCE = 1e-6
"""How rarely a test of something that holds just as it should would fail, were its seed another."""


def most_failures(draws: int, probability: float, chance: float = CHANCE) -> int:
    """Return the least *c* with P(X > c) ≤ ``chance`` for X binomial."""
    tail = 1.0
    for count in range(draws + 1):
        log_choose = math.lgamma(draws + 1) - math.lgamma(count + 1) - math.lgamma(draws - count + 1)
        tail -= math.exp(
            log_choose + count * math.log(probability) + (draws - count) * math.log1p(-probability)
        )
        if tail <= chance:
            return count
    return draws
