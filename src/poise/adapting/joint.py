"""Policy ``poise``: E4 for the load at an upper quantile of the forecast, as fast as every beat.

What is loaded may be used or left alone at no cost, so that needs no waiting: every beat the programme is solved for
the next seconds. What must be loaded first is decided on at the adapter's interval, or when something has happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec.structs import replace

from poise.adapting.policy import AllocationPolicy, Situation, Solve
from poise.adapting.reconcile import residence
from poise.domain.adapter_settings import AdapterSettings
from poise.domain.allocation import Allocation, Workers
from poise.planning.joint_planner import JointPlanner

GAP = 1e-4
"""How far from the best an allocation may be, as a share of the objective: less than any core is worth."""


class Joint(AllocationPolicy):
    """E4, whatever the services and classes."""

    name: ClassVar[str] = "poise"
    keeps_standby: ClassVar[bool] = True
    replans_early: ClassVar[bool] = True
    replans_every_beat: ClassVar[bool] = True
    by_quantile: ClassVar[bool] = True

    def __init__(self, planner: JointPlanner, settings: AdapterSettings) -> None:
        self._planner = planner
        self._settings = settings

    def ask(self, situation: Situation) -> Solve:
        """Solve E4 at the present situation."""
        standby = tuple(_less(situation.resident, situation.running))

        def solve() -> Allocation | None:
            return self._planner.solve(
                situation.planned_items_rps,
                running=situation.running,
                standby=standby,
                cores=situation.cores,
                memory_bytes=float(situation.memory_bytes),
                time_limit_s=self._settings.time_limit_s,
                cells=1,  # a server is one cell
                gap=GAP,
                avoided=situation.excluded,
            )

        return solve

    def carries(self, workers: tuple[Workers, ...], items_rps: Mapping[str, float]) -> bool:
        """Whether some workers carry a load without shedding."""
        load = sum(items_rps.values())
        return load <= 0 or self._planner.capacity_rps(workers, items_rps) >= load


def _less(resident: tuple[Workers, ...], running: tuple[Workers, ...]) -> list[Workers]:
    """Return what is resident and does not run, by what it has loaded."""
    left: dict[object, int] = {}
    for workers in running:
        left[residence(workers)] = left.get(residence(workers), 0) + workers.count
    found: list[Workers] = []
    for workers in resident:
        place = residence(workers)
        runs = min(left.get(place, 0), workers.count)
        left[place] = left.get(place, 0) - runs
        if workers.count > runs:
            found.append(replace(workers, count=workers.count - runs))
    return found
