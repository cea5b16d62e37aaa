"""What the scheduler asks of its driver. A driver carries commands out in order."""

from __future__ import annotations

import msgspec

from poise.domain.job import RefusalReason


class _Command(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of commands."""


class BatchPart(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive items ``first_item .. first_item + items`` of one job, answered by one modality set.

    ``bucket`` is the job's rung.
    """

    job_id: int
    first_item: int
    items: int
    modalities: int
    bucket: int = 0


class RunBatch(_Command, frozen=True, tag=True):
    """Run a batch on an idle worker. Units: ``expected_s`` in seconds, from dispatch to answer."""

    batch_id: int
    worker_id: int
    variant: str
    parts: tuple[BatchPart, ...]
    expected_s: float


class AnswerPart(msgspec.Struct, frozen=True, array_like=True):
    """How consecutive items of an answered job were answered."""

    first_item: int
    items: int
    modalities: int
    variant: str


class Answer(_Command, frozen=True, tag=True):
    """All items of a job have outputs; send them.

    Units: ``accuracy`` is the expected mean over the job's items in [0, 1]; ``queue_s`` is the time from arrival
    to the first dispatch, ``compute_s`` from there to the last answer, both in seconds. ``late``: after
    the deadline. ``below_floor``: the class prefers deadlines and this job paid for it.
    """

    job_id: int
    parts: tuple[AnswerPart, ...]
    accuracy: float
    queue_s: float
    compute_s: float
    late: bool
    below_floor: bool = False


class Refuse(_Command, frozen=True, tag=True):
    """A job will not be answered; ``detail`` is fit for the client."""

    job_id: int
    reason: RefusalReason
    detail: str


class WakeAt(_Command, frozen=True, tag=True):
    """Send ``Woke`` at this time; a later WakeAt replaces an earlier one. Units: seconds, absolute."""

    at_s: float


class ReleaseWorker(_Command, frozen=True, tag=True):
    """A worker that was to retire has no batch any more, and is given none before it is ready again."""

    worker_id: int


Command = RunBatch | Answer | Refuse | WakeAt | ReleaseWorker
