"""Which batches the traced jobs of a cell were in: read off the scheduler's events and commands, as they pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from poise.ingress.gate import PendingJob
from poise.scheduling.commands import Command, RunBatch
from poise.scheduling.events import BatchDone, BatchFailed, Event, WorkerLost
from poise.telemetry.tracing import BatchRecord


class BatchTraces:
    """Enters batches into the traces of a cell's jobs. Mutable: ``record`` takes one event after the other."""

    def __init__(self, jobs: Mapping[int, PendingJob], label: Callable[[int], str]) -> None:
        self._jobs = jobs
        self._label = label
        self._running: dict[int, tuple[float, RunBatch]] = {}

    def record(self, event: Event, commands: Sequence[Command]) -> None:
        """Take an event and what the scheduler made of it, before any of that is carried out."""
        if isinstance(event, BatchDone):
            self._over(event.batch_id, event.now_s, event.stage_s)
        elif isinstance(event, BatchFailed):
            self._over(event.batch_id, event.now_s, failure="the model failed")
        elif isinstance(event, WorkerLost):
            lost = [key for key, (_, run) in self._running.items() if run.worker_id == event.worker_id]
            for batch_id in lost:
                self._over(batch_id, event.now_s, failure="the worker was lost")
        for command in commands:
            if isinstance(command, RunBatch):
                self._running[command.batch_id] = (event.now_s, command)

    def close(self) -> None:
        """Nothing is left to do."""

    def _over(
        self, batch_id: int, back_s: float, stage_s: tuple[tuple[str, float], ...] = (), failure: str = ""
    ) -> None:
        sent_s, run = self._running.pop(batch_id, (0.0, None))
        if run is None:
            return  # it was given before anybody looked
        batch_items = 0
        own: dict[int, tuple[int, list[str]]] = {}
        for part in run.parts:
            batch_items += part.items
            pending = self._jobs.get(part.job_id)
            if pending is not None and pending.trace is not None:
                items, labels = own.get(part.job_id, (0, []))
                own[part.job_id] = (items + part.items, [*labels, self._label(part.modalities)])
        for job_id, (items, labels) in own.items():
            trace = self._jobs[job_id].trace
            assert trace is not None
            trace.batches.append(
                BatchRecord(
                    batch_id=batch_id,
                    worker_id=run.worker_id,
                    variant=run.variant,
                    modalities=tuple(dict.fromkeys(labels)),
                    items=items,
                    batch_items=batch_items,
                    sent_s=sent_s,
                    back_s=back_s,
                    stage_s=stage_s,
                    failure=failure,
                )
            )
