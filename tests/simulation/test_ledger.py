"""The ledger: what jobs became, in the order in which they left."""

import pytest

from poise.domain.job import Job, RefusalReason
from poise.domain.modalities import ModalityIndex
from poise.errors import InternalError
from poise.scheduling.commands import AnswerPart
from poise.simulation.ledger import BLOCK, Ledger
from poise.workload import JobOutcome

INDEX = ModalityIndex(["clip", "speech"])


def job(number: int, items: int = 1, slo_class: str = "a") -> Job:
    return Job(number, slo_class, items, 1.0, 1.5, 0.75, INDEX.all)


def test_an_answer_in_parts_and_a_refusal():
    ledger = Ledger(INDEX.label)
    parts = (AnswerPart(0, 2, 3, "big"), AnswerPart(2, 1, 1, "small"), AnswerPart(3, 4, 3, "small"))
    ledger.answered(job(5, items=7), 1.25, parts, 0.8)
    ledger.refused(job(4, slo_class="b"), 1.5, RefusalReason.QUEUE_FULL)
    assert list(ledger.outcomes()) == [
        JobOutcome(
            number=5,
            slo_class="a",
            items=7,
            sent_s=1.0,
            done_s=1.25,
            deadline_s=0.5,
            status="answered",
            accuracy_floor=0.75,
            modalities={"clip+speech": 6, "clip": 1},
            variants={"big": 2, "small": 5},
            expected_accuracy=0.8,
        ),
        JobOutcome(4, "b", 1, 1.0, 1.5, 0.5, "refused", reason="queue_full", accuracy_floor=0.75),
    ]


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_no_job_is_lost_between_blocks(count):
    ledger = Ledger(INDEX.label)
    alike = (AnswerPart(0, 1, 2, "small"),)
    for number in range(count):
        if number % 3:
            ledger.answered(job(number), number * 0.5, alike, 0.9)
        else:
            ledger.refused(job(number), number * 0.5, RefusalReason.DRAINING)
    got = ledger.outcomes()
    assert got.columns.number.tolist() == list(range(count))
    assert got.columns.done_s.tolist() == [number * 0.5 for number in range(count)]
    assert got.answered.tolist() == [number % 3 > 0 for number in range(count)]
    assert len(got.endings) == 2
    assert ledger.outcomes() == got[:]


def test_nothing_yet():
    assert list(Ledger(INDEX.label).outcomes()) == []


def test_an_answer_with_another_number_of_items_is_our_fault():
    ledger = Ledger(INDEX.label)
    parts = (AnswerPart(0, 2, 3, "big"),)
    ledger.answered(job(1, items=2), 1.0, parts, 0.8)
    with pytest.raises(InternalError, match="job 2 has 3 items, and was answered with"):
        ledger.answered(job(2, items=3), 1.0, parts, 0.8)
    assert ledger.outcomes().columns.number.tolist() == [1]
