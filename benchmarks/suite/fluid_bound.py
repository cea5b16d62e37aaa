"""The fluid bound: what one worker could carry at most, if work were a fluid.

The relaxation of the joint allocation programme for one variant and one class: every configuration (batch,
frontier point) whose mean latency is within the SLO answers items in latency/batch seconds each, and load may
be split over configurations in any shares. The least time of an item at a mean accuracy is then the lower convex
hull of (accuracy, seconds per item). There is no queueing in it: no scheduler can reach it with deadlines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from poise.planning.frontier import ACCURACY_TOLERANCE, frontiers
from poise.planning.latency_model import LatencyModel, restrict

Point = tuple[float, float]
"""(accuracy, seconds per item)."""


def configurations(model: LatencyModel, slo_s: float) -> Iterator[Point]:
    """Yield the points of every batch size's frontier whose latency is within the SLO."""
    for frontier in frontiers(model):
        for latency_s, accuracy in zip(frontier.latency_s, frontier.accuracy, strict=True):
            if latency_s <= slo_s:
                yield accuracy, latency_s / frontier.batch


def lower_hull(points: Iterable[Point]) -> list[Point]:
    """Return the lower convex hull of some points, by rising accuracy."""
    hull: list[Point] = []
    for point in sorted(points):
        if hull and hull[-1][0] == point[0]:
            continue  # dearer at the same accuracy
        while len(hull) > 1 and _turn(hull[-2], hull[-1], point) <= 0:
            hull.pop()
        hull.append(point)
    return hull


def least_item_s(points: Iterable[Point], floor: float) -> float:
    """Return the least mean time of an item over mixes with a mean accuracy of at least ``floor``.

    Infinite where even the most accurate point lies below. Units: seconds.
    """
    hull = lower_hull(points)
    reached = [seconds for accuracy, seconds in hull if accuracy >= floor - ACCURACY_TOLERANCE]
    for (low, low_s), (high, high_s) in pairwise(hull):
        if low < floor <= high:
            reached.append(low_s + (high_s - low_s) * (floor - low) / (high - low))
    return min(reached, default=math.inf)


def fluid_bound_rps(model: LatencyModel, slo_s: float, floor: float, *, each: bool = False) -> float:
    """Return the items per second that one worker carries at most, with ``model`` built from mean latencies.

    ``each``: the floor holds for every item by itself (guarantee scope ``job``), not for their mean.
    """
    if each:
        high = [at for at, a in enumerate(model.accuracy) if a >= floor - ACCURACY_TOLERANCE]
        if not high:
            return 0.0
        model = restrict(model, high)
    return 1.0 / least_item_s(configurations(model, slo_s), floor)


def jobs_bound_rps(
    model: LatencyModel,
    sizes: Mapping[int, float],
    deadline_s: Callable[[int], float],
    floor: float,
    *,
    each: bool = False,
) -> float:
    """Return the jobs per second that one worker carries at most, where jobs have several items.

    ``sizes[n]`` is the probability of a job of *n* items, due after ``deadline_s(n)``. The relaxation: no queueing,
    items are divided over batches in any shares, and the items of a job use only batches whose mean latency is
    within its deadline.

    - The floor on the mean over all items: the least time at a mean accuracy, of each size by itself, is the hull
      of its configurations; over all sizes it is their infimal convolution, the steps of all hulls by rising price.
    - ``each``: the floor is on the mean over each job's own items. Jobs of one item use modes at or above the floor
      (the hull of their configurations, as ``fluid_bound_rps``); a job of more is a whole-number mix of modes
      whose mean is at the floor, and each item is charged, for every stage that it uses, the least time per item of
      that stage in batches within the deadline. That stages are charged one by one is a relaxation too: it lets each
      stage run in its own best batch.

    Units: seconds; ``model`` is built from mean latencies.
    """
    mean_items = sum(p * n for n, p in sizes.items())
    parts = [(p * n / mean_items, lower_hull(configurations(model, deadline_s(n)))) for n, p in sizes.items()]
    job_s = mean_items * _least_of_mix_s(parts, floor)
    if each:  # what holds for every job holds for their mean
        job_s = max(job_s, sum(p * _whole_job_s(model, n, deadline_s(n), floor) for n, p in sizes.items()))
    return 1.0 / job_s


def _least_of_mix_s(parts: Sequence[tuple[float, list[Point]]], floor: float) -> float:
    """Return the least mean time of an item where a share of the items may use the points of one hull each."""
    total_s = accuracy = 0.0
    steps: list[tuple[float, float, float]] = []
    for share, hull in parts:
        if not hull:
            return math.inf
        cheapest = min(range(len(hull)), key=lambda at: hull[at][1])
        accuracy += share * hull[cheapest][0]
        total_s += share * hull[cheapest][1]
        for (low, low_s), (high, high_s) in pairwise(hull[cheapest:]):
            steps.append(((high_s - low_s) / (high - low), share * (high - low), share * (high_s - low_s)))
    for _, gain, cost_s in sorted(steps):
        missing = floor - accuracy
        if missing <= ACCURACY_TOLERANCE:
            break
        used = min(1.0, missing / gain)
        accuracy += used * gain
        total_s += used * cost_s
    return total_s if accuracy >= floor - 2 * ACCURACY_TOLERANCE else math.inf


def _whole_job_s(model: LatencyModel, items: int, deadline_s: float, floor: float) -> float:
    """Return the least time of a job of so many items, its own mean at the floor; see ``jobs_bound_rps``."""
    if items == 1:
        bound = fluid_bound_rps(model, deadline_s, floor, each=True)
        return 1.0 / bound if bound else math.inf
    stage_s = [
        min((table / n for n, table in enumerate(group.table) if n and table <= deadline_s), default=math.inf)
        for group in model.groups
    ]
    mode_s = [
        sum(s for s, group in zip(stage_s, model.groups, strict=True) if group.uses[at])
        for at in range(len(model.sets))
    ]
    modes = _undominated(zip(model.accuracy, mode_s, strict=True))
    best: list[Point] = [(0.0, 0.0)]  # the sums of k modes that no other beats in both
    for _ in range(items):
        best = _undominated((accuracy + a, time_s + s) for accuracy, time_s in best for a, s in modes)
    need = (floor - ACCURACY_TOLERANCE) * items
    return min((time_s for accuracy, time_s in best if accuracy >= need), default=math.inf)


def _undominated(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other beats in both a higher accuracy and a lower time."""
    kept: list[Point] = []
    least_s = math.inf
    for accuracy, time_s in sorted(set(points), key=lambda p: (-p[0], p[1])):
        if time_s < least_s:
            kept.append((accuracy, time_s))
            least_s = time_s
    return kept


def _turn(first: Point, second: Point, third: Point) -> float:
    """Above 0 where the path through three points turns left."""
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (third[0] - first[0])
