"""A job while it is in the cell, and what can become of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from poise.domain.job import Job, RefusalReason
from poise.scheduling.commands import Answer
from poise.serving.arena import Array


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
    """A job between its arrival and its outcome; the cell owns its rows."""

    __slots__ = ("first_row", "job", "outcome", "settled")

    def __init__(self, job: Job, first_row: int, outcome: asyncio.Future[Outcome]) -> None:
        self.job = job
        self.first_row = first_row
        self.outcome = outcome
        self.settled = False
