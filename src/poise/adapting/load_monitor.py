"""What was observed of one service, as the adapter needs it: rates by the second, shares of classes, attainment."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import nan

import numpy as np

from poise.adapting.events import ClassCounts, Observed
from poise.forecasting.base import RateHistory

KEPT_S = 28 * 86_400
"""So many seconds of rates are kept: four weeks show what depends on the day of the week."""
MIX_WINDOW_S = 60.0
"""Over about so long the shares of classes, and the items of a job, are averaged."""
RECENT_BEATS = 30
LONGEST_GAP_S = 7 * 86_400


class LoadMonitor:
    """The load of one service. Mutable: ``observe`` takes one beat after the other. Units: seconds, jobs/s, items/s."""

    def __init__(self, classes: Iterable[str], past: RateHistory | None = None) -> None:
        self._rates = np.full(1 << 12, nan)
        self._count = 0
        self._end_s = 0.0
        if past is not None and len(past.rates):
            kept = past.rates[-KEPT_S:]
            self._rates = np.full(max(1 << 12, 2 * len(kept)), nan)
            self._rates[: len(kept)] = kept
            self._count, self._end_s = len(kept), past.end_s
        names = tuple(classes)
        self._jobs = dict.fromkeys(names, 0.0)
        self._items = dict.fromkeys(names, 0.0)
        self._span_s = 0.0
        self._beats: deque[Observed] = deque(maxlen=RECENT_BEATS)

    def observe(self, beat: Observed) -> None:
        """Take one beat; a class that is not known is not counted."""
        span_s = max(beat.span_s, 1e-3)
        self._note_rate(sum(counts.jobs for counts in beat.classes) / span_s, beat.epoch_s)
        kept = max(0.0, 1.0 - span_s / MIX_WINDOW_S)
        self._span_s = kept * self._span_s + span_s
        for counts in beat.classes:
            if counts.slo_class in self._jobs:
                self._jobs[counts.slo_class] = kept * self._jobs[counts.slo_class] + counts.jobs
                self._items[counts.slo_class] = kept * self._items[counts.slo_class] + counts.items
        self._beats.append(beat)

    @property
    def history(self) -> RateHistory:
        """The jobs of each second so far."""
        return RateHistory(self._rates[: self._count], self._end_s)

    @property
    def last_rps(self) -> float:
        """The jobs per second of the last beat."""
        return float(self._rates[self._count - 1]) if self._count else 0.0

    def mean_rps(self, beats: int) -> float:
        """The mean jobs per second of the last so many beats."""
        recent = self._rates[max(0, self._count - beats) : self._count]
        recent = recent[~np.isnan(recent)]
        return float(recent.mean()) if len(recent) else 0.0

    def items_rps(self, jobs_rps: float) -> dict[str, float]:
        """Return the items per second of each class, were so many jobs to arrive per second, mixed as of late."""
        total = sum(self._jobs.values())
        if total <= 0:
            return dict.fromkeys(self._jobs, jobs_rps / len(self._jobs))
        return {name: jobs_rps * self._items[name] / total for name in self._jobs}

    def jobs_rps(self, jobs_rps: float) -> dict[str, float]:
        """Return the jobs per second of each class likewise."""
        total = sum(self._jobs.values())
        if total <= 0:
            return dict.fromkeys(self._jobs, jobs_rps / len(self._jobs))
        return {name: jobs_rps * jobs / total for name, jobs in self._jobs.items()}

    def attainment(self, beats: int) -> float | None:
        """Return the share of jobs that met deadline and floor over the last beats; None where none had an outcome."""
        met = missed = 0
        for counts in self._recent(beats):
            met += counts.met
            missed += counts.missed
        return met / (met + missed) if met + missed else None

    def utilisation(self, beats: int) -> float:
        """Return how many workers were busy on average over the last beats."""
        recent = list(self._beats)[-beats:]
        span_s = sum(beat.span_s for beat in recent)
        return sum(beat.busy_s for beat in recent) / span_s if span_s > 0 else 0.0

    def _recent(self, beats: int) -> Iterable[ClassCounts]:
        for beat in list(self._beats)[-beats:]:
            yield from beat.classes

    def _note_rate(self, rps: float, epoch_s: float) -> None:
        """Write the rate of the second that ended; seconds without a beat are gaps."""
        if self._count and epoch_s > self._end_s:
            missing = round(min(epoch_s - self._end_s, LONGEST_GAP_S)) - 1
            for _ in range(max(0, missing)):
                self._push(nan)
        self._push(rps)
        self._end_s = max(epoch_s, self._end_s)

    def _push(self, rps: float) -> None:
        if self._count == len(self._rates):
            kept = self._rates[-KEPT_S:]
            grown = np.full(min(2 * len(kept), 2 * KEPT_S), nan)
            grown[: len(kept)] = kept
            self._rates, self._count = grown, len(kept)
        self._rates[self._count] = rps
        self._count += 1
