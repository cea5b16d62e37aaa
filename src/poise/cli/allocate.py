"""``poise allocate``: which workers run at a load, and which variant answers how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from poise.adapting.policy import cores_by_variant
from poise.cli.allocate_jointly import allocate_together, show_together
from poise.cli.allocate_loads import current_of, loads_of
from poise.cli.console import out, print_json
from poise.errors import ConfigError, WorkerError
from poise.files import ServiceFolder, open_service
from poise.planning.core_allocation import CoreAllocation, CoreProblem, allocate_cores
from poise.planning.core_problem import as_allocation, candidates_of, core_problem

MOST_CORES = 4096
ADAPTERS = ("infadapter", "poise")


def allocate(
    services: Annotated[
        list[Path], typer.Argument(metavar="SERVICE...", help="services' folders or files, on one budget")
    ],
    load: Annotated[
        list[str],
        typer.Option(
            metavar="[[SERVICE/]CLASS=]RPS",
            help="the load to carry: items/s (infadapter: requests/s) of the first class, or of one by name; again for "
            "each. CLASS:MODALITIES is what of a class brings only some modalities (clip+speech)",
        ),
    ],
    cores: Annotated[str, typer.Option(help="how many cores; 'auto': the fewest that shed nothing")] = "",
    current: Annotated[
        Path | None, typer.Option(help="what runs now: a JSON file as --json prints it")
    ] = None,
    adapter: Annotated[
        str,
        typer.Option(
            help="the allocation policy: infadapter (E3) or poise (E4); default: the service's adapter.policy "
            "if it is one of them, else infadapter"
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Choose workers, their variants and cores, and shares of the load (E3: InfAdapter's programme; E4: poise's)."""
    folders = [open_service(path) for path in services]
    named = {folder.service.service: folder.service for folder in folders}
    if len(named) < len(folders):
        raise ConfigError(f"got services {[f.service.service for f in folders]}", expected="each name once")
    policy = _policy(adapter, folders)
    loads = loads_of(load, named)
    running = current_of(current, named)
    most = _cores(cores, folders[0])
    if policy == "poise":
        together = allocate_together(folders, loads, most, MOST_CORES, running)
        if json:
            print_json(together)
        else:
            show_together(together, loads)
        return
    folder, carried = folders[0], _only_load(folders, loads)
    before = cores_by_variant(tuple(running))
    found = (
        _fewest(folder, carried, before)
        if most is None
        else _answer(allocate_cores(problem_of(folder, carried, most, before)))
    )
    if json:
        print_json(as_allocation(found, folder.service.default_class))
    else:
        _show(folder, found, carried)


def _policy(given: str, folders: Sequence[ServiceFolder]) -> str:
    """Return the policy asked for, or the first service's own."""
    if given and given not in ADAPTERS:
        raise ConfigError(f"got {given!r}", field="--adapter", expected=" or ".join(ADAPTERS))
    own = folders[0].service.adapter.policy
    policy = given or (own if own in ADAPTERS else ADAPTERS[0])
    if policy == "infadapter" and len(folders) > 1:
        raise ConfigError(
            f"got {len(folders)} services", field="--adapter", expected="poise: infadapter knows one service"
        )
    return policy


def _only_load(folders: Sequence[ServiceFolder], loads: Mapping[str, float]) -> float:
    """Return the load of the first class: E3 knows no other."""
    first = folders[0].service.default_class
    if list(loads) != [first]:
        raise ConfigError(
            f"got loads of {sorted(loads)}",
            field="--load",
            expected=f"that of class {first!r} only, or --adapter poise: infadapter knows one class",
        )
    return loads[first]


def problem_of(folder: ServiceFolder, load: float, cores: int, current: Mapping[str, int]) -> CoreProblem:
    """Return E3's problem for a service at a load, held to the SLO of its first class.

    Raises:
        ConfigError: the profile says nothing about a variant's capacity.
    """
    service = folder.service
    return core_problem(service, candidates_of(service, folder.load_profile(), cores), load, cores, current)


def _cores(text: str, folder: ServiceFolder) -> int | None:
    """Return a number of cores; None for ``auto``."""
    if text == "auto":
        return None
    if not text:
        return folder.service.budget.cores
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_CORES:
        return int(text)
    raise ConfigError(
        f"got {text!r}", field="--cores", expected=f"auto, or a whole number from 1 to {MOST_CORES}"
    )


def _fewest(folder: ServiceFolder, load: float, current: Mapping[str, int]) -> CoreAllocation:
    """Return the best allocation on the fewest cores that carry a load: found by doubling, then by halving."""

    def on(cores: int) -> CoreAllocation:
        return _answer(allocate_cores(problem_of(folder, load, cores, current)))

    enough = 1
    at_most = problem_of(folder, load, MOST_CORES, current)
    hopeless = load > sum(max(candidate.capacity_rps) for candidate in at_most.candidates)
    while hopeless or (found := on(enough)).shed_rps > 0:
        if hopeless or enough >= MOST_CORES:
            raise ConfigError(
                f"{MOST_CORES} cores do not carry {load:g} requests/s",
                field="--load",
                expected="a smaller load",
            )
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        tried = on(middle)
        if tried.shed_rps > 0:
            too_few = middle
        else:
            enough, found = middle, tried
    return found


def _answer(found: CoreAllocation | None) -> CoreAllocation:
    if found is None:
        raise WorkerError("the solver found no allocation")
    return found


def _show(folder: ServiceFolder, found: CoreAllocation, load: float) -> None:
    table = Table()
    for title in ("variant", "cores", "share of the load, requests/s"):
        table.add_column(title)
    for name, count in found.cores.items():
        table.add_row(name, f"{count}", f"{found.load_rps[name]:g}")
    out.print(table)
    out.print(
        f"objective {found.objective:.5f}: accuracy {found.accuracy:.4f}, {found.resource:.0%} of the cores, "
        f"loading {found.loading:.2f}; {found.status}, {found.solve_s * 1e3:.1f} ms",
        highlight=False,
        soft_wrap=True,
    )
    if found.shed_rps:
        out.print(f"{found.shed_rps:g} of {load:g} requests/s are more than all cores carry", highlight=False)
