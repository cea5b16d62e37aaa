"""``poise allocate``: which variants run on how many cores at a load, and what each of them answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from poise.cli.console import out, print_json
from poise.domain.allocation import Allocation, Terms, Workers
from poise.domain.decoding import decode_json
from poise.errors import ConfigError, WorkerError
from poise.files import ServiceFolder, open_service
from poise.planning.core_allocation import CoreAllocation, CoreProblem, allocate_cores
from poise.planning.core_capacity import candidate_of

MOST_CORES = 4096


def allocate(
    service: Annotated[Path, typer.Argument(help="the service's folder or file")],
    load: Annotated[float, typer.Option(help="the load to carry, requests/s", min=0.0, max=1e9)],
    cores: Annotated[str, typer.Option(help="how many cores; 'auto': the fewest that shed nothing")] = "",
    current: Annotated[
        Path | None, typer.Option(help="what runs now: a JSON file as --json prints it")
    ] = None,
    adapter: Annotated[str, typer.Option(help="the allocation policy; infadapter, so far")] = "infadapter",
    json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Choose variants, cores and shares of the load (E3, exact: InfAdapter's programme)."""
    folder = open_service(service)
    if adapter != "infadapter":
        raise ConfigError(f"got {adapter!r}", field="--adapter", expected="infadapter")
    if math.isnan(load):
        raise ConfigError("got nan", field="--load", expected="a number of at least 0")
    running = {} if current is None else _cores_of(_read(current), folder)
    most = _cores(cores, folder)
    found = (
        _fewest(folder, load, running)
        if most is None
        else _answer(allocate_cores(problem_of(folder, load, most, running)))
    )
    if json:
        print_json(_as_printed(folder, found))
    else:
        _show(folder, found, load)


def problem_of(folder: ServiceFolder, load: float, cores: int, current: Mapping[str, int]) -> CoreProblem:
    """Return E3's problem for a service at a load, held to the SLO of its first class.

    Raises:
        ConfigError: the profile says nothing about a variant's capacity.
    """
    service, settings = folder.service, folder.service.adapter
    slo_s = service.classes[service.default_class].latency_slo_s
    profile = folder.load_profile()
    try:
        candidates = tuple(
            candidate_of(profile.variant(name), slo_s, cores, settings) for name in service.variants
        )
    except ValueError as error:
        raise ConfigError(str(error), file=service.profile) from None
    return CoreProblem(
        candidates=candidates,
        cores=cores,
        load_rps=load,
        current=current,
        min_cores=settings.min_cores,
        alpha=settings.alpha,
        beta=settings.beta,
        gamma=settings.gamma,
    )


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
    while (found := on(enough)).shed_rps > 0:
        if enough >= MOST_CORES:
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


def _read(path: Path) -> Allocation:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", file=str(path), expected="a file that --json printed"
        ) from None
    return decode_json(data, Allocation, str(path))


def _cores_of(allocated: Allocation, folder: ServiceFolder) -> dict[str, int]:
    """Return the cores of each variant; of a worker with several variants, all have its cores."""
    found: dict[str, int] = {}
    for workers in allocated.workers:
        for name in workers.variants:
            if name not in folder.service.variants:
                raise ConfigError(
                    f"got variant {name!r}",
                    field="--current",
                    expected=f"some of {sorted(folder.service.variants)}",
                )
            found[name] = found.get(name, 0) + workers.count * workers.threads
    return found


def _as_printed(folder: ServiceFolder, found: CoreAllocation) -> Allocation:
    name = folder.service.default_class
    return Allocation(
        objective=found.objective,
        terms=Terms(accuracy=found.accuracy, resource=found.resource, loading=found.loading),
        workers=tuple(Workers(variants=(variant,), count=count) for variant, count in found.cores.items()),
        shares={name: dict(found.load_rps)},
        shed={name: found.shed_rps},
        solve_s=found.solve_s,
        status=found.status,
    )


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
