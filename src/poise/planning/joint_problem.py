"""E4's problem: worker kinds, what each can do, and the loads of all classes on one budget.

Values only: nothing here knows of files, profiles or solvers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import inf
from typing import Literal

import msgspec

from poise.domain.allocation import Workers
from poise.domain.service import Device

Residence = tuple[str, tuple[str, ...], int, Device]
"""What a worker has loaded: service, variants (sorted), threads, device. Its batch-time cap may change at no cost."""


class LoadClass(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one SLO class, or of those of its jobs that lack a modality. Units: items/s, core-seconds per item.

    ``floor``: on the mean accuracy of what is answered (``scope`` class) or of each answer (job); ``front_end_s``:
    what the front end spends on an item (κ).
    """

    name: str
    load_rps: float
    weight: float = 1.0
    floor: float = 0.0
    scope: Literal["class", "job"] = "class"
    front_end_s: float = 0.0


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration (variant, batch, frontier point): its mean accuracy and how fast it answers.

    Shapes: ``rates[class][i]`` is the most items/s of one worker among ``Kind.breakpoints[i]`` alike (μ); 0 or an
    absent class: none within the SLO.
    """

    variant: str
    accuracy: float
    rates: Mapping[str, tuple[float, ...]]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A worker kind: resident set, threads, device and batch-time cap; what it costs and what it can do.

    ``cores``, ``memory_bytes``: of one worker; ``load_s``: how long one takes to be loaded. Of kinds of one ``group``
    at most one worker runs in a cell. Shapes: ``breakpoints`` rises from 1; a number of workers between two of them
    has the rates of the lower one, or of the upper one where those are less.
    """

    variants: tuple[str, ...]
    options: tuple[Option, ...]
    service: str = ""
    threads: int = 1
    device: Device = "cpu"
    batch_cap_s: float | None = None
    cores: int = 1
    memory_bytes: int = 0
    load_s: float = 0.0
    group: str | None = None
    breakpoints: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if self.breakpoints[:1] != (1,) or any(b <= a for a, b in pairwise(self.breakpoints)):
            raise ValueError(f"got breakpoints {self.breakpoints}, expected whole numbers that rise from 1")

    @property
    def residence(self) -> Residence:
        """What one of its workers has loaded."""
        return self.service, tuple(sorted(self.variants)), self.threads, self.device

    def workers(self, count: int, cell: int = 0) -> Workers:
        """Return so many of them as a value."""
        return Workers(
            variants=self.variants,
            count=count,
            cell=cell,
            threads=self.threads,
            device=self.device,
            batch_cap_s=self.batch_cap_s,
            service=self.service,
        )


def residence_of(workers: Workers) -> Residence:
    """Return what running workers have loaded."""
    return workers.service, tuple(sorted(workers.variants)), workers.threads, workers.device


class JointProblem(msgspec.Struct, frozen=True, kw_only=True):
    """What E4 is to decide. Units: bytes; ``cores``, ``memory_bytes`` and ``accelerators`` are of one cell.

    ``running`` and ``standby``: the workers that are loaded now, with and without cores; using them loads nothing.
    ``alpha``, ``beta`` and ``gamma`` weigh accuracy, cores and loading; ``longest_load_s`` is what loading is
    measured against (None: the longest of all kinds).
    """

    classes: tuple[LoadClass, ...]
    kinds: tuple[Kind, ...]
    cores: int
    memory_bytes: float = inf
    accelerators: Mapping[str, int] = {}
    cells: int = 1
    running: tuple[Workers, ...] = ()
    standby: tuple[Workers, ...] = ()
    alpha: float = 1.0
    beta: float = 0.05
    gamma: float = 0.001
    longest_load_s: float | None = None

    @property
    def load_unit_s(self) -> float:
        """What loading is measured against; 1 where nothing takes time to load."""
        if self.longest_load_s is not None:
            return self.longest_load_s or 1.0
        return max((kind.load_s for kind in self.kinds), default=0.0) or 1.0

    @property
    def value(self) -> float:
        """Σ of weight × load over all classes; 0 where there is no load."""
        return sum(each.weight * each.load_rps for each in self.classes)

    def resident(self) -> dict[tuple[Residence, int], int]:
        """Return how many workers have what loaded, by residence and cell."""
        found: dict[tuple[Residence, int], int] = {}
        for workers in (*self.running, *self.standby):
            key = residence_of(workers), workers.cell
            found[key] = found.get(key, 0) + workers.count
        return found

    def most_workers(self, kind: Kind) -> int:
        """Return how many workers of a kind, and of no other, fit into one cell."""
        most = inf if kind.group is None else 1.0
        if kind.cores:
            most = min(most, self.cores // kind.cores)
        if kind.memory_bytes:
            most = min(most, self.memory_bytes // kind.memory_bytes)
        if kind.device != "cpu":
            most = min(most, self.accelerators.get(kind.device, 0))
        return int(most) if most < inf else 0
