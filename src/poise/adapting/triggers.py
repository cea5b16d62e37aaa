"""When the adapter decides: by the clock, at each beat where that costs nothing, early where waiting costs jobs.

*Hysteresis.* The load has left the forecast's band when two beats in a row are above what was planned for, or one by a
quarter. Attainment has fallen when it is below ``FALLEN`` while it was not before. After an early decision there is no
other for ``QUIET_S``, so that a load at the edge of its band does not cause one decision after the other. A load below
the band never causes an early decision: what is too large only costs, and the clock will see to it.
"""

from __future__ import annotations

from math import inf

from poise.adapting.decision import Reason

ABOVE = 1.25
"""One beat this much above the load that was planned for is enough,"""
BEATS_ABOVE = 2
"""or so many in a row that are above it at all."""
FALLEN = 0.95
QUIET_S = 2.0
HALF_BEAT_S = 0.5
"""Beats are a second apart, more or less: the one that is nearest to the end of the interval is meant."""


class Triggers:
    """Says when a decision is due and why. Units: seconds, jobs/s."""

    def __init__(self, interval_s: float, *, early: bool, every_beat: bool = False) -> None:
        self._interval_s = interval_s
        self._early = early
        self._every_beat = every_beat
        self._last_s = -inf
        self._planned_rps = inf
        self._above = 0
        self._fell = False
        self._worker_gone = False
        self._started = False

    def begin(self, now_s: float) -> None:
        """Start the clock: the first decision is due with the first beat."""
        self._last_s = -inf
        self._started = False

    def observe(self, now_s: float, rps: float, attainment: float) -> None:
        """Take one beat."""
        if rps > self._planned_rps:
            self._above += BEATS_ABOVE if rps > ABOVE * self._planned_rps else 1
        else:
            self._above = 0
        self._fell = attainment < FALLEN

    def worker_gone(self) -> None:
        """Note that a worker of the plan is not there any more."""
        self._worker_gone = True

    def planned(self, rps: float) -> None:
        """Note the load that is planned for."""
        self._planned_rps = rps

    def due(self, now_s: float) -> Reason | None:
        """Return why a decision is due now; None where it is not."""
        if not self._started:
            return "start"
        since_s = now_s - self._last_s
        if since_s >= self._interval_s - HALF_BEAT_S:
            return "interval"
        if self._worker_gone:
            return "worker"
        if self._early and since_s >= QUIET_S:
            if self._above >= BEATS_ABOVE:
                return "band"
            if self._fell:
                return "attainment"
        return "beat" if self._every_beat else None

    def decided(self, now_s: float, reason: Reason) -> None:
        """Note that a decision is being made; one of a beat does not put off the others."""
        self._started = True
        if reason == "beat":
            return
        self._last_s = now_s
        self._above = 0
        self._worker_gone = False
