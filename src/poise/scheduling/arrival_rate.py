"""Running estimates of what arrives, until forecasters say more: rates, and how short deadlines are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from poise.domain.job import Job
from poise.domain.service import SLOClass
from poise.errors import InternalError
from poise.scheduling.events import RateForecast

RECENT = 128
"""So many arrivals say how short deadlines are."""
SHORT_QUANTILE = 0.05
RATE_WINDOW_OF_SLO = 4.0
COARSE = math.log(1.1)
ROUNDING = 1e-6


class ArrivalRate:
    """Items per second, exponentially weighted. Units: ``window_s`` in seconds."""

    __slots__ = ("_at_s", "_mass", "_started_s", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._mass = 0.0
        self._at_s: float | None = None
        self._started_s = 0.0

    def observe(self, now_s: float, items: int) -> None:
        """Count arrived items."""
        if self._at_s is None:
            self._started_s = now_s
        else:
            self._mass *= math.exp(-(now_s - self._at_s) / self.window_s)
        self._at_s = now_s
        self._mass += items

    def items_per_s(self, now_s: float) -> float:
        """Return the rate now; unbiased from the first arrival on, never from less than a tenth of the window."""
        if self._at_s is None:
            return 0.0
        seen_s, least_s = now_s - self._started_s, 0.1 * self.window_s
        weight = self.window_s * -math.expm1(-(seen_s if seen_s > least_s else least_s) / self.window_s)
        return self._mass * math.exp(-(now_s - self._at_s) / self.window_s) / weight


class ShortDeadlines:
    """How long deadlines are, of the shorter ones: the 5 % quantile of the last arrivals of a class, at most its SLO.

    Clients may ask for less time than their class's SLO; a batch that blocks the worker is measured against what
    they do ask for. ``coarse_s`` is the same in steps of a tenth, for what is kept by it. Units: seconds.
    """

    __slots__ = ("_recent", "_since", "_slo_s", "coarse_s", "value_s")

    def __init__(self, slo_s: float) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._slo_s = slo_s
        self._since = 0
        self.value_s = slo_s
        self.coarse_s = slo_s

    def observe(self, within_s: float) -> None:
        """Take one arrival's time until its deadline."""
        recent = self._recent
        recent.append(within_s)
        self._since += 1
        if within_s < self.value_s or self._since >= RECENT // 4:
            self._since = 0
            ordered = sorted(recent)
            self.value_s = min(self._slo_s, max(ordered[int(SHORT_QUANTILE * len(ordered))], 1e-6))
            # Differences of times are a little below what they should be, and that is no step.
            steps = math.floor(math.log(self.value_s / self._slo_s) / COARSE + ROUNDING)
            self.coarse_s = self._slo_s * math.exp(steps * COARSE)


class Arrivals:
    """What arrives, by class: rates, and how long deadlines are.

    A forecast replaces the running rates while it holds.
    """

    def __init__(self, classes: Mapping[str, SLOClass]) -> None:
        self.window_s = window_s = max(
            1.0, RATE_WINDOW_OF_SLO * min(slo.latency_slo_s for slo in classes.values())
        )
        self._rates = {name: ArrivalRate(window_s) for name in classes}
        self._forecast: RateForecast | None = None
        self.deadlines = {name: ShortDeadlines(slo.latency_slo_s) for name, slo in classes.items()}
        self.deadlines_s = {name: short.value_s for name, short in self.deadlines.items()}
        """How long the shorter deadlines of each class are."""

    def observe(self, now_s: float, job: Job) -> None:
        """Take one arrival; KeyError for a class that there is not."""
        name = job.slo_class
        self._rates[name].observe(now_s, job.items)
        short = self.deadlines[name]
        short.observe(job.deadline_s - now_s)
        self.deadlines_s[name] = short.value_s

    def expect(self, forecast: RateForecast) -> None:
        """Take a forecast of the rate of all classes together; it is shared out as the running rates are.

        Raises:
            InternalError: what is forecast is no rate, or not for a while.
        """
        if not (0.0 <= forecast.items_per_s < math.inf and 0.0 <= forecast.valid_s < math.inf):
            raise InternalError("a forecast that is no rate", story=(repr(forecast),))
        self._forecast = forecast

    def items_per_s(self, now_s: float) -> dict[str, float]:
        """Return the rate of each class."""
        rates: dict[str, float] = {}
        for name, rate in self._rates.items():
            rates[name] = rate.items_per_s(now_s)
        forecast = self._forecast
        if forecast is not None and now_s <= forecast.now_s + forecast.valid_s:
            total = sum(rates.values())
            if total > 0:
                return {name: rate * forecast.items_per_s / total for name, rate in rates.items()}
            return dict.fromkeys(rates, forecast.items_per_s / len(rates))
        return rates
