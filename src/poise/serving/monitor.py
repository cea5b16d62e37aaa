"""The monitor: what arrived and what became of it, counted job by job and told once a second."""

from __future__ import annotations

from collections.abc import Iterable

from poise.adapting.events import ClassCounts, Observed


class _Counts:
    """What one class did since the last beat; see ``ClassCounts``."""

    __slots__ = ("accuracy_sum", "answered_items", "items", "jobs", "met", "missed")

    def __init__(self) -> None:
        self.jobs = self.items = self.met = self.missed = self.answered_items = 0
        self.accuracy_sum = 0.0


class Monitor:
    """Counts for one service. Its calls cost some hundred nanoseconds each."""

    def __init__(self, classes: Iterable[str], now_s: float, service: str = "") -> None:
        self._service = service
        self._classes = {name: _Counts() for name in classes}
        self._since_s = now_s

    def arrived(self, slo_class: str, items: int) -> None:
        """Count a job that was asked for, taken or not."""
        counts = self._classes[slo_class]
        counts.jobs += 1
        counts.items += items

    def answered(self, slo_class: str, items: int, accuracy: float, *, met: bool) -> None:
        """Count an answered job; ``met``: within its deadline and at its floor."""
        counts = self._classes[slo_class]
        counts.answered_items += items
        counts.accuracy_sum += accuracy * items
        if met:
            counts.met += 1
        else:
            counts.missed += 1

    def missed(self, slo_class: str) -> None:
        """Count a job that got no answer, but for one whose client had left."""
        self._classes[slo_class].missed += 1

    def beat(self, now_s: float, epoch_s: float, busy_s: float, waiting_items: int) -> Observed:
        """Return what happened since the last beat, and begin the next."""
        span_s, self._since_s = now_s - self._since_s, now_s
        counts, self._classes = self._classes, {name: _Counts() for name in self._classes}
        return Observed(
            now_s=now_s,
            span_s=span_s,
            classes=tuple(
                ClassCounts(
                    slo_class=name,
                    jobs=c.jobs,
                    items=c.items,
                    met=c.met,
                    missed=c.missed,
                    answered_items=c.answered_items,
                    accuracy_sum=c.accuracy_sum,
                )
                for name, c in counts.items()
            ),
            busy_s=busy_s,
            waiting_items=waiting_items,
            epoch_s=epoch_s,
            service=self._service,
        )
