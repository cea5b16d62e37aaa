"""What the adapter did, as Prometheus families."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from poise.adapting.decision import Decision
from poise.adapting.events import AllocationSolved
from poise.serving.metrics import Histogram

SOLVE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class AdapterMetrics(Collector):
    """Counters of one adapter. ``faults``: what it, or the carrying out of its commands, raised."""

    def __init__(self, states: Callable[[], Mapping[str, int]], cores_in_use: Callable[[], int]) -> None:
        self._states = states
        self._cores_in_use = cores_in_use
        self._decisions: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._solve_s = Histogram(SOLVE_SECONDS)
        self._solver_failures = 0
        self._planned_s: float | None = None
        self._planned_rps: dict[str, float] = {}
        self.faults = 0

    def decided(self, decision: Decision) -> None:
        """Count a decision."""
        self._decisions[decision.reason, decision.outcome] += 1
        self._planned_rps = dict(decision.planned_rps)

    def solved(self, event: AllocationSolved) -> None:
        """Count an answer of the solver."""
        self._solve_s.observe(event.solve_s)
        if event.allocation is None:
            self._solver_failures += 1
        else:
            self._planned_s = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """Yield every family; prometheus-client calls this."""
        decisions = CounterMetricFamily(
            "poise_decisions", "Decisions of the adapter.", labels=["reason", "outcome"]
        )
        for (reason, outcome), count in self._decisions.items():
            decisions.add_metric([reason, outcome], count)
        yield decisions
        yield self._solve_s.family("poise_solve_seconds", "What one answer of the solver took.")
        yield CounterMetricFamily(
            "poise_solver_failures", "Solver calls that gave no allocation.", self._solver_failures
        )
        yield CounterMetricFamily("poise_adapter_faults", "Faults of the adapter's own.", self.faults)
        yield GaugeMetricFamily("poise_cores_in_use", "Cores of the workers in use.", self._cores_in_use())
        planned = GaugeMetricFamily(
            "poise_planned_rps", "The load that was last planned for.", labels=["slo_class"]
        )
        for name, rps in self._planned_rps.items():
            planned.add_metric([name], rps)
        yield planned
        if self._planned_s is not None:
            yield GaugeMetricFamily(
                "poise_plan_age_seconds",
                "Since the solver last found a plan.",
                time.monotonic() - self._planned_s,
            )
