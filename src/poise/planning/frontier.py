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

Both compare latencies and accuracies in whole units of 1e-12 (seconds, or 1). Their sums are exact in a float, so
ties are ties, and no tolerance adds up over the steps. What a point finally says is summed from the model itself.
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

_UNITS = 1e12
_BANDS = 4096
_NEVER = -(1 << 62)
_CHOICES = 256
"""A state of the shared method holds its accuracy sum and, in the last digit to this base, the set that led to it."""

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]
_Counts = NDArray[np.int16]


class Frontier:
    """The non-dominated modality plans of one batch size, by rising latency and accuracy.

    Shapes: ``latency_s[p]`` and ``accuracy[p]`` (mean over the batch) of point *p*; ``counts[p][s]`` items of
    modality set *s* in the order of ``sets``. Units: seconds. May be empty: no plan of this size was measured.
    """

    __slots__ = ("_pairs", "_rises", "accuracy", "batch", "counts", "latency_s", "sets")

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
        self._rises: tuple[list[float], list[float]] | None = None
        self._pairs: dict[int, tuple[tuple[int, int], ...]] = {}

    def __len__(self) -> int:
        return len(self.latency_s)

    @property
    def rises(self) -> tuple[list[float], list[float]]:
        """What accuracy costs from vertex to vertex of the upper hull, and the vertices' latencies.

        Units: seconds for an accuracy of 1 of the mean, ascending; seconds, one more than those.
        """
        if self._rises is None:
            latency_s, accuracy = self.latency_s, self.accuracy
            prices_s: list[float] = []
            point, vertices = 0, [0] if latency_s else []
            while (ahead := self.next_vertex(point)) is not None:
                prices_s.append((latency_s[ahead] - latency_s[point]) / (accuracy[ahead] - accuracy[point]))
                vertices.append(ahead)
                point = ahead
            self._rises = prices_s, [latency_s[vertex] for vertex in vertices]
        return self._rises

    def worth_s(self, most_s: float) -> float:
        """Return the latency up to which more accuracy costs at most a price; 0 where there is no plan.

        Units: both in seconds, the price for an accuracy of 1 of the mean.
        """
        if not self.latency_s:
            return 0.0
        prices_s, latencies_s = self.rises
        return latencies_s[bisect_right(prices_s, most_s)]

    def next_vertex(self, point: int) -> int | None:
        """Return the point of steepest ascent ahead: the next vertex of the upper hull; None at the last."""
        latency_s, accuracy = self.latency_s, self.accuracy
        best, best_slope = None, 0.0
        for ahead in range(point + 1, len(latency_s)):
            slope = (accuracy[ahead] - accuracy[point]) / max(latency_s[ahead] - latency_s[point], 1e-12)
            if slope > best_slope:
                best, best_slope = ahead, slope
        return best

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
        found = self._pairs.get(point)
        if found is None:
            counts = zip(self.sets, self.counts[point].tolist(), strict=True)
            found = self._pairs[point] = tuple((mask, count) for mask, count in counts if count)
        return found


class FrontierTable:
    """The frontiers of every batch size of one model, as arrays; what is kept and stored.

    Only the plans are given: latency and accuracy are summed from the model here, in one fixed order, so a table
    that was stored says to the last bit what it said when it was worked out.

    Shapes: ``counts[p, s]`` items of modality set *s* in point *p*; the points of batch *b* are
    ``starts[b]:starts[b + 1]``, by rising latency and accuracy; *b* runs from 0 to ``model.max_batch``.

    Raises:
        ValueError: these are no plans of the model's batch sizes, or they do not rise.
    """

    __slots__ = ("_accuracy", "_latency_s", "counts", "model", "starts")

    def __init__(self, model: LatencyModel, counts: _Counts, starts: _Integers) -> None:
        sets, sizes = len(model.sets), model.max_batch + 1
        if counts.ndim != 2 or counts.shape[1] != sets or starts.shape != (sizes + 1,):
            raise ValueError(f"got plans of another shape, expected {sets} sets and {sizes - 1} batch sizes")
        points = np.diff(starts)
        if starts[0] != 0 or starts[-1] != len(counts) or (points < 0).any() or points[0]:
            raise ValueError("got batch sizes that do not divide the plans")
        batches = np.repeat(np.arange(sizes), points)
        if (counts < 0).any() or (counts.sum(axis=1, dtype=np.int64) != batches).any():
            raise ValueError("got a plan that is not of its batch size")
        self.model = model
        self.counts = counts
        self.starts = starts
        self._latency_s, self._accuracy = _priced(model, counts, batches)
        within = np.diff(batches) == 0
        for values in (self._latency_s, self._accuracy):
            if not np.isfinite(values).all() or (np.diff(values) <= 0)[within].any():
                raise ValueError("got plans that do not rise in latency and accuracy")

    def __len__(self) -> int:
        return len(self.counts)

    def frontier(self, batch: int) -> Frontier:
        """Return the frontier of a batch size from 0 to ``model.max_batch``; that of 0 is empty."""
        part = slice(int(self.starts[batch]), int(self.starts[batch + 1]))
        latency_s, accuracy = self._latency_s[part].tolist(), self._accuracy[part].tolist()
        return Frontier(batch, self.model.sets, latency_s, accuracy, self.counts[part])


def frontiers(model: LatencyModel) -> tuple[Frontier, ...]:
    """Return the frontier of every batch size 0..max_batch (the one of size 0 is empty).

    Raises:
        ValueError: stages overlap in more than ``MAX_SHARED_STAGES`` ways.
    """
    table = frontier_table(model)
    return tuple(table.frontier(batch) for batch in range(model.max_batch + 1))


def frontier_table(model: LatencyModel) -> FrontierTable:
    """Work out the frontiers of every batch size.

    Raises:
        ValueError: stages overlap in more than ``MAX_SHARED_STAGES`` ways.
    """
    sizes = model.max_batch + 1
    base = np.zeros(sizes)
    merged: dict[tuple[bool, ...], _Floats] = {}
    for group in model.groups:
        units = _table_units(group, sizes)
        if all(group.uses):
            base += units
        else:
            merged[group.uses] = merged.get(group.uses, 0.0) + units
    if all(sum(uses) == 1 for uses in merged):
        plans = _additive(model, merged, base)
    elif len(merged) > MAX_SHARED_STAGES:
        raise ValueError(
            f"got {len(merged)} stages shared by some modality sets, expected at most {MAX_SHARED_STAGES}"
        )
    else:
        plans = _shared(model, merged, base)
    kept = [plans[0][:0]]
    for batch in range(1, sizes):
        latency_s, accuracy = _priced(model, plans[batch], np.full(len(plans[batch]), batch))
        points = _non_dominated(latency_s, accuracy)
        kept.append(plans[batch][points[_apart(accuracy[points])]])
    starts = np.concatenate(([0], np.cumsum([len(counts) for counts in kept])))
    return FrontierTable(model, np.concatenate(kept), starts)


def _table_units(group: StageGroup, sizes: int) -> _Floats:
    """Return a stage's curve in whole units, infinite where it was not measured."""
    table = np.full(sizes, np.inf)
    known = np.asarray(group.table[:sizes])
    table[: len(known)] = np.round(known * _UNITS)
    return table


def _priced(model: LatencyModel, counts: _Counts, batches: _Integers) -> tuple[_Floats, _Floats]:
    """Return latency in seconds and mean accuracy of plans, ``batches[p]`` items each; summed as the model does."""
    latency_s, accuracy = np.zeros(len(counts)), np.zeros(len(counts))
    for group in model.groups:
        items = counts[:, np.asarray(group.uses)].sum(axis=1, dtype=np.int64)
        table = np.full(model.max_batch + 1, np.inf)
        known = group.table[: len(table)]
        table[: len(known)] = known
        latency_s += table[items]
    for s, each in enumerate(model.accuracy):
        accuracy += counts[:, s] * each
    return latency_s, accuracy / np.maximum(batches, 1)


def _non_dominated(latency: _Floats, accuracy: _Floats) -> NDArray[np.intp]:
    """Return the indices of the non-dominated points by rising latency; of equal points, the first."""
    promising = _promising(latency, accuracy)
    order = promising[np.argsort(latency[promising], kind="stable")]
    sums = accuracy[order]
    rises = np.ones(len(order), dtype=bool)
    rises[1:] = sums[1:] > np.maximum.accumulate(sums)[:-1]
    kept = order[rises]
    times = latency[kept]
    last = np.ones(len(kept), dtype=bool)
    last[:-1] = times[1:] > times[:-1]
    return kept[last]


def _promising(latency: _Floats, accuracy: _Floats) -> NDArray[np.intp]:
    """Return the points that no other in a lower band of latency beats: in one pass, what little is worth sorting."""
    if len(latency) < _BANDS:
        return np.arange(len(latency))
    least, most = latency.min(), latency.max()
    if most <= least:
        return np.arange(len(latency))
    band = ((latency - least) * ((_BANDS - 1) / (most - least))).astype(np.intp)
    best = np.full(_BANDS, -np.inf)
    np.maximum.at(best, band, accuracy)
    below = np.concatenate(([-np.inf], np.maximum.accumulate(best)[:-1]))
    return np.flatnonzero(accuracy > below[band])


def _apart(accuracy: _Floats) -> NDArray[np.intp]:
    """Return the indices of rising accuracies that differ by more than half the tolerance from the last one kept.

    Half, so that who asks for the accuracy of a point left out gets the one before it.
    """
    least = ACCURACY_TOLERANCE / 2
    if (np.diff(accuracy) > least).all():
        return np.arange(len(accuracy))
    kept = [0]
    for point, value in enumerate(accuracy.tolist()):
        if value > accuracy[kept[-1]] + least:
            kept.append(point)
    return np.array(kept)


def _shared(model: LatencyModel, partial: dict[tuple[bool, ...], _Floats], base: _Floats) -> list[_Counts]:
    """Return candidate plans of each batch size; latency and accuracy in units."""
    sets, dims = len(model.sets), len(partial)
    steps = np.array([[int(uses[s]) for uses in partial] for s in range(sets)])
    # A gain ends in the digit that names its set; the lowest set is named by the highest digit and wins a tie.
    gains = np.round(np.asarray(model.accuracy) * _UNITS).astype(np.int64) * _CHOICES
    gains += _CHOICES - 1 - np.arange(sets)
    best = np.zeros((1,) * dims, dtype=np.int64)
    choices = [np.zeros((1,) * dims, dtype=np.uint8)]
    ends = [np.zeros((0, dims), dtype=np.intp)]
    for batch in range(1, model.max_batch + 1):
        grown = np.full((batch + 1,) * dims, _NEVER, dtype=np.int64)
        for s in range(sets):
            window = grown[tuple(slice(d, d + batch) for d in steps[s])]
            np.maximum(window, best + gains[s], out=window)
        choices.append((_CHOICES - 1 - grown % _CHOICES).astype(np.uint8))
        best = grown // _CHOICES * _CHOICES
        latency = np.full((batch + 1,) * dims, base[batch])
        for axis, table in enumerate(partial.values()):
            latency = latency + table[: batch + 1].reshape([-1 if i == axis else 1 for i in range(dims)])
        usable = np.flatnonzero(np.isfinite(latency) & (best >= 0))
        kept = usable[_non_dominated(latency.ravel()[usable], best.ravel()[usable].astype(np.float64))]
        ends.append(np.stack(np.unravel_index(kept, best.shape), axis=1))
    return _traced_back(choices, ends, steps)


def _traced_back(
    choices: Sequence[NDArray[np.uint8]], ends: Sequence[NDArray[np.intp]], steps: _Integers
) -> list[_Counts]:
    """Return the plans that lead to the states ``ends[batch]``: all at once, one item at a time."""
    largest = len(ends) - 1
    sizes = [len(ends[batch]) for batch in range(largest, -1, -1)]
    bounds = np.concatenate(([0], np.cumsum(sizes)))
    states = np.concatenate([ends[batch] for batch in range(largest, -1, -1)])
    counts = np.zeros((len(states), len(steps)), dtype=np.int16)
    for size in range(largest, 0, -1):
        rows = np.arange(bounds[largest - size + 1])
        chosen = choices[size][tuple(states[rows].T)]
        counts[rows, chosen] += 1
        states[rows] -= steps[chosen]
    return [counts[bounds[largest - b] : bounds[largest - b + 1]] for b in range(largest + 1)]


def _additive(model: LatencyModel, partial: dict[tuple[bool, ...], _Floats], base: _Floats) -> list[_Counts]:
    """Return candidate plans of each batch size; latency and accuracy in units.

    The points of the sets so far lie one batch size after the other: those of *b* are ``starts[b]:starts[b+1]``.
    """
    sizes = model.max_batch + 1
    latency, sums = np.zeros(1), np.zeros(1)
    counts = np.zeros((1, 0), dtype=np.int16)
    starts = np.concatenate(([0], np.ones(sizes, dtype=np.intp)))
    for s, each in enumerate(np.round(np.asarray(model.accuracy) * _UNITS).tolist()):
        own = next((table for uses, table in partial.items() if uses[s]), np.zeros(sizes))
        found: list[tuple[_Floats, _Floats, _Counts]] = []
        for batch in range(sizes):
            takes = [
                n
                for n in range(batch + 1)
                if np.isfinite(own[n]) and starts[batch - n] < starts[batch - n + 1]
            ]
            parts = [slice(starts[batch - n], starts[batch - n + 1]) for n in takes]
            if not parts:
                found.append((latency[:0], sums[:0], np.zeros((0, s + 1), dtype=np.int16)))
                continue
            times = np.concatenate([latency[part] + own[n] for n, part in zip(takes, parts, strict=True)])
            gains = np.concatenate([sums[part] + n * each for n, part in zip(takes, parts, strict=True)])
            kept = _non_dominated(times, gains)
            lengths = [part.stop - part.start for part in parts]
            taken = np.repeat(takes, lengths)[kept]
            origin = np.concatenate([np.arange(part.start, part.stop) for part in parts])[kept]
            found.append(
                (times[kept], gains[kept], np.column_stack((counts[origin], taken.astype(np.int16))))
            )
        latency, sums, counts = (np.concatenate(column) for column in zip(*found, strict=True))
        starts = np.concatenate(([0], np.cumsum([len(one[0]) for one in found])))
    finite = np.isfinite(base)
    return [counts[starts[b] : starts[b + 1] if finite[b] else starts[b]] for b in range(sizes)]
