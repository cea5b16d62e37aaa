"""Shared memory for tensors: one anonymous file, mapped by the server and by every worker.

A *row* is the space of one item: a slot in each input tensor and in each output tensor. Every tensor is one
contiguous array over all rows, so that a batch of neighbouring rows is a plain slice for a runtime. Rows are
given out from the lowest address, so only as much memory is touched as jobs are really waiting at once. Inputs
that a job leaves out keep whatever their rows held; nobody reads them.

A free axis takes the room of its longest bucket. How long an item really is lies in its row too, one number for each
tensor with a free axis, so that a worker sees from the rows of a batch which bucket holds it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import bisect_left
from collections.abc import Mapping
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.datatypes import numpy_type
from poise.domain.service import Datatype, Service, TensorSpec, length_key
from poise.errors import ConfigError, InternalError
from poise.protocol.wire import LENGTH, Array

ALIGNMENT_BYTES = 64
DEFAULT_ARENA_BYTES = 512 * 2**20


class TensorPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a tensor of all rows lies. Shapes: ``shape`` is one item's, its free dimension at the longest bucket.

    Units: ``offset`` is in bytes from the start of the arena.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    offset: int
    max_bytes: int | None = None


class ArenaLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where every tensor lies in an arena of ``capacity`` rows."""

    capacity: int
    size_bytes: int
    inputs: tuple[TensorPlace, ...]
    outputs: tuple[TensorPlace, ...]


def full_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return an item's shape with the free dimension at its longest bucket."""
    return spec.shape_at()


def plan_layout(service: Service, limit_bytes: int = DEFAULT_ARENA_BYTES, shares: int = 1) -> ArenaLayout:
    """Return the layout for as many rows as the service may queue, or as fit into ``limit_bytes``.

    ``shares``: so many processes put tensors into rows, each into as many as all may queue, or into an equal part.

    Raises:
        ConfigError: not even one row fits.
    """
    inputs = service.inputs_of(service.modalities)
    inputs |= {length_key(name): LENGTH for name, spec in inputs.items() if spec.buckets}
    row_bytes = sum(_item_bytes(spec) for spec in (*inputs.values(), *service.outputs.values()))
    padding = ALIGNMENT_BYTES * (len(inputs) + len(service.outputs))
    capacity = min(service.scheduler.queue_items, (limit_bytes - padding) // max(row_bytes, 1) // shares)
    if capacity < 1:
        raise ConfigError(
            f"one item of service {service.service!r} takes {row_bytes} bytes",
            expected=f"items that fit into the arena of {limit_bytes} bytes, or a larger arena",
        )
    capacity *= shares
    offset = 0
    placed: list[list[TensorPlace]] = [[], []]
    for places, specs in zip(placed, (inputs, service.outputs), strict=True):
        for name, spec in specs.items():
            places.append(TensorPlace(name, spec.datatype, full_shape(spec), offset, spec.max_bytes))
            offset += -(-_item_bytes(spec) * capacity // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return ArenaLayout(capacity, offset, tuple(placed[0]), tuple(placed[1]))


def _item_bytes(spec: TensorSpec) -> int:
    return prod(full_shape(spec)) * spec.numpy_type.itemsize


class Arena:
    """The mapped memory. Shapes: ``inputs[name]`` and ``outputs[name]`` are [capacity, *shape].

    ``inputs`` holds the lengths of items too, under ``length_key(name)`` and [capacity].
    """

    def __init__(self, layout: ArenaLayout, fd: int) -> None:
        """Map an existing arena; ``fd`` stays the caller's to close."""
        self.layout = layout
        self.fd = fd
        self._memory: mmap.mmap | None = mmap.mmap(fd, layout.size_bytes)
        self.inputs: Mapping[str, Array] = {place.name: self._view(place) for place in layout.inputs}
        self.outputs: Mapping[str, Array] = {place.name: self._view(place) for place in layout.outputs}

    @classmethod
    def create(cls, layout: ArenaLayout) -> Arena:
        """Make a new arena: it has no name, belongs to this user, and goes with the last process that maps it."""
        fd = os.memfd_create("poise-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, layout.size_bytes)
        # A mapped file that shrinks kills whoever touches it; nobody may resize this one.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(layout, fd)

    def close(self) -> None:
        """Close the file; the memory goes when the last array over it does."""
        os.close(self.fd)
        self.fd = -1
        self.inputs = self.outputs = {}
        self._memory = None  # whoever still refers to the arena holds none of it

    def _view(self, place: TensorPlace) -> Array:
        array: NDArray[Any] = np.ndarray(
            (self.layout.capacity, *place.shape),
            numpy_type(place.datatype, place.max_bytes),
            self._memory,
            place.offset,
        )
        return array


class RowAllocator:
    """Which rows are free: runs of rows, the lowest that is long enough first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        # Free runs by rising address: rows starts[i] up to, not including, ends[i].
        self._starts = [0]
        self._ends = [capacity]

    def take(self, rows: int) -> int | None:
        """Return the first of ``rows`` neighbouring rows that are now the caller's; None if there are none."""
        if rows < 1:
            raise InternalError(f"asked for {rows} rows")
        for i, start in enumerate(self._starts):
            if self._ends[i] - start >= rows:
                if self._ends[i] - start == rows:
                    del self._starts[i], self._ends[i]
                else:
                    self._starts[i] += rows
                self.used += rows
                return start
        return None

    def give_back(self, first: int, rows: int) -> None:
        """Free rows taken before.

        Raises:
            InternalError: some of them are not taken.
        """
        end = first + rows
        i = bisect_left(self._starts, first)
        overlaps = (i > 0 and self._ends[i - 1] > first) or (i < len(self._starts) and self._starts[i] < end)
        if rows < 1 or first < 0 or end > self.capacity or overlaps:
            raise InternalError(f"rows {first} to {end} given back, but they are not all taken")
        joins_left = i > 0 and self._ends[i - 1] == first
        joins_right = i < len(self._starts) and self._starts[i] == end
        if joins_left and joins_right:
            self._ends[i - 1] = self._ends[i]
            del self._starts[i], self._ends[i]
        elif joins_left:
            self._ends[i - 1] = end
        elif joins_right:
            self._starts[i] = first
        else:
            self._starts.insert(i, first)
            self._ends.insert(i, end)
        self.used -= rows


class SharedRows(RowAllocator):
    """The rows of an arena that several processes put tensors into. The first share is this process's own.

    The others give their own out themselves; here they are only counted, so that no more items wait than one share
    holds, whoever took them in.
    """

    def __init__(self, capacity: int, shares: int) -> None:
        super().__init__(capacity // shares)

    def share_of(self, place: int) -> tuple[int, int]:
        """Return the first row of a share, and how many it has."""
        return place * self.capacity, self.capacity

    def take(self, rows: int) -> int | None:
        """Return the first of ``rows`` neighbouring rows; None if there are none, or too many are taken elsewhere."""
        return None if self.used + rows > self.capacity else super().take(rows)

    def count_in(self, first: int, rows: int) -> int | None:
        """Count rows of another share, which its owner has taken; None if too many are taken."""
        if self.used + rows > self.capacity:
            return None
        self.used += rows
        return first

    def give_back(self, first: int, rows: int) -> None:
        """Free rows taken before, or count those of another share no more."""
        if first >= self.capacity:
            self.used -= rows
        else:
            super().give_back(first, rows)
