"""What an allocation policy is: a situation in, an allocation out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from poise.adapting.events import Observed
from poise.domain.allocation import Allocation, Workers
from poise.forecasting.base import Forecast

Solve = Callable[[], Allocation | None]


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What an allocation is decided on. Units: jobs/s, items/s, seconds.

    Shapes: by class (``service/class`` of several services). ``planned_jobs_rps`` and ``planned_items_rps``: the load
    to plan for, headroom or quantile included. ``running`` are the workers that answer now, ``resident`` those and the
    ones on stand-by or loading, merged by kind. ``busy_cores``: how many were busy on average since the last decision.
    ``excluded``: kinds that could not be loaded of late. ``cores`` and ``memory_bytes`` are the budget.
    """

    now_s: float
    forecast: Forecast | None
    planned_jobs_rps: Mapping[str, float]
    planned_items_rps: Mapping[str, float]
    running: tuple[Workers, ...]
    resident: tuple[Workers, ...]
    excluded: frozenset[Workers]
    busy_cores: float
    cores: int
    memory_bytes: int

    @property
    def jobs_rps(self) -> float:
        """The jobs per second to plan for, of all classes together."""
        return sum(self.planned_jobs_rps.values())


class AllocationPolicy:
    """Decides which workers run. A subclass sets the class variables and overrides ``ask``; ``observe`` if it counts.

    ``ask`` must be quick; what it returns is called away from the event loop and may take until the time limit.
    """

    name: ClassVar[str] = ""
    interval_s: ClassVar[float | None] = None
    """How often it decides, where that is part of what it is; else the adapter's setting holds. Units: seconds."""
    keeps_standby: ClassVar[bool] = False
    """Whether workers that it does without stay loaded."""
    replans_early: ClassVar[bool] = False
    """Whether it decides before its interval is over when the load leaves the forecast's band or attainment falls."""
    replans_every_beat: ClassVar[bool] = False
    """Whether it decides at every beat about what is loaded; about loads at its interval all the same."""
    by_quantile: ClassVar[bool] = False
    """Whether it plans for the forecast's upper quantile; else for its middle, with the headroom on top."""
    stabilises: ClassVar[bool] = True
    """Whether a smaller allocation waits until it was asked for so many times in a row (``adapter.stabilise``)."""

    def observe(self, beat: Observed) -> None:
        """Take one beat of the monitor."""

    def ask(self, situation: Situation) -> Solve:
        """Return what finds the allocation for a situation."""
        raise NotImplementedError

    def shares(self, found: Allocation, running: tuple[Workers, ...]) -> dict[str, dict[str, float]]:
        """Return which share of each class's load goes to which variant, while some workers run for an allocation.

        It may differ from what the allocation says as long as not all of its workers are there.
        """
        return found.shares

    def carries(self, workers: tuple[Workers, ...], items_rps: Mapping[str, float]) -> bool:
        """Whether some workers carry a load, by class: asked before one is taken away for its memory."""
        return False


def merged(workers: list[Workers]) -> tuple[Workers, ...]:
    """Return workers with those of one kind counted together, in the order of their first."""
    counts: dict[Workers, int] = {}
    for each in workers:
        kind = one_of(each)
        counts[kind] = counts.get(kind, 0) + each.count
    return tuple(msgspec.structs.replace(kind, count=count) for kind, count in counts.items())


def one_of(workers: Workers) -> Workers:
    """Return a single worker of a kind: what kinds are told apart by."""
    return workers if workers.count == 1 else msgspec.structs.replace(workers, count=1)


def cores_by_variant(workers: tuple[Workers, ...]) -> dict[str, int]:
    """Return the cores of each variant; of a worker with several, each has its cores."""
    found: dict[str, int] = {}
    for each in workers:
        for name in each.variants:
            found[name] = found.get(name, 0) + each.cores
    return found
