"""HPA: replicas of one variant by Kubernetes' Horizontal Pod Autoscaler on utilisation.

Every sync period: desired = ⌈replicas · utilisation / target⌉, nothing where the ratio is within a tenth of 1.
Upwards at most by four replicas or to twice as many within a period, whichever is more; downwards to the largest number
desired within the stabilisation window.

Source: Kubernetes' documentation, Horizontal Pod Autoscaling, with its default behaviour and constants.
"""

from __future__ import annotations

import math
from collections import deque
from typing import ClassVar

from poise.adapting.core_policies import CorePolicy, fixed_variant
from poise.adapting.events import Observed
from poise.adapting.policy import Situation, Solve
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.planning.core_allocation import judge

TARGET_UTILISATION = 0.8
TOLERANCE = 0.1
SYNC_PERIOD_S = 15.0
STABILISATION_S = 300.0
MOST_ADDED, MOST_TIMES = 4, 2


class ReplicaController:
    """HPA's recommendations. Mutable: remembers what it desired of late. Units: seconds, shares."""

    def __init__(self) -> None:
        self._desired: deque[tuple[float, int]] = deque()

    def recommend(self, now_s: float, replicas: int, utilisation: float, most: int) -> int:
        """Return how many replicas there should be; ``utilisation`` is that of the present ones, 0 to 1."""
        ratio = utilisation / TARGET_UTILISATION
        desired = replicas if abs(ratio - 1.0) <= TOLERANCE else math.ceil(replicas * ratio - 1e-9)
        desired = min(max(1, desired), most)
        self._desired.append((now_s, desired))
        while self._desired[0][0] < now_s - STABILISATION_S:
            self._desired.popleft()
        stable = max(count for _, count in self._desired)
        if desired < replicas:
            return min(replicas, stable)
        return min(desired, max(replicas + MOST_ADDED, MOST_TIMES * replicas))


class Hpa(CorePolicy):
    """HPA for one variant: ``adapter.variant``, or the most accurate one. It has its own stabilisation."""

    name: ClassVar[str] = "hpa"
    interval_s: ClassVar[float | None] = SYNC_PERIOD_S
    stabilises: ClassVar[bool] = False

    def __init__(self, service: Service, profile: Profile, cores: int) -> None:
        super().__init__(service, profile, cores)
        self.variant = fixed_variant(service, profile)
        self._controller = ReplicaController()
        self._since_s = 0.0
        self._busy_s = 0.0
        self._replicas = 0
        self._recommended: int | None = None

    def observe(self, beat: Observed) -> None:
        """Gather usage; every sync period there is a recommendation."""
        self._since_s += beat.span_s
        self._busy_s += beat.busy_s
        if self._since_s >= SYNC_PERIOD_S - 1e-6:
            if self._replicas:
                used = min(1.0, self._busy_s / self._since_s / self._replicas)
                most = len(self._candidates[0].capacity_rps) - 1
                self._recommended = self._controller.recommend(beat.now_s, self._replicas, used, most)
            self._since_s = self._busy_s = 0.0

    def ask(self, situation: Situation) -> Solve:
        """Return the last recommendation, or as many as there are."""
        now = self.current(situation).get(self.variant, 0)
        if self._recommended is None or not now:
            wanted = now or self.enough(situation, self.variant)
        else:
            wanted = self._recommended
        count = min(max(wanted, self.settings.min_cores, 1), situation.cores)
        self._replicas = count
        problem = self.problem(situation)
        return lambda: self.answer(judge(problem, {self.variant: count}))
