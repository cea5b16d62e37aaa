"""VPA+: one variant, its cores by the recommender of Kubernetes' Vertical Pod Autoscaler.

The recommender keeps a histogram of the cores that were used, whose weights halve in value every half-life: the
descendant of Autopilot's moving window (EuroSys 2020). Buckets grow by 5 %. The target is a percentile of it plus a
safety margin; the bounds are lower and upper percentiles, widened while there is little history. Kubernetes resizes a
pod when its request leaves the bounds; VPA+ follows the target at every decision, since a resize costs it no downtime:
newcomers are ready before the old workers go. A smaller recommendation is adopted only after some in a row.

Usage cannot exceed what is allocated, so a burst is followed by the margin's 15 % at a time. That is how it is.

Source: Kubernetes' autoscaler, vertical-pod-autoscaler, ``pkg/recommender/model`` and ``logic`` (the constants);
InfAdapter (EuroMLSys 2023), section 5.
"""

from __future__ import annotations

import math
from typing import ClassVar

from poise.adapting.core_policies import CorePolicy, fixed_variant
from poise.adapting.events import Observed
from poise.adapting.policy import Situation, Solve
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.planning.core_allocation import judge

FIRST_BUCKET = 0.01
GROWTH = 1.05
MOST_CORES = 1000.0
HALF_LIFE_S = 86_400.0
LEAST_SAMPLE_WEIGHT = 0.1
TARGET_PERCENTILE = 0.9
LOWER_PERCENTILE = 0.5
UPPER_PERCENTILE = 0.95
SAFETY_MARGIN = 0.15
SAMPLE_EVERY_S = 15.0
"""How often usage is sampled."""
DAY_S = 86_400.0
SAMPLES_PER_DAY = DAY_S / 60.0
"""Confidence grows by a sample a minute."""


class DecayingHistogram:
    """Weights of samples in growing buckets; a sample's weight halves every half-life, relative to newer ones."""

    def __init__(self, half_life_s: float = HALF_LIFE_S) -> None:
        buckets = 1 + math.ceil(math.log(1 + MOST_CORES * (GROWTH - 1) / FIRST_BUCKET, GROWTH))
        self._weights = [0.0] * buckets
        self._half_life_s = half_life_s
        self._reference_s: float | None = None

    def add(self, value: float, now_s: float, weight: float = 1.0) -> None:
        """Add a sample, never a negative one."""
        if self._reference_s is None:
            self._reference_s = now_s
        exponent = (now_s - self._reference_s) / self._half_life_s
        if exponent > 100:  # keep the numbers small
            self._weights = [w * 2.0 ** -round(exponent) for w in self._weights]
            self._reference_s += round(exponent) * self._half_life_s
            exponent -= round(exponent)
        self._weights[self._bucket(value)] += weight * 2.0**exponent

    def percentile(self, share: float) -> float:
        """Return the end of the bucket that holds the percentile; 0 where nothing was added."""
        total = sum(self._weights)
        if total <= 0:
            return 0.0
        reached = 0.0
        for bucket, weight in enumerate(self._weights):
            reached += weight
            if weight > 0 and reached >= share * total - 1e-12 * total:
                return self._start(bucket + 1)
        return self._start(len(self._weights))

    def _bucket(self, value: float) -> int:
        if value < FIRST_BUCKET:
            return 0
        found = int(math.log(value * (GROWTH - 1) / FIRST_BUCKET + 1, GROWTH))
        return min(found, len(self._weights) - 1)

    def _start(self, bucket: int) -> float:
        """Where a bucket begins: bucket *n* is ``GROWTH`` ** n times as wide as the first."""
        return FIRST_BUCKET * (GROWTH**bucket - 1) / (GROWTH - 1)


class Recommender:
    """Kubernetes' recommendation from usage samples. Units: cores, seconds."""

    def __init__(self) -> None:
        self._histogram = DecayingHistogram()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._samples = 0

    def add(self, used: float, requested: float, now_s: float) -> None:
        """Add a sample of the cores that were used; what was requested is its weight, as in Kubernetes."""
        if self._first_s is None:
            self._first_s = now_s
        self._last_s = now_s
        self._samples += 1
        self._histogram.add(used, now_s, max(LEAST_SAMPLE_WEIGHT, requested))

    @property
    def confidence(self) -> float:
        """How many days of history there are, by time or by samples, whichever says less."""
        if self._first_s is None:
            return 0.0
        return min((self._last_s - self._first_s) / DAY_S, self._samples / SAMPLES_PER_DAY)

    def recommend(self) -> tuple[float, float, float]:
        """Return (lower bound, target, upper bound) in cores; the upper is infinite without history."""
        lower, target, upper = (
            (1 + SAFETY_MARGIN) * self._histogram.percentile(share)
            for share in (LOWER_PERCENTILE, TARGET_PERCENTILE, UPPER_PERCENTILE)
        )
        confidence = self.confidence
        if confidence <= 0:
            return 0.0, target, math.inf
        return lower * (1 + 0.001 / confidence) ** -2, target, upper * (1 + 1 / confidence)


class Vpa(CorePolicy):
    """VPA+ for one variant: ``adapter.variant``, or the most accurate one.

    The recommendation is rounded up to whole cores, as *n* cores are *n* workers, and cut to the budget.
    """

    name: ClassVar[str] = "vpa"

    def __init__(self, service: Service, profile: Profile, cores: int) -> None:
        super().__init__(service, profile, cores)
        self.variant = fixed_variant(service, profile)
        self.recommender = Recommender()
        self._requested = float(cores)
        self._since_s = 0.0
        self._busy_s = 0.0

    def observe(self, beat: Observed) -> None:
        """Gather usage; every so often it is a sample."""
        self._since_s += beat.span_s
        self._busy_s += beat.busy_s
        if self._since_s >= SAMPLE_EVERY_S - 1e-6:
            self.recommender.add(self._busy_s / self._since_s, self._requested, beat.now_s)
            self._since_s = self._busy_s = 0.0

    def ask(self, situation: Situation) -> Solve:
        """Recommend cores for the variant; those it has until there is a recommendation."""
        now = self.current(situation).get(self.variant, 0)
        self._requested = float(now)
        _, target, _ = self.recommender.recommend()
        wanted = math.ceil(target - 1e-9) if target > 0 else now or self.enough(situation, self.variant)
        count = min(max(wanted, self.settings.min_cores, 1), situation.cores)
        problem = self.problem(situation)
        return lambda: self.answer(judge(problem, {self.variant: count}))
