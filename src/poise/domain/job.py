"""Jobs: one client request each."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One client request: *n* items, one deadline, one accuracy floor.

    Units: times are absolute seconds on the clock that stamps events. ``available`` is the mask of the
    modalities whose inputs the request carries. ``priority`` follows the protocol: 0 is the default. ``bucket``
    is the rung of the longest bucket that its inputs need; 0 where the service has none.
    """

    id: int
    slo_class: str
    items: int
    arrival_s: float
    deadline_s: float
    accuracy_floor: float
    available: int
    priority: int = 0
    bucket: int = 0


class RefusalReason(StrEnum):
    """Why a job was not answered; the label of ``poise_refused_jobs_total`` too."""

    QUEUE_FULL = "queue_full"
    DEADLINE_UNREACHABLE = "deadline_unreachable"
    DEADLINE_PASSED = "deadline_passed"
    DISPLACED = "displaced"
    FLOOR_UNREACHABLE = "floor_unreachable"
    DRAINING = "draining"
    NO_WORKER = "no_worker"
    MODEL_FAILED = "model_failed"
    WORKER_KILLER = "worker_killer"
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled"
