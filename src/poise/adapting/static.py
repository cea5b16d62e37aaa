"""No adaptation: what was declared runs."""

from __future__ import annotations

from typing import ClassVar

from poise.adapting.policy import AllocationPolicy, Situation, Solve
from poise.domain.allocation import Allocation, Workers


class Static(AllocationPolicy):
    """The service's own allocation, whatever comes."""

    name: ClassVar[str] = "static"

    def __init__(self, workers: tuple[Workers, ...]) -> None:
        self._allocation = Allocation(workers=workers, status="static")

    def ask(self, situation: Situation) -> Solve:
        """Return what was declared."""
        return lambda: self._allocation
