"""``poise allocate --adapter poise``: E4 for one service, or several on one budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import msgspec
from rich.table import Table

from poise.cli.allocate_rates import rates_of
from poise.cli.console import out
from poise.domain.allocation import Allocation, Workers
from poise.errors import ConfigError, WorkerError
from poise.files import ServiceFolder
from poise.planning.joint_planner import JointPlanner

TIME_LIMIT_S = 30.0
FEWEST_GAP = 1e-4
"""While the fewest cores are looked for, only what is shed matters."""


def allocate_together(
    folders: Sequence[ServiceFolder],
    loads: Mapping[str, float],
    cores: int | None,
    most_cores: int,
    running: Sequence[Workers],
) -> Allocation:
    """Return E4's answer; ``cores`` None: on the fewest that shed nothing.

    Raises:
        ConfigError: no number of cores up to the most carries the load.
        WorkerError: the solver found nothing in time.
    """
    planner = JointPlanner.joined(
        [(folder.service, folder.load_profile(), rates_of(folder)) for folder in folders]
    )
    alone = len(folders) == 1
    held = tuple(msgspec.structs.replace(each, service="") for each in running) if alone else tuple(running)

    def on(count: int, gap: float = 0.0) -> Allocation:
        found = planner.solve(loads, running=held, cores=count, time_limit_s=TIME_LIMIT_S, gap=gap)
        if found is None:
            raise WorkerError("the solver found no allocation in time")
        return found

    return on(cores) if cores is not None else fewest(lambda n: on(n, FEWEST_GAP), most_cores, loads, on)


def fewest(
    roughly: Callable[[int], Allocation],
    most: int,
    loads: Mapping[str, float],
    exactly: Callable[[int], Allocation],
) -> Allocation:
    """Return the answer on the fewest cores that shed nothing: found by doubling, then by halving.

    Raises:
        ConfigError: some load is shed on any number of cores.
    """

    def sheds(cores: int) -> bool:
        return any(rps > 0 for rps in roughly(cores).shed.values())

    enough = 1
    while sheds(enough):
        if enough >= most:
            total = sum(loads.values())
            raise ConfigError(
                f"{most} cores do not carry {total:g} items/s within SLOs and floors in the memory there is",
                field="--load",
                expected="a smaller load, more budget.memory, or variants that hold SLO and floor",
            )
        enough = min(most, enough * 2)
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if sheds(middle):
            too_few = middle
        else:
            enough = middle
    return exactly(enough)


def show_together(found: Allocation, loads: Mapping[str, float]) -> None:
    """Print an allocation for people."""
    several = any(each.service for each in found.workers)
    cells = any(each.cell for each in found.workers)
    table = Table()
    titles = ["service"] * several + ["cell"] * cells
    for title in (*titles, "variants of a worker", "threads", "workers", "longest batch, ms"):
        table.add_column(title, justify="left" if title in ("service", "variants of a worker") else "right")
    for each in found.workers:
        cap = "" if each.batch_cap_s is None else f"{each.batch_cap_s * 1e3:g}"
        device = "" if each.device == "cpu" else f" ({each.device})"
        first = [each.service] * several + [f"{each.cell}"] * cells
        table.add_row(*first, ", ".join(each.variants), f"{each.threads}{device}", f"{each.count}", cap)
    out.print(table)
    flows = Table()
    for title in ("class", "variant", "items/s"):
        flows.add_column(title, justify="right" if title == "items/s" else "left")
    for name, shares in found.shares.items():
        for variant, rps in shares.items():
            flows.add_row(name, variant, f"{rps:.6g}")
    if flows.row_count:
        out.print(flows)
    if found.objective is not None and found.terms is not None:
        gap = "" if found.status == "optimal" else f", at most {found.gap:.2%} below the best"
        out.print(
            f"objective {found.objective:.5f}: accuracy {found.terms.accuracy:.4f}, {found.terms.resource:.0%} of the "
            f"cores, loading {found.terms.loading:.2f}; {found.status}{gap}, {found.solve_s * 1e3:.1f} ms",
            highlight=False,
            soft_wrap=True,
        )
    for name, rps in found.shed.items():
        load = loads.get(name, inf)
        if rps >= load > 0:
            out.print(
                f"{name}: no worker that fits the budget answers it within its SLO and floor", highlight=False
            )
        elif rps > 0:
            out.print(
                f"{name}: {rps:g} of {load:g} items/s are more than the budget carries", highlight=False
            )
