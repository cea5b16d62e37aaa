"""What the adapter asks of its driver, which carries commands out in order."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from poise.adapting.decision import Decision
from poise.domain.allocation import Allocation, Workers


class _Command(msgspec.Struct, frozen=True, tag=True):
    """Base of commands."""


class SolveAllocation(_Command, frozen=True, tag=True):
    """Call ``solve`` away from the event loop and answer with ``AllocationSolved``, whatever it returns or raises.

    Only the last one asked for counts. Units: ``time_limit_s`` in seconds; the answer is not waited for much longer.
    """

    solve_id: int
    solve: Callable[[], Allocation | None]
    time_limit_s: float


class LoadWorker(_Command, frozen=True, tag=True):
    """Start a worker and load its resident set at idle priority, then say ``WorkerLoaded`` or ``WorkerNotLoaded``.

    ``cores`` are the slots (0 to budget − 1) that it is to have; others may still have them: it competes with them at
    idle priority, until they have left it no time for long. ``kind.count`` is 1.
    """

    worker_id: int
    kind: Workers
    cores: tuple[int, ...]


class ActivateWorker(_Command, frozen=True, tag=True):
    """Pin a loaded worker to its slots, give it normal priority, and tell the scheduler that it is ready.

    One that is active is only told its new batch-time cap: ``WorkerReady`` once more.
    """

    worker_id: int
    kind: Workers
    cores: tuple[int, ...]


class ParkWorker(_Command, frozen=True, tag=True):
    """Tell the scheduler to give a worker no more batches; say ``WorkerParked`` once its present one is done."""

    worker_id: int


class StopWorker(_Command, frozen=True, tag=True):
    """End a worker once its present batch is done, or its loading at once; say ``WorkerStopped`` when it is gone."""

    worker_id: int


class AdoptShares(_Command, frozen=True, tag=True):
    """Tell the scheduler which share of each class's load goes to which variant.

    Shapes: ``shares[class][variant]``, not negative; each class is scaled to 1 where any is positive. ``service`` is
    empty where there is only one.
    """

    shares: dict[str, dict[str, float]]
    service: str = ""


class RecordDecision(_Command, frozen=True, tag=True):
    """Keep a decision in the history."""

    decision: Decision


Command = (
    SolveAllocation | LoadWorker | ActivateWorker | ParkWorker | StopWorker | AdoptShares | RecordDecision
)
