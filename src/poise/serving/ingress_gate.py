"""A service as an ingress process knows it: tensors go into the shared arena here, and all else is the cell's."""

from __future__ import annotations

import time
from collections.abc import Callable

from poise.domain.job import RefusalReason
from poise.errors import InternalError
from poise.ingress.gate import Answered, Outcome, PendingJob, Refused
from poise.protocol.codec import InferRequest
from poise.protocol.model_config import ModelConfig
from poise.protocol.statistics import ModelStatistics
from poise.protocol.wire import ServiceWire
from poise.scheduling.commands import Answer
from poise.serving.arena import Arena, RowAllocator
from poise.serving.ingress_messages import FromIngress, JobGivenUp, JobPlaced, JobTurnedAway, ServiceTold
from poise.serving.intake import copy_all_in, job_of, slowly_copy_all_in


class JobNumbers:
    """The jobs of an ingress process that have no outcome yet, by number."""

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[RemoteGate, PendingJob]] = {}
        self._last = 0

    def next(self) -> int:
        """Return a number that no other job has had."""
        self._last += 1
        return self._last


class RemoteGate:
    """A gate. It owns the rows that its ingress process has in a service's arena."""

    def __init__(
        self, told: ServiceTold, arena: Arena | None, jobs: JobNumbers, tell: Callable[[FromIngress], None]
    ) -> None:
        self.number = told.gate
        self.wire: ServiceWire = told.wire
        self.draining = arena is None
        self._told = told
        self._jobs = jobs
        self._tell = tell
        self._rows = RowAllocator(told.rows)
        mine = slice(told.first_row, told.first_row + told.rows)
        inputs, outputs = ({}, {}) if arena is None else (arena.inputs, arena.outputs)
        self._inputs = {name: slot[mine] for name, slot in inputs.items()}
        self._outputs = {name: slot[mine] for name, slot in outputs.items()}

    @property
    def ready(self) -> bool:
        """Whether it takes jobs; the cell itself says whether they are answered."""
        return not self.draining

    def label(self, mask: int) -> str:
        """Return the label of a modality set."""
        return self._told.labels[mask]

    def admit(self, request: InferRequest) -> PendingJob | Refused:
        """Put a request's tensors into rows and tell the cell."""
        if isinstance(first := self._rows_for(request), Refused):
            return first
        copy_all_in(self._inputs, self._rows, first, request)
        return self._enter(request, first)

    async def admit_in_slices(self, request: InferRequest) -> PendingJob | Refused:
        """Do as ``admit`` does; others have their turn while large tensors are copied."""
        if isinstance(first := self._rows_for(request), Refused):
            return first
        await slowly_copy_all_in(self._inputs, self._rows, first, request)
        if not self.draining:
            return self._enter(request, first)
        self._rows.give_back(first, request.items)
        return Refused(RefusalReason.DRAINING, "the service is draining")

    def cancel(self, pending: PendingJob) -> None:
        """Give a job up whose client is gone. Its rows are free once the cell says so."""
        if pending.outcome is None:
            self._tell(JobGivenUp(pending.job.id))

    def config(self) -> ModelConfig:
        """The cell's process answers that."""
        raise InternalError("an ingress process was asked for a service's configuration")

    def statistics(self) -> ModelStatistics:
        """The cell's process answers that."""
        raise InternalError("an ingress process was asked for a service's statistics")

    def answered(self, pending: PendingJob, answer: Answer) -> None:
        """Take up that a job's outputs are in its rows."""
        first, items = pending.first_row, pending.job.items
        try:
            outputs = {name: slot[first : first + items].copy() for name, slot in self._outputs.items()}
        except MemoryError:
            self.settle(pending, InternalError(f"there is no memory for the answer of job {pending.job.id}"))
            return
        self.settle(pending, Answered(answer, outputs))

    def settle(self, pending: PendingJob, outcome: Outcome | InternalError) -> None:
        """Take up a job's outcome: nobody else touches its rows any more."""
        self._rows.give_back(pending.first_row, pending.job.items)
        pending.settle(outcome)

    def _rows_for(self, request: InferRequest) -> int | Refused:
        if self.draining:
            return Refused(RefusalReason.DRAINING, "the service is draining")
        if (first := self._rows.take(request.items)) is not None:
            return first
        self._tell(JobTurnedAway(self.number, request.slo_class, request.items))
        return Refused(RefusalReason.QUEUE_FULL, "too many items wait")

    def _enter(self, request: InferRequest, first: int) -> PendingJob:
        job = job_of(request, self._jobs.next(), time.monotonic(), padded=self._told.padded)
        pending = PendingJob(job, first)
        self._jobs.waiting[job.id] = (self, pending)
        self._tell(
            JobPlaced(
                number=job.id,
                gate=self.number,
                first_row=self._told.first_row + first,
                items=job.items,
                available=job.available,
                slo_class=job.slo_class,
                arrival_s=job.arrival_s,
                deadline_s=request.deadline_s,
                accuracy_floor=job.accuracy_floor,
                priority=job.priority,
                bucket=job.bucket,
            )
        )
        return pending
