"""The fluid bound: what one worker could carry at most, if work were a fluid.

The relaxation of the joint allocation programme for one variant and one class: every configuration (batch,
frontier point) whose mean latency is within the SLO answers items in latency/batch seconds each, and load may
be split over configurations in any shares. The least time of an item at a mean accuracy is then the lower convex
hull of (accuracy, seconds per item). There is no queueing in it: no scheduler can reach it with deadlines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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


def _turn(first: Point, second: Point, third: Point) -> float:
    """Above 0 where the path through three points turns left."""
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (third[0] - first[0])
