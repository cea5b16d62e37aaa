"""What a cell counts for the protocol's statistics: sums of one event loop, added to in well under a microsecond."""

from __future__ import annotations

import time
from collections import defaultdict

from poise.domain.job import Job
from poise.errors import InternalError
from poise.ingress.gate import Answered, Outcome
from poise.protocol.statistics import BatchStatistics, InferStatistics, ModelStatistics, duration_of
from poise.serving.messages import Done


class StatisticsCount:
    """Counts since the server's start. ``failed``: jobs that got no answer."""

    def __init__(self) -> None:
        self._answered = 0
        self._items = 0
        self._queue_s = 0.0
        self._compute_s = 0.0
        self.failed = 0
        self._failed_s = 0.0
        self._last_s: float | None = None
        self._batches: defaultdict[int, list[float]] = defaultdict(lambda: [0, 0.0])

    def settled(self, job: Job, outcome: Outcome | InternalError) -> None:
        """Count what became of a job; a refusal itself is counted where it is decided."""
        if isinstance(outcome, Answered):
            answer = outcome.answer
            self._answered += 1
            self._items += job.items
            self._queue_s += answer.queue_s
            self._compute_s += answer.compute_s
        else:
            self.failed += isinstance(outcome, InternalError)
            self._failed_s += time.monotonic() - job.arrival_s

    def ran(self, now_s: float, items: int, done: Done) -> None:
        """Count a batch. Units: ``now_s`` on the monotonic clock."""
        self._last_s = now_s
        sums = self._batches[items]
        sums[0] += 1
        for _, seconds in done.stage_s:
            sums[1] += seconds

    def value(self, name: str) -> ModelStatistics:
        """Return the statistics of the service of that name."""
        answered = self._answered
        last_ms = 0
        if self._last_s is not None:
            last_ms = round((time.time() - (time.monotonic() - self._last_s)) * 1e3)
        return ModelStatistics(
            name=name,
            last_inference=last_ms,
            inference_count=self._items,
            execution_count=sum(int(count) for count, _ in self._batches.values()),
            inference_stats=InferStatistics(
                success=duration_of(answered, self._queue_s + self._compute_s),
                fail=duration_of(self.failed, self._failed_s),
                queue=duration_of(answered, self._queue_s),
                compute_input=duration_of(answered, 0.0),
                compute_infer=duration_of(answered, self._compute_s),
                compute_output=duration_of(answered, 0.0),
            ),
            batch_stats=tuple(
                BatchStatistics(
                    batch_size=items,
                    compute_input=duration_of(int(count), 0.0),
                    compute_infer=duration_of(int(count), compute_s),
                    compute_output=duration_of(int(count), 0.0),
                )
                for items, (count, compute_s) in sorted(self._batches.items())
            ),
        )
