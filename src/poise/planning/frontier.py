"""E1: the frontier of modality plans of every batch size, exactly.

For each batch size *b*: all integer plans ``x ≥ 0`` with ``Σ x_s = b`` that no other beats in both latency
``Σ_g L_g(n_g)`` and accuracy ``Σ A_s x_s / b``. Source: MOSEL (EMNLP 2024), step 2, which solves one nonlinear
integer programme for each (batch, accuracy target); here one dynamic programme gives every target at once.

Two exact methods, chosen by the shape of the stages:

- *shared* (encoders layout): latency depends on x only through the item counts ``n_g`` of the few stages
  that some but not all sets use. ``F_b[n] = max_s F_{b-1}[n − uses_s] + A_s`` is the highest accuracy sum at
  counts *n*; the frontier of *b* is the non-dominated part of (l(n), F_b[n]).
- *additive* (graphs layout): every stage belongs to one set, or to all. Non-dominated (latency, accuracy)
  points of the first *k* sets are extended by *j* items of the next one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from poise.domain.plan import ModalityPlan
from poise.planning.latency_model import LatencyModel, StageGroup

ACCURACY_TOLERANCE = 1e-9
MAX_SHARED_STAGES = 4

_Floats = NDArray[np.float64]
_Counts = NDArray[np.int16]


class Frontier:
    """The non-dominated modality plans of one batch size, by rising latency and accuracy.

    Shapes: ``latency_s[p]`` and ``accuracy[p]`` (mean over the batch) of point *p*; ``counts[p][s]`` items of
    modality set *s* in the order of ``sets``. Units: seconds. May be empty: no plan of this size was measured.
    """

    __slots__ = ("accuracy", "batch", "counts", "latency_s", "sets")

    def __init__(
        self,
        batch: int,
        sets: tuple[int, ...],
        latency_s: list[float],
        accuracy: list[float],
        counts: _Counts,
    ) -> None:
        self.batch = batch
        self.sets = sets
        self.latency_s = latency_s
        self.accuracy = accuracy
        self.counts = counts

    def __len__(self) -> int:
        return len(self.latency_s)

    def cheapest_at(self, accuracy: float) -> int | None:
        """Return the point of least latency with at least this mean accuracy, or None."""
        point = bisect_left(self.accuracy, accuracy - ACCURACY_TOLERANCE)
        return point if point < len(self.accuracy) else None

    def best_within(self, latency_s: float) -> int | None:
        """Return the most accurate point with at most this latency, or None."""
        point = bisect_right(self.latency_s, latency_s) - 1
        return point if point >= 0 else None

    def plan(self, point: int) -> ModalityPlan:
        """Return a point as a value."""
        return ModalityPlan(
            batch=self.batch,
            latency_s=self.latency_s[point],
            accuracy=self.accuracy[point],
            counts=self.pairs(point),
        )

    def pairs(self, point: int) -> tuple[tuple[int, int], ...]:
        """Return (modality mask, items) of a point, only sets that are used."""
        return tuple(
            (mask, count) for mask, count in zip(self.sets, self.counts[point].tolist(), strict=True) if count
        )


def frontiers(model: LatencyModel) -> tuple[Frontier, ...]:
    """Return the frontier of every batch size 0..max_batch (the one of size 0 is empty).

    Raises:
        ValueError: stages overlap in more than ``MAX_SHARED_STAGES`` ways.
    """
    common = [group for group in model.groups if all(group.uses)]
    partial = [group for group in model.groups if not all(group.uses)]
    base = np.zeros(model.max_batch + 1)
    for group in common:
        base += np.asarray(group.table)[: model.max_batch + 1]
    if all(sum(group.uses) == 1 for group in partial):
        return _additive(model, partial, base)
    if len(partial) > MAX_SHARED_STAGES:
        raise ValueError(
            f"got {len(partial)} stages shared by some modality sets, expected at most {MAX_SHARED_STAGES}"
        )
    return _shared(model, partial, base)


def _empty(model: LatencyModel, batch: int) -> Frontier:
    return Frontier(batch, model.sets, [], [], np.zeros((0, len(model.sets)), dtype=np.int16))


def _non_dominated(latency: _Floats, accuracy: _Floats, batch: int) -> NDArray[np.intp]:
    """Return the indices of the non-dominated points by rising latency; accuracies are sums over the batch."""
    order = np.lexsort((-accuracy, latency))
    sums = accuracy[order]
    best_before = np.maximum.accumulate(np.concatenate(([-np.inf], sums[:-1])))
    return order[sums > best_before + ACCURACY_TOLERANCE * batch]


def _shared(model: LatencyModel, partial: Sequence[StageGroup], base: _Floats) -> tuple[Frontier, ...]:
    dims = len(partial)
    steps = [tuple(int(group.uses[s]) for group in partial) for s in range(len(model.sets))]
    tables = [np.asarray(group.table) for group in partial]
    best = np.zeros((1,) * dims)
    choices: list[NDArray[np.int8]] = [np.zeros((1,) * dims, dtype=np.int8)]
    found = [_empty(model, 0)]
    for batch in range(1, model.max_batch + 1):
        grown = np.full((batch + 1,) * dims, -np.inf)
        choice = np.full((batch + 1,) * dims, -1, dtype=np.int8)
        for s, step in enumerate(steps):
            window = tuple(slice(d, d + batch) for d in step)
            candidate = best + model.accuracy[s]
            better = candidate > grown[window]
            grown[window][better] = candidate[better]
            choice[window][better] = s
        best = grown
        choices.append(choice)
        latency = np.full((batch + 1,) * dims, base[batch])
        for axis, table in enumerate(tables):
            shape = [1] * dims
            shape[axis] = batch + 1
            latency = latency + table[: batch + 1].reshape(shape)
        usable = np.flatnonzero(np.isfinite(latency) & np.isfinite(best))
        flat_latency, flat_sums = latency.ravel()[usable], best.ravel()[usable]
        kept = _non_dominated(flat_latency, flat_sums, batch)
        counts = _trace_back(choices, usable[kept], batch, steps, len(model.sets))
        found.append(_frontier(model, batch, flat_latency[kept], flat_sums[kept], counts))
    return tuple(found)


def _trace_back(
    choices: Sequence[NDArray[np.int8]],
    flat: NDArray[np.intp],
    batch: int,
    steps: Sequence[tuple[int, ...]],
    sets: int,
) -> _Counts:
    """Recover the plans behind some states, all at once, one item at a time."""
    counts = np.zeros((len(flat), sets), dtype=np.int16)
    state = np.array(np.unravel_index(flat, choices[batch].shape)).T
    moves = np.array(steps)
    rows = np.arange(len(flat))
    for size in range(batch, 0, -1):
        chosen = choices[size][tuple(state.T)]
        counts[rows, chosen] += 1
        state = state - moves[chosen]
    return counts


def _additive(model: LatencyModel, partial: Sequence[StageGroup], base: _Floats) -> tuple[Frontier, ...]:
    sets, largest = len(model.sets), model.max_batch
    own = np.zeros((sets, largest + 1))
    for group in partial:
        own[group.uses.index(True)] += np.asarray(group.table)[: largest + 1]
    none = np.zeros((1, 0), dtype=np.int16)
    # points[b]: latency, accuracy sum, counts of the non-dominated plans of b items over the sets so far
    points: list[tuple[_Floats, _Floats, _Counts] | None] = [(np.zeros(1), np.zeros(1), none)]
    points += [None] * largest
    for s in range(sets):
        grown: list[tuple[_Floats, _Floats, _Counts] | None] = []
        for batch in range(largest + 1):
            parts = []
            for items in range(batch + 1):
                before = points[batch - items]
                if before is None or not np.isfinite(own[s, items]):
                    continue
                column = np.full((len(before[0]), 1), items, dtype=np.int16)
                parts.append(
                    (
                        before[0] + own[s, items],
                        before[1] + items * model.accuracy[s],
                        np.hstack((before[2], column)),
                    )
                )
            if not parts:
                grown.append(None)
                continue
            latency, sums, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
            kept = _non_dominated(latency, sums, max(batch, 1))
            grown.append((latency[kept], sums[kept], counts[kept]))
        points = grown
    found = [_empty(model, 0)]
    for batch in range(1, largest + 1):
        point = points[batch]
        if point is None or not np.isfinite(base[batch]):
            found.append(_empty(model, batch))
        else:
            found.append(_frontier(model, batch, point[0] + base[batch], point[1], point[2]))
    return tuple(found)


def _frontier(model: LatencyModel, batch: int, latency: _Floats, sums: _Floats, counts: _Counts) -> Frontier:
    # The mean is taken from the counts, in one fixed order, so that equal plans have equal accuracies.
    accuracy = counts @ np.asarray(model.accuracy) / batch
    return Frontier(batch, model.sets, latency.tolist(), accuracy.tolist(), counts)
