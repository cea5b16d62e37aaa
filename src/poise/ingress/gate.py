"""A service as a front end sees it: a gate that takes requests in, and what becomes of each.

A cell is a gate. Nothing here knows of sockets; nothing behind a gate knows of HTTP or gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from poise.domain.job import Job, RefusalReason
from poise.errors import InternalError, NotFoundError
from poise.protocol.codec import InferRequest, shown
from poise.protocol.model_config import ModelConfig
from poise.protocol.statistics import ModelStatistics
from poise.protocol.wire import Array, ServiceWire
from poise.scheduling.commands import Answer

if TYPE_CHECKING:
    from poise.ingress.trace import RequestTrace


class Answered(msgspec.Struct, frozen=True):
    """A job's answer. Shapes: ``outputs[name]`` is [items, *shape], the job's own copy."""

    answer: Answer
    outputs: Mapping[str, Array]


class Refused(msgspec.Struct, frozen=True):
    """A job that got no answer."""

    reason: RefusalReason
    detail: str


Outcome = Answered | Refused


class PendingJob:
    """A job between its arrival and its outcome; whoever is behind the gate owns its rows.

    ``outcome`` is None while it waits, and an InternalError where a fault of ours ended it. ``when_settled`` is called
    once, on the event loop, as the outcome comes; it may be set as long as there is none. ``trace``: where its batches
    are to be entered; None where it is not traced. ``also`` is called before ``when_settled``, for somebody else.
    ``outputs_wanted``: whether the answer is to bring copies of its outputs; else they are read in its rows.
    """

    __slots__ = ("also", "first_row", "job", "outcome", "outputs_wanted", "trace", "when_settled")

    def __init__(self, job: Job, first_row: int) -> None:
        self.job = job
        self.first_row = first_row
        self.outcome: Outcome | InternalError | None = None
        self.when_settled: Callable[[PendingJob], None] | None = None
        self.also: Callable[[PendingJob], None] | None = None
        self.trace: RequestTrace | None = None
        self.outputs_wanted = True

    def settle(self, outcome: Outcome | InternalError) -> None:
        """Set the outcome and tell who waits for it."""
        self.outcome = outcome
        if self.also is not None:
            self.also(self)
        when_settled, self.when_settled = self.when_settled, None
        if when_settled is not None:
            when_settled(self)


class Gate(Protocol):
    """One service, as far as a front end goes. Everything is called on the event loop."""

    @property
    def wire(self) -> ServiceWire:
        """Its tensors and the bounds of a request."""

    @property
    def ready(self) -> bool:
        """Whether a job would be taken now."""

    @property
    def draining(self) -> bool:
        """Whether it takes no more jobs and answers those it has."""

    def admit(self, request: InferRequest) -> PendingJob | Refused:
        """Take a request in: when this returns, its tensors are copied."""

    async def admit_in_slices(self, request: InferRequest) -> PendingJob | Refused:
        """Take a request in as ``admit`` does, but let others have their turn while large tensors are copied."""

    def cancel(self, pending: PendingJob) -> None:
        """Give a job up whose client is gone; nothing happens to one that has its outcome."""

    def label(self, mask: int) -> str:
        """Return the label of a modality set."""

    def config(self) -> ModelConfig:
        """Return its configuration, with the workers that it has at the moment."""

    def statistics(self) -> ModelStatistics:
        """Return its statistics."""


async def outcome_of(gate: Gate, pending: PendingJob) -> Outcome:
    """Wait for a job's outcome. Who cancels this cancels the job.

    Raises:
        InternalError: a fault of ours ended the job.
    """
    try:
        return await settled_outcome(pending)
    finally:
        gate.cancel(pending)  # nothing to do where it has its outcome


async def settled_outcome(pending: PendingJob) -> Outcome:
    """Wait for a job's outcome. Who cancels this waits no more; the job goes on.

    Raises:
        InternalError: a fault of ours ended the job.
    """
    if pending.outcome is None:
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(_: PendingJob) -> None:
            if not settled.done():
                settled.set_result(None)

        pending.when_settled = wake
        await settled
    outcome = pending.outcome
    assert outcome is not None
    if isinstance(outcome, InternalError):
        raise outcome
    return outcome


def why_not_ready(gates: Iterable[Gate]) -> str | None:
    """Return in words why a server of some gates is not ready; None where it is.

    A service that is being unloaded does not matter to the others.
    """
    gates = tuple(gates)
    if not gates:
        return "no service is loaded"
    there = [gate for gate in gates if not gate.draining]
    if not there:
        return "draining"
    waiting = [gate.wire.name for gate in there if not gate.ready]
    return f"{', '.join(waiting)}: loading, or no worker is ready" if waiting else None


def unknown_model(name: str, gates: Iterable[str]) -> NotFoundError:
    """Return the error of a name that no gate has."""
    return NotFoundError(f"no model {shown(name)}, expected {' or '.join(gates) or 'one that is loaded'}")


class LabelKeeper(Protocol):
    """Who keeps answers until their labels come."""

    def expect(self, gate: Gate, pending: PendingJob, request_id: str, sender: str) -> None:
        """Keep the outputs of a job, if it is answered, under the id that its sender gave it."""


class Gates:
    """The gates of a server by name. A reload puts others in their place, all at once.

    ``labels`` is told of jobs with an id, where labels are taken.
    """

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self._gates = dict(gates)
        self._watchers: list[Callable[[], None]] = []
        self.labels: LabelKeeper | None = None

    def get(self, name: str) -> Gate | None:
        """Return the gate of that name; None where there is none."""
        return self._gates.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._gates)

    def values(self) -> tuple[Gate, ...]:
        """Return all gates, in the order of the services."""
        return tuple(self._gates.values())

    def replace(self, gates: Mapping[str, Gate]) -> None:
        """Put other gates in the place of all."""
        self._gates = dict(gates)
        for changed in self._watchers:
            changed()

    def taken(self, gate: Gate, taken: PendingJob | Refused, request_id: str | None, sender: str) -> None:
        """Take up that a front end had a request taken in."""
        if self.labels is not None and request_id is not None and isinstance(taken, PendingJob):
            self.labels.expect(gate, taken, request_id, sender)

    def watch(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called at every replacement."""
        self._watchers.append(changed)
