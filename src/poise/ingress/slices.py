"""Large arrays are copied a slice at a time, so that others get their turn of the event loop in between."""

from __future__ import annotations

import asyncio

from poise.protocol.wire import Array

SLICE_BYTES = 512 * 2**10
"""So much is copied in a turn: some 0.1 ms, and twice that into memory that was never touched."""


async def copy_in_slices(target: Array, source: Array) -> None:
    """Copy an array into another of the same shape. Who cancels this leaves it half done."""
    if source.nbytes <= SLICE_BYTES:
        target[...] = source
        return
    if target.flags.c_contiguous and source.flags.c_contiguous:
        target, source = target.reshape(-1), source.reshape(-1)
    entry_bytes = source.nbytes // len(source)
    if entry_bytes > SLICE_BYTES:
        for one, other in zip(target, source, strict=True):
            await copy_in_slices(one, other)
        return
    step = SLICE_BYTES // entry_bytes
    for at in range(0, len(source), step):
        target[at : at + step] = source[at : at + step]
        await asyncio.sleep(0)
