"""What the adapter did, as Prometheus families."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from poise.adapting.decision import Decision
from poise.adapting.events import AllocationSolved
from poise.forecasting.base import Forecast
from poise.telemetry.families import Histogram, counter, counter_family, gauge, gauge_family

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
        self._observed_rps: dict[str, float] = {}
        self._forecast: Forecast | None = None
        self._loads = 0
        self.faults = 0

    def decided(self, decision: Decision) -> None:
        """Count a decision."""
        self._decisions[decision.reason, decision.outcome] += 1
        self._planned_rps = dict(decision.planned_rps)
        self._observed_rps = dict(decision.observed_rps)
        self._forecast = decision.forecast
        self._loads += decision.loads

    def solved(self, event: AllocationSolved) -> None:
        """Count an answer of the solver."""
        self._solve_s.observe(event.solve_s)
        if event.allocation is None:
            self._solver_failures += 1
        else:
            self._planned_s = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """Yield every family; prometheus-client calls this."""
        yield counter_family(
            "poise_decisions", "Decisions of the adapter.", ("reason", "outcome"), self._decisions.items()
        )
        yield counter("poise_planned_loads", "Workers that decisions asked to be loaded.", self._loads)
        yield self._solve_s.family("poise_solve_seconds", "What one answer of the solver took.")
        yield counter("poise_solver_failures", "Solver calls that gave no allocation.", self._solver_failures)
        yield counter("poise_adapter_faults", "Faults of the adapter's own.", self.faults)
        yield gauge("poise_cores_in_use", "Cores of the workers in use.", self._cores_in_use())
        yield gauge_family(
            "poise_planned_rps",
            "The load that was last planned for.",
            ("slo_class",),
            (((name,), rps) for name, rps in self._planned_rps.items()),
        )
        yield gauge_family(
            "poise_observed_rps",
            "The mean load over the interval before the last decision.",
            ("slo_class",),
            (((name,), rps) for name, rps in self._observed_rps.items()),
        )
        yield from self._forecast_families()
        if self._planned_s is not None:
            age_s = time.monotonic() - self._planned_s
            yield gauge("poise_plan_age_seconds", "Since the solver last found a plan.", age_s)

    def _forecast_families(self) -> Iterator[Metric]:
        forecast = self._forecast
        if forecast is None:
            return
        yield gauge_family(
            "poise_forecast_rps",
            "The largest rate of any second within the horizon, as forecast at the last decision, by level.",
            ("level", "forecaster"),
            (
                ((f"{level:g}", forecast.forecaster), rate)
                for level, rate in zip(forecast.levels, forecast.rates, strict=True)
            ),
        )
        yield gauge("poise_forecast_horizon_seconds", "How far the forecast looks ahead.", forecast.horizon_s)
