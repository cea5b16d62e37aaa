"""The rate table: how many items a second a worker answers within an SLO, by how it answers and among how many."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from poise.domain.file_struct import FileStruct
from poise.domain.quantities import require_at_least_one, require_fraction, require_positive
from poise.domain.service import Device


class Rate(FileStruct, frozen=True, kw_only=True, omit_defaults=False):
    """How fast one configuration answers: a variant, a batch size and a point of its frontier.

    ``modalities`` is the label of what the jobs bring; ``batch_s`` the p99 of a whole batch; workers run no other
    batch longer than ``batch_cap_s``. Shapes: ``items_per_s[i]``, of each of ``RateTable.workers[i]`` workers alike,
    never falls. Units: items/s, seconds.
    """

    variant: str
    modalities: str
    threads: int
    device: Device
    batch: int
    accuracy: float
    batch_s: float
    batch_cap_s: float
    slo_s: float
    items_per_s: tuple[float, ...]

    def __post_init__(self) -> None:
        require_at_least_one(self.threads, "threads")
        require_at_least_one(self.batch, "batch")
        require_fraction(self.accuracy, "accuracy")
        require_positive(self.batch_cap_s, "batch_cap_s")
        require_positive(self.slo_s, "slo_s")
        if any(not 0 <= rate < float("inf") for rate in self.items_per_s):
            raise ValueError(f"got items_per_s {list(self.items_per_s)}, expected finite numbers from 0")
        if any(after < before for before, after in pairwise(self.items_per_s)):
            raise ValueError(f"got items_per_s {list(self.items_per_s)}, expected numbers that do not fall")


class RateTable(FileStruct, frozen=True, kw_only=True, omit_defaults=False):
    """The rates of a service, as the simulator found them. ``digest``: of what they were made from.

    Shapes: ``workers`` rises from 1: the numbers of workers alike that were simulated. A configuration that is not
    listed carries nothing within the SLO.
    """

    format: Literal[1] = 1
    digest: str = ""
    workers: tuple[int, ...] = (1,)
    rates: tuple[Rate, ...] = ()

    def __post_init__(self) -> None:
        if self.workers[:1] != (1,) or any(after <= before for before, after in pairwise(self.workers)):
            raise ValueError(f"got workers {list(self.workers)}, expected whole numbers that rise from 1")
        if any(len(rate.items_per_s) != len(self.workers) for rate in self.rates):
            raise ValueError(
                f"expected {len(self.workers)} items_per_s of each rate: one for each of workers"
            )
