"""What happens to the adapter. Every event carries ``now_s``, the time it happened, on the scheduler's clock."""

from __future__ import annotations

import msgspec

from poise.domain.allocation import Allocation, Workers


class _Event(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of events. Units: ``now_s`` is in seconds on the driver's clock, which never goes back."""

    now_s: float


class ClassCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one class did since the last observation.

    ``jobs`` and ``items`` arrived, refused ones too. Of the jobs that had their outcome since, ``met`` were answered
    within deadline and floor, ``missed`` were refused, late or below their floor (not counted: cancelled by their
    client). ``answered_items`` have a sum of expected accuracies of ``accuracy_sum``.
    """

    slo_class: str
    jobs: int = 0
    items: int = 0
    met: int = 0
    missed: int = 0
    answered_items: int = 0
    accuracy_sum: float = 0.0


class Observed(_Event, frozen=True, tag=True):
    """One beat of the monitor, about every second: what arrived and what became of it since the last one.

    Units: ``span_s`` and ``busy_s`` in seconds: how long the beat was, and for how long workers were busy in it,
    summed over all; ``waiting_items`` at its end. ``epoch_s`` is the time of day, seconds since the epoch (UTC).
    ``service`` is empty where there is only one.
    """

    span_s: float
    classes: tuple[ClassCounts, ...]
    busy_s: float = 0.0
    waiting_items: int = 0
    epoch_s: float = 0.0
    service: str = ""


class WorkerLoaded(_Event, frozen=True, tag=True):
    """A worker that ``LoadWorker`` asked for, or one that the server began with, holds its resident set.

    It is given no batches before ``ActivateWorker``. A worker that was lost and has been started again says so too.
    Units: ``load_s`` in seconds. ``kind.count`` is 1.
    """

    worker_id: int
    kind: Workers
    load_s: float = 0.0


class WorkerNotLoaded(_Event, frozen=True, tag=True):
    """A worker could not be loaded, and is gone; ``reason`` is for the operator."""

    worker_id: int
    reason: str


class WorkerLost(_Event, frozen=True, tag=True):
    """A loaded worker's process died, and is gone."""

    worker_id: int


class WorkerParked(_Event, frozen=True, tag=True):
    """A worker that ``ParkWorker`` named has no batch any more; it keeps its resident set and uses no core."""

    worker_id: int


class WorkerStopped(_Event, frozen=True, tag=True):
    """A worker that ``StopWorker`` named is gone."""

    worker_id: int


class AllocationSolved(_Event, frozen=True, tag=True):
    """The answer to ``SolveAllocation``.

    ``allocation`` is None where the solver failed or found nothing in time; ``trouble`` then says why. Units:
    ``solve_s`` in seconds: what the whole of it took.
    """

    solve_id: int
    allocation: Allocation | None
    solve_s: float = 0.0
    trouble: str = ""


Event = (
    Observed | WorkerLoaded | WorkerNotLoaded | WorkerLost | WorkerParked | WorkerStopped | AllocationSolved
)
