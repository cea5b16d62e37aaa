"""How much more the load weighs than the profile says: learned from attainment, since a profile may be wrong.

While deadlines or floors are missed although no more arrives than was planned for, plans are made for more and more;
once they are met, for less again, slowly. It is a factor both ways, since that is what a wrong profile is wrong by.
"""

from __future__ import annotations

GROWTH = 1.25
MOST = 4.0
DECAY = 0.995
"""A beat at which all is well takes so much off: half of it is gone after some two minutes."""
BAD, WELL = 0.95, 0.99
BUSY = 0.7


class Strain:
    """A factor of at least 1 on the load that is planned for. Mutable: ``observe`` takes one beat after the other."""

    def __init__(self) -> None:
        self.factor = 1.0

    def observe(self, attainment: float | None) -> None:
        """Take a beat's attainment; None where no job had its outcome."""
        if attainment is None or attainment >= WELL:
            self.factor = max(1.0, self.factor * DECAY)

    def fell(
        self, attainment: float | None, observed_rps: float, planned_rps: float, busy_share: float
    ) -> None:
        """Note that a plan is made because attainment fell; what was planned for had the factor on it.

        ``busy_share``: of the time of the workers that run. Where they are idle, what is missed is missed for other
        reasons, deadlines that nobody could hold or workers that are gone, and more of them would not help.
        """
        if busy_share < BUSY:
            return
        if attainment is not None and attainment < BAD and observed_rps * self.factor <= planned_rps:
            self.factor = min(MOST, self.factor * GROWTH)
