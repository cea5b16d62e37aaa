"""What a cell counts, and its Prometheus form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from poise.domain.job import RefusalReason
from poise.scheduling.commands import Answer
from poise.serving.cell_state import CellState, state_families
from poise.telemetry.families import SECONDS, Histogram, counter, counter_family, histogram_family

DECISION_SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 1e-1)
OUTCOMES = ("answered", "late", "refused", "failed")
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ClassMetrics:
    """What is counted of one SLO class. Mutable; every number only grows."""

    __slots__ = (
        "answered_items", "arrived_items", "arrived_jobs", "compute_s", "expected_items", "queue_s", "response_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arrived_jobs = 0
        self.arrived_items = 0
        self.answered_items = 0
        self.expected_items = 0.0
        self.queue_s = Histogram(SECONDS)
        self.compute_s = Histogram(SECONDS)
        self.response_s = Histogram(SECONDS)


class CellMetrics(Collector):
    """The counters of one cell; what it holds right now is asked from ``state`` when somebody wants it."""

    def __init__(self, classes: Sequence[str], state: Callable[[], CellState]) -> None:
        self._state = state
        self._registry = CollectorRegistry(auto_describe=False)
        self._classes = {name: ClassMetrics() for name in classes}
        # Every series is there from the start: a rate over one that begins with its first job misses that job.
        self.jobs = {(name, outcome): 0 for name in classes for outcome in OUTCOMES}
        self.refused = {reason.value: 0 for reason in RefusalReason}
        self.items: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.late_jobs = 0
        self.below_floor_jobs = 0
        self.failed_batches = 0
        self.workers_started = 0
        self.workers_lost = 0
        self.batch_items = Histogram(ITEMS)
        self.batch_s: dict[str, Histogram] = {}
        self.decision_s = Histogram(DECISION_SECONDS)
        self._registry.register(self)

    def arrived(self, slo_class: str, items: int) -> None:
        """Count a job that was asked for, taken or not."""
        counts = self._classes[slo_class]
        counts.arrived_jobs += 1
        counts.arrived_items += items

    def answered(self, slo_class: str, items: int, answer: Answer) -> None:
        """Count an answered job."""
        self.jobs[slo_class, "late" if answer.late else "answered"] += 1
        self.late_jobs += answer.late
        self.below_floor_jobs += answer.below_floor
        counts = self._classes[slo_class]
        counts.answered_items += items
        counts.expected_items += answer.accuracy * items
        counts.queue_s.observe(answer.queue_s)
        counts.compute_s.observe(answer.compute_s)
        counts.response_s.observe(answer.queue_s + answer.compute_s)
        for part in answer.parts:
            self.items[part.variant, part.modalities] += part.items

    def batch_done(self, variant: str, run_s: float) -> None:
        """Count a batch that came back, so many seconds after it was dispatched."""
        histogram = self.batch_s.get(variant)
        if histogram is None:
            histogram = self.batch_s[variant] = Histogram(SECONDS)
        histogram.observe(run_s)

    def add(self, collector: Collector) -> None:
        """Show what another collects beside these."""
        self._registry.register(collector)

    @property
    def registry(self) -> CollectorRegistry:
        """All that is counted here and beside."""
        return self._registry

    def collect(self) -> Iterator[Metric]:
        """Yield every family; prometheus-client calls this."""
        state = self._state()
        yield from self._job_families()
        yield from self._accuracy_families(state)
        yield from self._time_families()
        yield counter_family(
            "poise_share_deviations",
            "Items that a deadline gave to a variant beyond its share of the plan.",
            ("slo_class",),
            (((name,), count) for name, count in state.scheduler.deviations.items()),
        )
        yield counter("poise_failed_batches", "Batches on which the model raised.", self.failed_batches)
        yield counter(
            "poise_workers_started", "Workers that loaded their resident set.", self.workers_started
        )
        yield counter(
            "poise_workers_lost", "Workers that died or hung while they were in use.", self.workers_lost
        )
        yield from state_families(state)

    def _job_families(self) -> Iterator[Metric]:
        classes = self._classes
        yield counter_family(
            "poise_arrived_jobs",
            "Jobs that were asked for, taken or not.",
            ("slo_class",),
            (((name,), counts.arrived_jobs) for name, counts in classes.items()),
        )
        yield counter_family(
            "poise_arrived_items",
            "Items of the jobs that were asked for.",
            ("slo_class",),
            (((name,), counts.arrived_items) for name, counts in classes.items()),
        )
        yield counter_family("poise_jobs", "Jobs by outcome.", ("slo_class", "outcome"), self.jobs.items())
        yield counter_family(
            "poise_refused_jobs",
            "Jobs that got no answer, by reason.",
            ("reason",),
            (((reason,), count) for reason, count in self.refused.items()),
        )
        yield counter("poise_late_jobs", "Jobs answered after their deadline.", self.late_jobs)
        yield counter(
            "poise_below_floor_jobs",
            "Jobs answered below their accuracy floor, since their class prefers deadlines.",
            self.below_floor_jobs,
        )

    def _accuracy_families(self, state: CellState) -> Iterator[Metric]:
        classes = self._classes
        yield counter_family(
            "poise_items",
            "Items answered, by mode.",
            ("variant", "modalities"),
            (((variant, state.label(mask)), count) for (variant, mask), count in self.items.items()),
        )
        yield counter_family(
            "poise_answered_items",
            "Items answered, by class.",
            ("slo_class",),
            (((name,), counts.answered_items) for name, counts in classes.items()),
        )
        yield counter_family(
            "poise_accuracy_expected_items",
            "Sum of the expected accuracy of the items answered.",
            ("slo_class",),
            (((name,), counts.expected_items) for name, counts in classes.items()),
        )

    def _time_families(self) -> Iterator[Metric]:
        by_class = [((name,), counts) for name, counts in self._classes.items()]
        yield histogram_family(
            "poise_queue_seconds",
            "From arrival to the first dispatch.",
            ("slo_class",),
            ((label, counts.queue_s) for label, counts in by_class),
        )
        yield histogram_family(
            "poise_compute_seconds",
            "From the first dispatch to the last output.",
            ("slo_class",),
            ((label, counts.compute_s) for label, counts in by_class),
        )
        yield histogram_family(
            "poise_response_seconds",
            "From arrival to the last output.",
            ("slo_class",),
            ((label, counts.response_s) for label, counts in by_class),
        )
        yield self.batch_items.family("poise_batch_items", "Items in a batch.")
        yield histogram_family(
            "poise_batch_seconds",
            "From a batch's dispatch to its last output.",
            ("variant",),
            (((variant,), histogram) for variant, histogram in self.batch_s.items()),
        )
        yield self.decision_s.family(
            "poise_scheduler_decision_seconds", "What one event costs the scheduler."
        )


def metrics_text(cells: Mapping[str, CellMetrics], *server: Collector) -> bytes:
    """Return all metrics in the text format of Prometheus; where there are several services, each has its label.

    ``server`` are the collectors of what is the process's and not one service's.
    """
    together = CollectorRegistry(auto_describe=False)
    for collector in server:
        together.register(collector)
    together.register(_Services(cells))
    return generate_latest(together)


class _Services(Collector):
    """The metrics of all services, each under one name only; of several, told apart by the label ``service``."""

    def __init__(self, cells: Mapping[str, CellMetrics]) -> None:
        self._cells = cells

    def collect(self) -> Iterator[Metric]:
        if len(self._cells) == 1:
            yield from next(iter(self._cells.values())).registry.collect()
            return
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
