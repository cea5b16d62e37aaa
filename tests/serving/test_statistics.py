import time

from poise.domain.job import Job, RefusalReason
from poise.errors import InternalError
from poise.ingress.gate import Answered, Refused
from poise.protocol.statistics import Duration
from poise.scheduling.commands import Answer, AnswerPart
from poise.serving.messages import Done
from poise.serving.statistics import StatisticsCount


def job(items: int, ago_s: float = 0.0) -> Job:
    return Job(1, "a", items, time.monotonic() - ago_s, 0.0, 0.0, 1)


def test_nothing_is_counted_before_the_first_job():
    value = StatisticsCount().value("s")
    assert (value.name, value.last_inference, value.inference_count, value.batch_stats) == ("s", 0, 0, ())


def test_answers_refusals_and_batches_are_summed():
    counts = StatisticsCount()
    for items in (1, 3):
        answer = Answer(1, (AnswerPart(0, items, 1, "v"),), 0.5, queue_s=0.25, compute_s=0.5, late=False)
        counts.settled(job(items), Answered(answer, {}))
    counts.failed += 1  # as the cell does when it refuses
    counts.settled(job(1, ago_s=100.0), Refused(RefusalReason.DISPLACED, ""))
    counts.settled(job(1), InternalError("fault"))
    now_s = time.monotonic()
    counts.ran(now_s - 50.0, 4, Done(1, (("a", 0.25), ("b", 0.5))))
    counts.ran(now_s - 40.0, 4, Done(2, (("a", 0.25),)))
    counts.ran(now_s - 30.0, 1, Done(3, ()))
    value = counts.value("s")
    assert (value.inference_count, value.execution_count) == (4, 3)
    told = value.inference_stats
    assert told.success == Duration(2, 1_500_000_000)
    assert told.queue == Duration(2, 500_000_000)
    assert told.compute_infer == Duration(2, 1_000_000_000)
    assert told.fail.count == 2
    assert 100e9 <= told.fail.ns < 200e9
    assert [(batch.batch_size, batch.compute_infer) for batch in value.batch_stats] == [
        (1, Duration(1, 0)),
        (4, Duration(2, 1_000_000_000)),
    ]
    assert abs(value.last_inference / 1e3 - (time.time() - 30.0)) < 20
