"""Counts in plain numbers, and their Prometheus form.

The numbers belong to one event loop: adding to one costs a fraction of a microsecond and takes no lock. They become
Prometheus families only when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import inf

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labelled = Iterable[tuple[Sequence[str], float]]
"""Label values in the order of their names, and the number."""


class Histogram:
    """Counts of values up to each bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, name: str, text: str) -> Metric:
        """Return the Prometheus form."""
        return histogram_family(name, text, (), (((), self),))

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulated count up to each bound, as Prometheus writes it, and the sum of all values."""
        total = 0
        found = []
        for bound, count in zip((*self._bounds, inf), self._counts, strict=True):
            total += count
            found.append((f"{bound:g}" if bound != inf else "+Inf", float(total)))
        return found, self._sum


def histogram_family(
    name: str, text: str, labels: Sequence[str], histograms: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    """Return several histograms of one name, told apart by their labels."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in histograms:
        family.add_metric(values, *histogram.buckets())
    return family


def counter_family(name: str, text: str, labels: Sequence[str], counts: Labelled) -> Metric:
    """Return a counter with labels; ``name`` is without ``_total``."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts:
        family.add_metric(values, count)
    return family


def gauge_family(name: str, text: str, labels: Sequence[str], values: Labelled) -> Metric:
    """Return a gauge with labels."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for own, value in values:
        family.add_metric(own, value)
    return family


def counter(name: str, text: str, count: float) -> Metric:
    """Return a counter without labels; ``name`` is without ``_total``."""
    return CounterMetricFamily(name, text, count)


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value)
