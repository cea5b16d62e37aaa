"""What became of jobs: one outcome for each, from the simulator and the live generator alike.

Many outcomes are kept in columns (``Outcomes``): a simulated day has millions of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

Status = Literal["answered", "refused", "failed"]
FloorScope = Literal["job", "class"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]

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


class Ending(msgspec.Struct, frozen=True):
    """How jobs ended: what many outcomes share. The fields are those of ``JobOutcome``."""

    status: Status
    reason: str = ""
    modalities: dict[str, int] = {}
    variants: dict[str, int] = {}


class OutcomeColumns(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The fields of many outcomes.

    Shapes: each column has one entry for each job. ``slo_class`` indexes ``Outcomes.classes``, ``ending``
    indexes ``Outcomes.endings``; the others are those of ``JobOutcome``, with NaN in place of None.
    """

    number: Ints
    slo_class: Ints
    items: Ints
    sent_s: Floats
    done_s: Floats
    deadline_s: Floats
    accuracy_floor: Floats
    expected_accuracy: Floats
    correct: Floats
    ending: Ints


class Outcomes(Sequence[JobOutcome]):
    """Outcomes in columns; a ``JobOutcome`` is made only of a job that is asked for.

    ``classes`` and ``endings`` are what the columns index; there may be more than occur. Equal to any sequence
    of equal outcomes.
    """

    __slots__ = ("classes", "columns", "endings")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, columns: OutcomeColumns, classes: Sequence[str], endings: Sequence[Ending]) -> None:
        self.columns = columns
        self.classes = tuple(classes)
        self.endings = tuple(endings)

    @classmethod
    def of(cls, outcomes: Sequence[JobOutcome]) -> Outcomes:
        """Return outcomes in columns: the same value where they are already."""
        if isinstance(outcomes, Outcomes):
            return outcomes
        classes: dict[str, int] = {}
        endings: dict[tuple[Any, ...], int] = {}
        columns = OutcomeColumns(
            number=_ints([o.number for o in outcomes]),
            slo_class=_ints([classes.setdefault(o.slo_class, len(classes)) for o in outcomes]),
            items=_ints([o.items for o in outcomes]),
            sent_s=_floats([o.sent_s for o in outcomes]),
            done_s=_floats([o.done_s for o in outcomes]),
            deadline_s=_floats([o.deadline_s for o in outcomes]),
            accuracy_floor=_floats([o.accuracy_floor for o in outcomes]),
            expected_accuracy=_floats([o.expected_accuracy for o in outcomes]),
            correct=_floats([o.correct for o in outcomes]),
            ending=_ints([endings.setdefault(_ending_key(o), len(endings)) for o in outcomes]),
        )
        return cls(
            columns,
            tuple(classes),
            [
                Ending(status, reason, dict(modalities), dict(variants))
                for status, reason, modalities, variants in endings
            ],
        )

    @property
    def latency_s(self) -> Floats:
        """From sending to the last of the answer, or to the refusal. Shapes: [jobs]. Units: seconds."""
        return self.columns.done_s - self.columns.sent_s

    @property
    def answered(self) -> Marks:
        """Which jobs have an answer, be it late. Shapes: [jobs]."""
        return self.having("answered")

    @property
    def late(self) -> Marks:
        """Which jobs were answered after their deadline. Shapes: [jobs]."""
        late: Marks = self.answered & (self.latency_s > self.columns.deadline_s)
        return late

    def having(self, status: Status) -> Marks:
        """Return which jobs ended in a status. Shapes: [jobs]."""
        of_ending = np.array([ending.status == status for ending in self.endings], np.bool_)
        return of_ending[self.columns.ending]

    def of_class(self, name: str) -> Marks:
        """Return which jobs are of a class. Shapes: [jobs]."""
        code = self.classes.index(name) if name in self.classes else -1
        marks: Marks = self.columns.slo_class == code
        return marks

    def seen_classes(self) -> set[str]:
        """Return the classes that occur."""
        return {self.classes[code] for code in np.unique(self.columns.slo_class).tolist()}

    def chosen(self, which: Marks | Ints | slice) -> Outcomes:
        """Return some of the outcomes: those marked, or those at the given places, in that order."""
        columns = self.columns
        picked = {name: getattr(columns, name)[which] for name in OutcomeColumns.__struct_fields__}
        return Outcomes(OutcomeColumns(**picked), self.classes, self.endings)

    def __len__(self) -> int:
        return len(self.columns.number)

    @overload
    def __getitem__(self, place: int) -> JobOutcome: ...

    @overload
    def __getitem__(self, place: slice) -> Outcomes: ...

    def __getitem__(self, place: int | slice) -> JobOutcome | Outcomes:
        if isinstance(place, slice):
            return self.chosen(place)
        c = self.columns
        ending = self.endings[c.ending[place]]
        return JobOutcome(
            number=int(c.number[place]),
            slo_class=self.classes[c.slo_class[place]],
            items=int(c.items[place]),
            sent_s=float(c.sent_s[place]),
            done_s=float(c.done_s[place]),
            deadline_s=float(c.deadline_s[place]),
            status=ending.status,
            reason=ending.reason,
            accuracy_floor=float(c.accuracy_floor[place]),
            modalities=dict(ending.modalities),
            variants=dict(ending.variants),
            expected_accuracy=_known(c.expected_accuracy[place]),
            correct=_known(c.correct[place]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    def __repr__(self) -> str:
        return f"Outcomes of {len(self)} jobs"


def attained(outcomes: Sequence[JobOutcome], floor_scope: FloorScope = "job") -> list[bool]:
    """Say of each outcome whether it attains: answered within its deadline and its accuracy floor.

    With scope ``job`` the floor binds each job by itself. With scope ``class`` it binds the mean over all
    answered items of a class, late ones too, so single jobs may lie below: where the class holds its floor,
    every answer in time attains; else those in time that are furthest below are left out, until the mean of
    the rest is at the floor. An answer that states no accuracy is taken to meet its floor.
    """
    marks: list[bool] = attaining(Outcomes.of(outcomes), floor_scope).tolist()
    return marks


def attaining(outcomes: Outcomes, floor_scope: FloorScope) -> Marks:
    """Mark the outcomes that attain, as ``attained`` says. Shapes: [jobs]."""
    columns = outcomes.columns
    answered = outcomes.answered
    marks: Marks = answered & ~outcomes.late
    excess = (columns.expected_accuracy - columns.accuracy_floor) * columns.items
    excess[np.isnan(excess)] = 0.0
    if floor_scope == "job":
        return marks & (excess >= -ACCURACY_TOLERANCE)
    for code in range(len(outcomes.classes)):
        members = answered & (columns.slo_class == code)
        total, items = sum(excess[members].tolist()), int(columns.items[members].sum())
        if total >= -ACCURACY_TOLERANCE * items:
            continue
        in_time = np.flatnonzero(members & marks)
        in_time = in_time[np.argsort(excess[in_time], kind="stable")]
        # Entry k: what is left without the k furthest below.
        totals = np.subtract.accumulate(np.concatenate([[total], excess[in_time]]))
        counts = np.subtract.accumulate(np.concatenate([[items], columns.items[in_time]]))
        holding = np.flatnonzero(totals >= -ACCURACY_TOLERANCE * counts)
        marks[in_time[: holding[0] if len(holding) else None]] = False
    return marks


def _ending_key(outcome: JobOutcome) -> tuple[Any, ...]:
    counts = tuple(outcome.modalities.items()), tuple(outcome.variants.items())
    return (outcome.status, outcome.reason, *counts)


def _ints(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def _floats(values: list[float] | list[float | None]) -> Floats:
    """None becomes NaN."""
    return np.array(values, np.float64)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
