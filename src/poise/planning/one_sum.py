"""One choice for each job under one limit on the total time: a multiple-choice knapsack, exactly.

``max Σ_j v_j[c_j]`` subject to ``Σ_j t_j[c_j] ≤ T``. Source: MOSEL (EMNLP 2024), step 3, whose online programme
maximises ``Σ acc(s)·|j|`` under ``Σ l(s) ≤ T``. The released code hands it to a general nonlinear solver over
splines with a limit of 100 ms; here it is solved exactly over the points themselves, without a limit.

Partial choices for the first jobs are (time, value) states. A state is given up if another takes no more time
for at least its value, or if the linear relaxation of the jobs to come cannot lift it above the best choice
known: each job's upper hull, cut into steps and taken steepest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TIME_TOLERANCE_S = 1e-9
"""By how much a sum of times may exceed the limit: the rounding of sums."""
VALUE_TOLERANCE = 1e-12
"""States that could gain less than this over the best choice known are given up."""

_Floats = NDArray[np.float64]
_Indices = NDArray[np.intp]


def best_under_sum(
    times_s: Sequence[Sequence[float]], values: Sequence[Sequence[float]], limit_s: float
) -> list[int] | None:
    """Return the choice of each job with the highest sum of values whose times sum to at most the limit.

    Shapes: ``times_s[j][c]`` and ``values[j][c]`` of choice *c* of job *j*, at least one, in any order. Units:
    seconds. None where even the quickest choices take longer. Among equal sums any may be returned.
    """
    if sum(min(times) for times in times_s) > limit_s + TIME_TOLERANCE_S:
        return None
    options = [_options(tuple(times), tuple(value)) for times, value in zip(times_s, values, strict=True)]
    if sum(float(option.times_s[-1]) for option in options) <= limit_s + TIME_TOLERANCE_S:
        return [int(option.original[-1]) for option in options]
    bounds = _Bounds(options, limit_s)
    chosen, known = bounds.greedy()
    better = _search(options, bounds, known)
    if better is not None:
        chosen = better
    return [int(option.original[at]) for option, at in zip(options, chosen, strict=True)]


class _Options:
    """One job's choices that no other beats in both, by rising time, and the steps along their upper hull."""

    __slots__ = ("hull", "original", "times_s", "values")

    def __init__(self, times_s: Sequence[float], values: Sequence[float]) -> None:
        times, worth = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
        kept = _non_dominated(times, worth)
        self.original = kept
        self.times_s = times[kept]
        self.values = worth[kept]
        self.hull = _upper_hull(self.times_s, self.values)
        """Positions of the vertices; the first is the quickest choice, the last the most valuable one."""


@lru_cache(maxsize=1024)
def _options(times_s: tuple[float, ...], values: tuple[float, ...]) -> _Options:
    """Return a job's choices prepared; jobs of one size have the same."""
    return _Options(times_s, values)


class _Bounds:
    """What the jobs from each one on can add at most, by the time that is left for them."""

    def __init__(self, options: Sequence[_Options], limit_s: float) -> None:
        self._options = options
        self._limit_s = limit_s
        jobs = len(options)
        self._base_s = np.zeros(jobs + 1)
        self._base_value = np.zeros(jobs + 1)
        self._curves: list[tuple[_Floats, _Floats]] = [(np.zeros(1), np.zeros(1))] * (jobs + 1)
        steps_s, gains, owners = np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.intp)
        for job in range(jobs - 1, -1, -1):
            option = options[job]
            self._base_s[job] = self._base_s[job + 1] + option.times_s[0]
            self._base_value[job] = self._base_value[job + 1] + option.values[0]
            own_s, own_gain = np.diff(option.times_s[option.hull]), np.diff(option.values[option.hull])
            steps_s, gains = np.concatenate((own_s, steps_s)), np.concatenate((own_gain, gains))
            owners = np.concatenate((np.full(len(own_s), job, dtype=np.intp), owners))
            # Stable, and a job's steps grow less steep: its own order is kept.
            order = np.argsort(-gains / steps_s, kind="stable")
            steps_s, gains, owners = steps_s[order], gains[order], owners[order]
            self._curves[job] = (
                np.concatenate(([0.0], np.cumsum(steps_s))),
                np.concatenate(([0.0], np.cumsum(gains))),
            )
        self._steps = list(zip(steps_s.tolist(), owners.tolist(), strict=True))

    def highest(self, job: int, used_s: _Floats) -> _Floats:
        """Return the most that the jobs from ``job`` on can add to states that took so long; -inf: no room."""
        room_s = self._limit_s - used_s - self._base_s[job]
        times_s, gains = self._curves[job]
        reached = self._base_value[job] + np.interp(room_s, times_s, gains)
        return np.where(room_s < -TIME_TOLERANCE_S, -np.inf, reached)

    def greedy(self) -> tuple[list[int], float]:
        """Return a choice to start from, as positions, and its value.

        Whole steps, steepest first; then each job in turn takes the best choice that the rest of the time allows.
        """
        room_s = self._limit_s - float(self._base_s[0])
        at = [0] * len(self._options)
        stopped: set[int] = set()
        for step_s, job in self._steps:
            if job in stopped:
                continue
            if step_s > room_s:
                stopped.add(job)
                continue
            room_s -= step_s
            at[job] += 1
        chosen = [int(option.hull[step]) for option, step in zip(self._options, at, strict=True)]
        for job, option in enumerate(self._options):
            now_s = option.times_s[chosen[job]]
            last = int(np.searchsorted(option.times_s, now_s + room_s, side="right")) - 1
            if last > chosen[job]:
                room_s -= option.times_s[last] - now_s
                chosen[job] = last
        value = sum(float(option.values[at]) for option, at in zip(self._options, chosen, strict=True))
        return chosen, value


def _search(options: Sequence[_Options], bounds: _Bounds, known: float) -> list[int] | None:
    """Return the best choice, as positions, if one is worth more than what is known; else None."""
    used_s, worth = np.zeros(1), np.zeros(1)
    trail: list[tuple[_Indices, _Indices]] = []
    for job, option in enumerate(options):
        grown_s = (used_s[:, None] + option.times_s[None, :]).ravel()
        grown = (worth[:, None] + option.values[None, :]).ravel()
        open_states = np.flatnonzero(grown + bounds.highest(job + 1, grown_s) > known + VALUE_TOLERANCE)
        if not len(open_states):
            return None
        kept = open_states[_non_dominated(grown_s[open_states], grown[open_states])]
        trail.append(np.divmod(kept, len(option.times_s)))
        used_s, worth = grown_s[kept], grown[kept]
    state = int(np.argmax(worth))
    chosen = [0] * len(options)
    for job in range(len(options) - 1, -1, -1):
        before, choice = trail[job]
        chosen[job] = int(choice[state])
        state = int(before[state])
    return chosen


def _non_dominated(times_s: _Floats, values: _Floats) -> _Indices:
    """Return the indices of the states that no other beats in both, by rising time."""
    order = np.lexsort((-values, times_s))
    ranked = values[order]
    before = np.maximum.accumulate(np.concatenate(([-np.inf], ranked[:-1])))
    return order[ranked > before]


def _upper_hull(times_s: _Floats, values: _Floats) -> _Indices:
    """Return the vertices of the upper hull of points by rising time and value."""
    found: list[int] = []
    for point in range(len(times_s)):
        while len(found) > 1:
            a, b = found[-2], found[-1]
            rise = (values[b] - values[a]) * (times_s[point] - times_s[a])
            if rise > (values[point] - values[a]) * (times_s[b] - times_s[a]):
                break
            found.pop()
        found.append(point)
    return np.asarray(found, dtype=np.intp)
