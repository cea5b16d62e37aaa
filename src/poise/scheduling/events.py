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
    """A worker has loaded its resident set and may be given batches, or was retired and is back, or has another cap.

    Units: ``batch_cap_s`` in seconds: no batch of more than one item is planned to take longer on it (policy ``poise``;
    others take no notice). None: there is no such bound.
    """

    worker_id: int
    variants: tuple[str, ...]
    threads: int = 1
    device: str = "cpu"
    batch_cap_s: float | None = None


class WorkerRetiring(_Event, frozen=True, tag=True):
    """A worker is to be given no more batches; ``ReleaseWorker`` says when it has none.

    ``WorkerReady`` brings it back with what it measured, if it holds the same variants then. ``WorkerLost`` in its
    stead says that its process is gone.
    """

    worker_id: int


class WorkerLost(_Event, frozen=True, tag=True):
    """A worker died or hung; the batch it had, if any, is lost with it.

    ``untouched``: it never took that batch up, so that no job of it can be why it died.
    """

    worker_id: int
    untouched: bool = False


class AllocationAdopted(_Event, frozen=True, tag=True):
    """Which share of each class's load each variant is to have; it replaces what was adopted before.

    Shapes: ``shares[class][variant]``, not negative. Each class's are scaled to 1 over the variants that live workers
    hold. A class without any, or with none but zeros there, is answered as if nothing had been adopted.
    """

    shares: dict[str, dict[str, float]]


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
    | WorkerRetiring
    | WorkerLost
    | AllocationAdopted
    | RateForecast
    | DrainStarted
    | Woke
)
