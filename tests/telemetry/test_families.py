"""Counts in plain numbers, held against numpy and against what Prometheus' own client reads."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from poise.telemetry.families import (
    Histogram,
    counter,
    counter_family,
    gauge,
    gauge_family,
    histogram_family,
)

values = st.lists(st.floats(0, 20, allow_nan=False), max_size=50)
bounds = st.lists(st.floats(0.001, 10), min_size=1, max_size=6, unique=True).map(sorted)


class Fixed(Collector):
    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self):
        return self._families


def text_of(*families: Metric) -> str:
    registry = CollectorRegistry()
    registry.register(Fixed(*families))
    return generate_latest(registry).decode()


def samples_of(*families: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text_of(*families))
        for sample in family.samples
    }


@given(values, bounds)
def test_a_histogram_counts_what_is_at_most_each_bound(values, bounds):
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    buckets, total = histogram.buckets()
    counts = [count for _, count in buckets]
    assert counts == [*(float(np.sum(np.array(values) <= bound)) for bound in bounds), float(len(values))]
    assert all(low <= high for low, high in pairwise(counts))
    assert np.isclose(total, sum(values))
    assert buckets[-1][0] == "+Inf"


def test_families_read_back_as_they_were_written():
    histogram = Histogram((1, 2))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    found = samples_of(
        histogram_family("h_seconds", "H.", ("x",), [(("a",), histogram)]),
        counter_family("c", "C.", ("x", "y"), [(("a", 'b"\\\n'), 3)]),
        gauge_family("g", "G.", ("x",), [(("a",), 0.25)]),
        counter("n", "N.", 2),
        gauge("m", "M.", -1.0),
    )
    assert found == {
        ("h_seconds_bucket", (("le", "1"), ("x", "a"))): 2.0,
        ("h_seconds_bucket", (("le", "2"), ("x", "a"))): 3.0,
        ("h_seconds_bucket", (("le", "+Inf"), ("x", "a"))): 4.0,
        ("h_seconds_count", (("x", "a"),)): 4.0,
        ("h_seconds_sum", (("x", "a"),)): 12.0,
        ("c_total", (("x", "a"), ("y", 'b"\\\n'))): 3.0,
        ("g", (("x", "a"),)): 0.25,
        ("n_total", ()): 2.0,
        ("m", ()): -1.0,
    }
