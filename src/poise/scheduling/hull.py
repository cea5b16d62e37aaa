"""The upper hull of points of (time, accuracy): what going back and forth between them can reach on average."""

from __future__ import annotations

from collections.abc import Sequence


def upper_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the vertices of the upper hull of (time, accuracy), where accuracy rises."""
    hull: list[tuple[float, float]] = []
    for time_s, accuracy in points:
        if hull and accuracy <= hull[-1][1]:
            continue
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (time_s - hull[-2][0]) <= (
            accuracy - hull[-2][1]
        ) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        hull.append((time_s, accuracy))
    return hull
