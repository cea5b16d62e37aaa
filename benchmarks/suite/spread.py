"""Several runs of one figure: their median, and how far they lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """A figure over ``runs`` runs: its median, its lowest and its highest value."""

    median: float
    low: float
    high: float
    runs: int

    def text(self, form: str = ".1f", factor: float = 1.0) -> str:
        """Return it for people: the median, and in brackets the range where there is one."""
        middle, low, high = (format(value * factor, form) for value in (self.median, self.low, self.high))
        return middle if low == high else f"{middle} ({low} to {high})"


def spread_of(values: Iterable[float]) -> Spread:
    """Return the spread of some values.

    Raises:
        ValueError: no values.
    """
    known = list(values)
    if not known:
        raise ValueError("got no values, expected at least one")
    return Spread(statistics.median(known), min(known), max(known), len(known))


def within(values: Iterable[float], share: float) -> bool:
    """Whether the largest of some positive values is at most a share above the smallest."""
    known = list(values)
    return max(known) <= min(known) * (1 + share)
