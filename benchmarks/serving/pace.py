"""How fast the machine is now, beside when batches were timed as the run began.

A virtual machine's core and memory are shared with others whom it cannot see: the model takes a tenth longer for
minutes, and then not. So each load is sent at the machine's pace: a tenth fewer jobs where batches take a tenth longer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .engine import Engine
from .pinned import USABLE

SIZE, RUNS = 16, 10
"""The batch that is timed, and how often; the median counts."""


class Pace:
    """Times the model on the server's core, whose server has nothing to do then.

    Units: ``service_s`` is what a batch of 1, 2, … took when the run began, in seconds.
    """

    def __init__(self, model: Path, service_s: Sequence[float]) -> None:
        self._engine = Engine(model)
        self._reference_s = service_s[SIZE - 1]

    def now(self) -> float:
        """Return how many times as fast a batch is now."""
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {USABLE[-1]})  # this thread alone, which is the one that computes
        try:
            return self._reference_s / self._engine.service_s(SIZE, RUNS)
        finally:
            os.sched_setaffinity(0, cores)
