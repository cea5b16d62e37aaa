"""From the tensors of a request to the rows of the arena."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from poise.protocol.codec import InferTensor
from poise.protocol.wire import Array


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


def copy_in(slot: Array, first: int, tensor: InferTensor) -> None:
    """Copy a tensor into its rows; what a shorter free axis leaves over is zeros, as padding is."""
    rows = slot[first : first + len(tensor.array)]
    free = tensor.wire.free
    if free is None:
        rows[...] = tensor.array
        return
    length = tensor.array.shape[free + 1]
    before = (slice(None),) * (free + 1)
    rows[(*before, slice(length))] = tensor.array
    rows[(*before, slice(length, None))] = 0
