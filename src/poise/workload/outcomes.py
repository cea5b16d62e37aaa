"""What became of jobs: one outcome for each, from the simulator and the live generator alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Status = Literal["answered", "refused", "failed"]
FloorScope = Literal["job", "class"]

ACCURACY_TOLERANCE = 1e-9
"""Accuracies compare with this tolerance, as everywhere."""


class JobOutcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of one job that arrived.

    Units: ``sent_s`` and ``done_s`` in seconds on one clock that starts with the run; ``deadline_s`` in
    seconds from ``sent_s``. ``reason`` says why a job was refused or failed, and is empty for an answer.
    ``modalities`` and ``variants`` count the answered items by modality set and by variant.
    ``expected_accuracy`` is the mean over the job's items as the server states it, ``correct`` the sum of
    its items' scores against labels; both None where unknown.
    """

    number: int
    slo_class: str
    items: int
    sent_s: float
    done_s: float
    deadline_s: float
    status: Status
    reason: str = ""
    accuracy_floor: float = 0.0
    modalities: dict[str, int] = {}
    variants: dict[str, int] = {}
    expected_accuracy: float | None = None
    correct: float | None = None

    @property
    def latency_s(self) -> float:
        """From sending to the last of the answer, in seconds."""
        return self.done_s - self.sent_s

    @property
    def answered(self) -> bool:
        """Whether there is an answer, be it late."""
        return self.status == "answered"

    @property
    def late(self) -> bool:
        """Answered, but after the deadline."""
        return self.answered and self.latency_s > self.deadline_s

    @property
    def on_time(self) -> bool:
        """Answered within the deadline."""
        return self.answered and not self.late


def attained(outcomes: Sequence[JobOutcome], floor_scope: FloorScope = "job") -> list[bool]:
    """Say of each outcome whether it attains: answered within its deadline and its accuracy floor.

    With scope ``job`` the floor binds each job by itself. With scope ``class`` it binds the mean over all
    answered items of a class, late ones too, so single jobs may lie below: where the class holds its floor,
    every answer in time attains; else those in time that are furthest below are left out, until the mean of
    the rest is at the floor. An answer that states no accuracy is taken to meet its floor.
    """
    marks = [outcome.on_time for outcome in outcomes]
    if floor_scope == "job":
        return [
            mark and _excess(outcome) >= -ACCURACY_TOLERANCE
            for mark, outcome in zip(marks, outcomes, strict=True)
        ]
    by_class: dict[str, list[int]] = {}
    for position, outcome in enumerate(outcomes):
        if outcome.status == "answered":
            by_class.setdefault(outcome.slo_class, []).append(position)
    for positions in by_class.values():
        total = sum(_excess(outcomes[position]) for position in positions)
        items = sum(outcomes[position].items for position in positions)
        in_time = (position for position in positions if marks[position])
        for position in sorted(in_time, key=lambda position: _excess(outcomes[position])):
            if total >= -ACCURACY_TOLERANCE * items:
                break
            total -= _excess(outcomes[position])
            items -= outcomes[position].items
            marks[position] = False
    return marks


def _excess(outcome: JobOutcome) -> float:
    """How far the job's items together lie above its floor."""
    if outcome.expected_accuracy is None:
        return 0.0
    return (outcome.expected_accuracy - outcome.accuracy_floor) * outcome.items
