"""From a request to a job, and from its tensors to the rows of the arena."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from poise.domain.job import Job
from poise.domain.slots import copy_slots
from poise.ingress.gate import PendingJob
from poise.ingress.slices import SLICE_BYTES, copy_in_slices
from poise.protocol.codec import InferRequest, InferTensor
from poise.protocol.wire import Array
from poise.serving.arena import RowAllocator, SharedRows


class PlacedRequest(InferRequest, frozen=True, kw_only=True):
    """A request whose tensors another process has put into its own rows already; ``tensors`` is empty.

    Units: ``arrival_s`` in seconds, on the clock that stamps events.
    """

    first_row: int
    arrival_s: float
    bucket: int


def rows_for(rows: SharedRows, request: InferRequest) -> int | None:
    """Return the first of the rows that a request has from now on; None if there are none."""
    if isinstance(request, PlacedRequest):
        return rows.count_in(request.first_row, request.items)
    return rows.take(request.items)


def rung_of(tensors: Sequence[InferTensor]) -> int:
    """Return the rung of the longest bucket that some inputs need."""
    return max(
        (
            bisect_left(tensor.wire.buckets, tensor.array.shape[tensor.wire.free + 1])
            for tensor in tensors
            if tensor.wire.free is not None
        ),
        default=0,
    )


def job_of(request: InferRequest, number: int, now_s: float, *, padded: bool) -> Job:
    """Return the job of a request that arrives now. ``padded``: some inputs have a free axis."""
    bucket = rung_of(request.tensors) if padded else 0
    if isinstance(request, PlacedRequest):
        now_s, bucket = min(now_s, request.arrival_s), request.bucket
    return Job(
        id=number,
        slo_class=request.slo_class,
        items=request.items,
        arrival_s=now_s,
        deadline_s=now_s + request.deadline_s,
        accuracy_floor=request.accuracy_floor,
        available=request.available,
        priority=request.priority,
        bucket=bucket,
    )


def copy_all_in(inputs: Mapping[str, Array], rows: RowAllocator, first: int, request: InferRequest) -> None:
    """Copy all tensors of a request into the rows taken for it; these are free again where that fails."""
    try:
        for tensor in request.tensors:
            copy_in(inputs[tensor.wire.name], first, tensor)
    except BaseException:
        rows.give_back(first, request.items)
        raise


async def slowly_copy_all_in(
    inputs: Mapping[str, Array], rows: RowAllocator, first: int, request: InferRequest
) -> None:
    """Do as ``copy_all_in`` does, a slice in each turn of the event loop. Who cancels this frees the rows."""
    try:
        for tensor in request.tensors:
            await slowly_copy_in(inputs[tensor.wire.name], first, tensor)
    except BaseException:
        rows.give_back(first, request.items)
        raise


def copied_out(outputs: Mapping[str, Array], pending: PendingJob) -> dict[str, Array]:
    """Return copies of a job's outputs out of its rows; none where somebody else reads them there."""
    if not pending.outputs_wanted:
        return {}
    rows = slice(pending.first_row, pending.first_row + pending.job.items)
    return {name: slot[rows].copy() for name, slot in outputs.items()}


def copy_in(slot: Array, first: int, tensor: InferTensor) -> None:
    """Copy a tensor into its rows; what a shorter free axis leaves over is zeros, as padding is."""
    rows = slot[first : first + len(tensor.array)]
    free = tensor.wire.free
    if tensor.wire.datatype == "BYTES":
        copy_slots(rows, tensor.array)
        return
    if free is None:
        rows[...] = tensor.array
        return
    length = tensor.array.shape[free + 1]
    before = (slice(None),) * (free + 1)
    rows[(*before, slice(length))] = tensor.array
    rows[(*before, slice(length, None))] = 0


async def slowly_copy_in(slot: Array, first: int, tensor: InferTensor) -> None:
    """Copy a tensor into its rows as ``copy_in`` does, a slice in each turn of the event loop."""
    rows = slot[first : first + len(tensor.array)]
    if rows.nbytes <= SLICE_BYTES:
        copy_in(slot, first, tensor)
        return
    free = tensor.wire.free
    if free is None:
        await copy_in_slices(rows, tensor.array)
        return
    length = tensor.array.shape[free + 1]
    before = (slice(None),) * (free + 1)
    await copy_in_slices(rows[(*before, slice(length))], tensor.array)
    rest = rows[(*before, slice(length, None))]
    await copy_in_slices(rest, np.broadcast_to(np.zeros((), rest.dtype), rest.shape))
