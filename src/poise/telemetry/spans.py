"""From the record of a request to a tree of spans: receive, queue, batch with its stages, answer."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from poise.telemetry.tracing import Attributes, BatchRecord, RequestRecord


class Span(msgspec.Struct, frozen=True):
    """A span of time. Units: seconds, absolute. Children lie within it, unless they overlap because work does."""

    name: str
    begin_s: float
    end_s: float
    attributes: Attributes
    children: tuple[Span, ...] = ()
    failure: str = ""


def spans_of(record: RequestRecord) -> Span:
    """Return the spans of a request.

    ``receive`` is from its first byte to its arrival as a job, ``queue`` from there to the first dispatch, ``answer``
    from the last output to the reply. A batch that was lost or failed is there too, and the one that came in its stead.
    """
    return Span(
        record.name,
        record.begun_s,
        record.ended_s,
        record.attributes,
        tuple(_parts(record)),
        record.failure,
    )


def _parts(record: RequestRecord) -> Iterator[Span]:
    job, ended_s = record.job, record.ended_s
    if job is None:
        yield Span("receive", record.begun_s, ended_s, {})
        return
    arrival_s = min(max(job.arrival_s, record.begun_s), ended_s)
    yield Span("receive", record.begun_s, arrival_s, {})
    batches = sorted(record.batches, key=lambda batch: batch.sent_s)
    first_s = min((batch.sent_s for batch in batches), default=ended_s)
    yield Span("queue", arrival_s, max(arrival_s, first_s), {})
    for batch in batches:
        yield _batch(batch)
    if batches:
        last_s = max(batch.back_s for batch in batches)
        yield Span("answer", min(last_s, ended_s), ended_s, {})


def _batch(batch: BatchRecord) -> Span:
    attributes: Attributes = {
        "poise.batch": batch.batch_id,
        "poise.batch_items": batch.batch_items,
        "poise.items": batch.items,
        "poise.worker": batch.worker_id,
        "poise.variant": batch.variant,
        "poise.modalities": batch.modalities,
    }
    return Span("batch", batch.sent_s, batch.back_s, attributes, tuple(_stages(batch)), batch.failure)


def _stages(batch: BatchRecord) -> Iterator[Span]:
    """Yield the stages one after another.

    Their lengths are measured by the worker, on its own clock; the way there is taken to be as long as the way back.
    """
    total_s = sum(time_s for _, time_s in batch.stage_s)
    run_s = batch.back_s - batch.sent_s
    if total_s > run_s:
        return  # a clock that cannot be right
    at_s = batch.sent_s + (run_s - total_s) / 2
    for stage, time_s in batch.stage_s:
        end_s = min(at_s + time_s, batch.back_s)
        yield Span("stage", at_s, end_s, {"poise.stage": stage})
        at_s = end_s
