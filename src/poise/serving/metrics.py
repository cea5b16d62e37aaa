"""What a cell counts, and its Prometheus form.

The counters are plain numbers of one event loop: adding to one costs a fraction of a microsecond and takes no
lock. They become Prometheus families only when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from poise.scheduling.commands import Answer

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DECISION_SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 1e-1)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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
        family = HistogramMetricFamily(name, text)
        total = 0
        buckets = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((f"{bound:g}" if bound != float("inf") else "+Inf", float(total)))
        family.add_metric([], buckets, self._sum)
        return family


class CellMetrics(Collector):
    """The counters of one cell; gauges are asked from ``gauges`` when they are wanted."""

    def __init__(self, gauges: Callable[[], CellGauges]) -> None:
        self._gauges = gauges
        self._registry = CollectorRegistry(auto_describe=False)
        self.jobs: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.items: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.late_jobs = 0
        self.expected_items = 0.0
        self.queue_s = Histogram(SECONDS)
        self.compute_s = Histogram(SECONDS)
        self.batch_items = Histogram(ITEMS)
        self.decision_s = Histogram(DECISION_SECONDS)
        self._registry.register(self)

    def answered(self, slo_class: str, items: int, answer: Answer) -> None:
        """Count an answered job."""
        self.jobs[slo_class, "late" if answer.late else "answered"] += 1
        self.late_jobs += answer.late
        self.expected_items += answer.accuracy * items
        self.queue_s.observe(answer.queue_s)
        self.compute_s.observe(answer.compute_s)
        for part in answer.parts:
            self.items[part.variant, part.modalities] += part.items

    def add(self, collector: Collector) -> None:
        """Show what another collects beside these."""
        self._registry.register(collector)

    @property
    def registry(self) -> CollectorRegistry:
        """All that is counted here and beside."""
        return self._registry

    def collect(self) -> Iterator[Metric]:
        """Yield every family; prometheus-client calls this."""
        gauges = self._gauges()
        jobs = CounterMetricFamily("poise_jobs", "Jobs by outcome.", labels=["slo_class", "outcome"])
        for (slo_class, outcome), count in self.jobs.items():
            jobs.add_metric([slo_class, outcome], count)
        yield jobs
        refused = CounterMetricFamily("poise_refused_jobs", "Jobs that got no answer.", labels=["reason"])
        for reason, count in self.refused.items():
            refused.add_metric([reason], count)
        yield refused
        items = CounterMetricFamily(
            "poise_items", "Items answered, by mode.", labels=["variant", "modalities"]
        )
        for (variant, mask), count in self.items.items():
            items.add_metric([variant, gauges.label(mask)], count)
        yield items
        yield _counter("poise_late_jobs", "Jobs answered after their deadline.", self.late_jobs)
        yield _counter(
            "poise_accuracy_expected_items",
            "Sum of the expected accuracy of the items answered.",
            self.expected_items,
        )
        yield self.queue_s.family("poise_queue_seconds", "From arrival to the first dispatch.")
        yield self.compute_s.family("poise_compute_seconds", "From the first dispatch to the last output.")
        yield self.batch_items.family("poise_batch_items", "Items in a batch.")
        yield self.decision_s.family(
            "poise_scheduler_decision_seconds", "What one event costs the scheduler."
        )
        workers = GaugeMetricFamily("poise_workers", "Workers by state.", labels=["state"])
        for state, count in gauges.workers.items():
            workers.add_metric([state], count)
        yield workers
        deviations = CounterMetricFamily(
            "poise_share_deviations",
            "Items that a deadline gave to a variant beyond its share of the plan.",
            labels=["slo_class"],
        )
        for slo_class, count in gauges.deviations.items():
            deviations.add_metric([slo_class], count)
        yield deviations
        yield GaugeMetricFamily("poise_queue_jobs", "Jobs accepted and not yet answered.", gauges.queue_jobs)


class CellGauges(NamedTuple):
    """What a cell holds right now."""

    workers: Mapping[str, int]
    queue_jobs: int
    deviations: Mapping[str, int]
    label: Callable[[int], str]


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value)


def metrics_text(cells: Mapping[str, CellMetrics]) -> bytes:
    """Return all metrics in the text format of Prometheus; where there are several services, each has its label."""
    if len(cells) == 1:
        return generate_latest(next(iter(cells.values())).registry)
    together = CollectorRegistry(auto_describe=False)
    together.register(_Together(cells))
    return generate_latest(together)


class _Together(Collector):
    """The metrics of several services, each under one name only, told apart by the label ``service``."""

    def __init__(self, cells: Mapping[str, CellMetrics]) -> None:
        self._cells = cells

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for service, cell in self._cells.items():
            for family in cell.registry.collect():
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples += [
                    sample._replace(labels={"service": service, **sample.labels}) for sample in family.samples
                ]
        yield from families.values()
