"""The accuracy balance of a class (guarantee scope ``class``).

Each answered item adds ``a − floor``; the balance may not go below zero and is capped at
``credit_items·(1 − A_q)``. So the mean since start is at least the floor, and over any *n* answers at least
``A_q − cap/n``. Debts are booked when a batch is dispatched, gains when it is answered: what is in flight can
never spend a gain that does not come.
"""

from __future__ import annotations


class AccuracyBalance:
    """Mutable credit of one class, in items times accuracy."""

    __slots__ = ("cap", "credit")

    def __init__(self, credit_items: int, accuracy_floor: float) -> None:
        self.cap = credit_items * (1.0 - accuracy_floor)
        self.credit = 0.0

    def spend(self, amount: float) -> None:
        """Take credit; callers check that it is there (rounding aside)."""
        self.credit = max(0.0, self.credit - amount)

    def earn(self, amount: float) -> None:
        """Add credit, up to the cap."""
        self.credit = min(self.cap, self.credit + amount)
