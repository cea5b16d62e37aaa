"""The accuracy balance of a class (guarantee scope ``class``).

Each answered item adds ``a − floor``; the balance is never spent below zero and is capped at
``credit_items·(1 − A_q)``. So the mean since start is at least the floor, and over any *n* answers at least
``A_q − cap/n``. Debts are booked when a batch is dispatched, gains when it is answered: what is in flight can
never spend a gain that does not come. Within one batch gains and debts are netted; where a client leaves while
its items run, its gain is taken out again, and the balance may lie below zero until it is earned back.
"""

from __future__ import annotations


class AccuracyBalance:
    """Mutable credit of one class, in items times accuracy."""

    __slots__ = ("cap", "credit")

    def __init__(self, credit_items: int, accuracy_floor: float) -> None:
        self.cap = credit_items * (1.0 - accuracy_floor)
        self.credit = 0.0

    def spend(self, amount: float) -> None:
        """Take credit, never below zero: a class that prefers deadlines may ask for more than there is."""
        self.credit = max(min(self.credit, 0.0), self.credit - amount)

    def earn(self, amount: float) -> None:
        """Add credit, up to the cap."""
        credit = self.credit + amount
        self.credit = credit if credit < self.cap else self.cap

    def owe(self, amount: float) -> None:
        """Take credit that a gain was counted against which did not come; what is missing is earned first."""
        self.credit -= amount
