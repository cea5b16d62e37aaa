"""What became of each job of a simulated run, gathered while it runs, in columns in the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from poise.domain.job import Job, RefusalReason
from poise.errors import InternalError
from poise.scheduling.commands import AnswerPart
from poise.workload.outcomes import Ending, OutcomeColumns, Outcomes

BLOCK = 1 << 13
"""So many jobs are gathered before they become columns: objects for all jobs of a day would fill the memory."""

_UNKNOWN = float("nan")


class Ledger:
    """Outcomes of jobs in the order in which they left. Mutable: entries are added until ``outcomes``.

    Jobs answered alike share one ``Ending``, found by the parts of the answer. ``label`` names the modality set
    of a mask.
    """

    def __init__(self, label: Callable[[int], str]) -> None:
        self._label = label
        self._entries: list[tuple[Job, float, float, int]] = []
        self._blocks: list[OutcomeColumns] = []
        self._classes: dict[str, int] = {}
        self._endings: list[Ending] = []
        self._items: list[int] = []  # of each ending
        self._answers: dict[tuple[AnswerPart, ...], int] = {}
        self._refusals: dict[RefusalReason, int] = {}

    def answered(self, job: Job, now_s: float, parts: tuple[AnswerPart, ...], accuracy: float) -> None:
        """Enter an answer.

        Raises:
            InternalError: the parts do not hold as many items as the job.
        """
        ending = self._answers.get(parts)
        if ending is None:
            ending = self._new_answer(parts)
        if self._items[ending] != job.items:
            raise InternalError(f"job {job.id} has {job.items} items, and was answered with {parts}")
        entries = self._entries
        entries.append((job, now_s, accuracy, ending))
        if len(entries) == BLOCK:
            self._close_block()

    def refused(self, job: Job, now_s: float, reason: RefusalReason) -> None:
        """Enter a refusal."""
        ending = self._refusals.get(reason)
        if ending is None:
            ending = self._refusals[reason] = self._new_ending(Ending("refused", reason.value), 0)
        self._entries.append((job, now_s, _UNKNOWN, ending))
        if len(self._entries) == BLOCK:
            self._close_block()

    def outcomes(self) -> Outcomes:
        """Return all outcomes so far."""
        self._close_block()
        columns = {
            name: np.concatenate([getattr(block, name) for block in self._blocks])
            for name in OutcomeColumns.__struct_fields__
        }
        self._blocks = [OutcomeColumns(**columns)]
        return Outcomes(self._blocks[0], tuple(self._classes), self._endings)

    def _new_answer(self, parts: tuple[AnswerPart, ...]) -> int:
        modalities: dict[str, int] = {}
        variants: dict[str, int] = {}
        for part in parts:
            label = self._label(part.modalities)
            modalities[label] = modalities.get(label, 0) + part.items
            variants[part.variant] = variants.get(part.variant, 0) + part.items
        ending = Ending("answered", modalities=modalities, variants=variants)
        self._answers[parts] = place = self._new_ending(ending, sum(variants.values()))
        return place

    def _new_ending(self, ending: Ending, items: int) -> int:
        self._endings.append(ending)
        self._items.append(items)
        return len(self._endings) - 1

    def _close_block(self) -> None:
        entries, classes = self._entries, self._classes
        jobs = [entry[0] for entry in entries]
        for job in jobs:
            if job.slo_class not in classes:
                classes[job.slo_class] = len(classes)
        arrival_s = np.array([job.arrival_s for job in jobs], np.float64)
        self._blocks.append(
            OutcomeColumns(
                number=np.array([job.id for job in jobs], np.int64),
                slo_class=np.array([classes[job.slo_class] for job in jobs], np.int64),
                items=np.array([job.items for job in jobs], np.int64),
                sent_s=arrival_s,
                done_s=np.array([entry[1] for entry in entries], np.float64),
                deadline_s=np.array([job.deadline_s for job in jobs], np.float64) - arrival_s,
                accuracy_floor=np.array([job.accuracy_floor for job in jobs], np.float64),
                expected_accuracy=np.array([entry[2] for entry in entries], np.float64),
                correct=np.full(len(jobs), _UNKNOWN),
                ending=np.array([entry[3] for entry in entries], np.int64),
            )
        )
        entries.clear()
