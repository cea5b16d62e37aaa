"""What policies that run one job at a time may choose from: a job's plans over a worker's variants, as a ladder."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from poise.planning.frontier import ACCURACY_TOLERANCE, Frontier
from poise.planning.service_model import VariantPlans

MOST_LADDERS = 4096
"""Plans may be replaced while running; what is kept for each is dropped when there are more than this."""

Resident = tuple[VariantPlans, ...]
"""The variants of a worker."""


class Ladder:
    """The plans of one batch size over some variants that no other beats in both, by rising latency and accuracy.

    The frontiers of the variants merged: a point says which variant it is of. Units: profile seconds.
    """

    __slots__ = ("accuracy", "latency_s", "picks")

    def __init__(self, found: list[tuple[VariantPlans, Frontier]]) -> None:
        points = sorted(
            (
                (frontier.latency_s[p], -frontier.accuracy[p], order, p)
                for order, (_, frontier) in enumerate(found)
                for p in range(len(frontier))
            ),
        )
        self.latency_s: list[float] = []
        self.accuracy: list[float] = []
        self.picks: list[tuple[VariantPlans, Frontier, int]] = []
        for latency_s, negative, order, point in points:
            if not self.accuracy or -negative > self.accuracy[-1] + ACCURACY_TOLERANCE:
                self.latency_s.append(latency_s)
                self.accuracy.append(-negative)
                self.picks.append((*found[order], point))

    def at_least(self, accuracy: float) -> int:
        """Return the first point with at least this accuracy, or the number of points if there is none."""
        return bisect_left(self.accuracy, accuracy - ACCURACY_TOLERANCE)


class Steps:
    """How a job's waiting items may be answered on a worker, one batch after another: from its floor to its best.

    ``accuracy[i]`` is what every batch reaches at step *i*, ``latency_s[i]`` their sum; both rise. Only steps
    from ``floor_at`` on are admissible; a job of one batch shares its ladder's lists. Units: profile seconds.
    """

    __slots__ = ("accuracy", "batches", "floor_at", "latency_s")

    def __init__(self, parts: list[tuple[int, Ladder]], floor: float) -> None:
        self.batches = sum(times for times, _ in parts)
        if len(parts) == 1 and parts[0][0] == 1:
            self.accuracy, self.latency_s = parts[0][1].accuracy, parts[0][1].latency_s
        else:
            highest = min(
                (ladder.accuracy[-1] if ladder.accuracy else -1.0 for _, ladder in parts), default=-1.0
            )
            levels = {a for _, ladder in parts for a in ladder.accuracy if a <= highest}
            self.accuracy, self.latency_s = [], []
            for level in sorted(levels):
                latency_s = sum(n * ladder.latency_s[ladder.at_least(level)] for n, ladder in parts)
                if self.latency_s and latency_s <= self.latency_s[-1]:
                    self.accuracy[-1] = level  # as quick, and more accurate
                else:
                    self.accuracy.append(level)
                    self.latency_s.append(latency_s)
        self.floor_at = bisect_left(self.accuracy, floor - ACCURACY_TOLERANCE)

    def __len__(self) -> int:
        """How many steps are admissible."""
        return len(self.accuracy) - self.floor_at

    def at(self, target: float) -> int:
        """Return the first admissible step with at least this accuracy, else the last one."""
        found = bisect_left(self.accuracy, target - ACCURACY_TOLERANCE, self.floor_at)
        return min(found, len(self.accuracy) - 1)

    def within(self, latency_s: float) -> int:
        """Return the last admissible step with at most this latency, else the first one."""
        return max(self.floor_at, bisect_right(self.latency_s, latency_s, self.floor_at) - 1)


class Ladders:
    """The ladders of a service, worked out as they are first used."""

    def __init__(self) -> None:
        self._found: dict[tuple[Resident, int, int, int], Ladder] = {}

    def ladder(self, resident: Resident, available: int, items: int, rung: int) -> Ladder:
        """Return the ladder of so many items of a rung, at most the largest batch, with these modalities."""
        key = (resident, available, items, rung)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= MOST_LADDERS:
                self._found.clear()
            there = [plans.at(rung) for plans in resident]
            frontiers = ((plans, plans.frontier(plans.allowed(available), items)) for plans in there)
            found = self._found[key] = Ladder([(p, f) for p, f in frontiers if f is not None])
        return found

    def steps(self, resident: Resident, available: int, items: int, floor: float, rung: int) -> Steps:
        """Return the steps of a job of a rung with so many waiting items: whole batches, then the rest."""
        largest = largest_batch(resident)
        whole, rest = divmod(items, largest)
        parts = [(whole, self.ladder(resident, available, largest, rung))] if whole else []
        if rest:
            parts.append((1, self.ladder(resident, available, rest, rung)))
        return Steps(parts, floor)


def largest_batch(resident: Resident) -> int:
    """Return the largest batch that one of these variants takes."""
    return max(plans.model.max_batch for plans in resident)
