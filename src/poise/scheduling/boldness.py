"""How far batches may go beyond what would be safe whatever arrives next: learned from the jobs that were lost."""

from __future__ import annotations

from poise.domain.job import RefusalReason

FOR_DEADLINES = (RefusalReason.DEADLINE_UNREACHABLE, RefusalReason.DEADLINE_PASSED, RefusalReason.DISPLACED)
START = 0.5
MORE_A_BATCH = 0.01
LESS_A_LOSS = 0.5


class Boldness:
    """A share: grows with every batch, and is halved by every job that is lost for its deadline.

    A long batch costs nothing where the next job comes late, and a job where it comes early. Which of the two is so
    lies in how arrivals follow each other: it is tried. With one job in a hundred lost the share stays near 1, with
    one in ten near 0 (additive increase, multiplicative decrease, as of TCP's window).
    """

    __slots__ = ("share",)

    def __init__(self) -> None:
        self.share = START

    def ran(self) -> None:
        """Note that a batch was begun."""
        share = self.share + MORE_A_BATCH
        self.share = share if share < 1.0 else 1.0

    def refused(self, reason: RefusalReason) -> None:
        """Note that a job is refused that an idle server could have answered; it counts if that is for deadlines."""
        if reason in FOR_DEADLINES:
            self.share *= LESS_A_LOSS
