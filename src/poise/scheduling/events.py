"""What happens to the scheduler. Every event carries ``now_s``, the time it happened, on one clock."""

from __future__ import annotations

import msgspec

from poise.domain.job import Job


class _Event(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of events. Units: ``now_s`` is in seconds on the driver's clock, which never goes back."""

    now_s: float


class JobArrived(_Event, frozen=True, tag=True):
    """A job was received whole and its tensors are in their slots."""

    job: Job


class JobCancelled(_Event, frozen=True, tag=True):
    """The client went away; the job's outcome will be a refusal with reason ``cancelled``."""

    job_id: int


class BatchDone(_Event, frozen=True, tag=True):
    """A worker finished a batch. Units: ``run_s`` is the time from dispatch to answer, in seconds.

    ``stage_s`` pairs stage names with what the worker measured for each, in seconds.
    """

    batch_id: int
    worker_id: int
    run_s: float
    stage_s: tuple[tuple[str, float], ...] = ()


class BatchFailed(_Event, frozen=True, tag=True):
    """A worker is alive but its model raised on this batch."""

    batch_id: int
    worker_id: int
    message: str


class WorkerReady(_Event, frozen=True, tag=True):
    """A worker has loaded its resident set and may be given batches."""

    worker_id: int
    variants: tuple[str, ...]
    threads: int = 1
    device: str = "cpu"


class WorkerLost(_Event, frozen=True, tag=True):
    """A worker died or hung; the batch it had, if any, is lost with it."""

    worker_id: int


class DrainStarted(_Event, frozen=True, tag=True):
    """No new jobs from now on; what is accepted is answered."""


class RateForecast(_Event, frozen=True, tag=True):
    """What a forecaster expects to arrive, at an upper quantile; until it speaks, the running rates are used.

    Units: ``items_per_s``; it holds for ``valid_s`` seconds.
    """

    items_per_s: float
    valid_s: float


class Woke(_Event, frozen=True, tag=True):
    """A time that ``WakeAt`` asked for has come."""


Event = (
    JobArrived
    | JobCancelled
    | BatchDone
    | BatchFailed
    | WorkerReady
    | WorkerLost
    | RateForecast
    | DrainStarted
    | Woke
)
