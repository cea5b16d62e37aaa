"""``poise plan``: the frontiers of a service's variants, or the cheapest plan for one batch and accuracy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from poise.cli.console import err, out, print_json, warning_line
from poise.domain.modalities import ModalityIndex
from poise.domain.plan import ModalityPlan
from poise.errors import ConfigError
from poise.files import FrontierCache, ServiceFolder, open_service
from poise.planning.frontier import Frontier
from poise.planning.service_model import ServiceModel, VariantPlans


class PlanPoint(msgspec.Struct, frozen=True):
    """One modality plan as it is printed. Units: seconds; ``counts`` is modality-set label -> items."""

    batch: int
    latency_s: float
    accuracy: float
    counts: dict[str, int]


class CheapestPlan(msgspec.Struct, frozen=True):
    """The cheapest plan that meets an accuracy, over the variants."""

    variant: str
    threads: int
    batch: int
    latency_s: float
    accuracy: float
    counts: dict[str, int]


class VariantFrontiers(msgspec.Struct, frozen=True):
    """Every frontier point of a variant, by batch size."""

    variant: str
    threads: int
    batches: list[list[PlanPoint]]


def plan(
    service: Annotated[Path, typer.Argument(help="the service's folder or file")],
    batch: Annotated[int | None, typer.Option(help="one batch size; with --accuracy one plan", min=1)] = None,
    accuracy: Annotated[
        float | None, typer.Option(help="the least mean accuracy; needs --batch", min=0.0, max=1.0)
    ] = None,
    variant: Annotated[str | None, typer.Option(help="only this variant")] = None,
    threads: Annotated[int, typer.Option(help="threads of a worker, as profiled", min=1)] = 1,
    plot: Annotated[Path | None, typer.Option(help="draw the frontiers into this PNG file")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Show the modality plans that no other beats in both latency and accuracy (E1, exact)."""
    if accuracy is not None and batch is None:
        raise ConfigError("--accuracy goes with --batch", expected="both, or neither")
    folder = open_service(service)
    plans = plans_of(folder, variant, threads)
    largest = max(p.model.max_batch for p in plans)
    if batch is not None and batch > largest:
        raise ConfigError(f"batch {batch} is not possible", field="--batch", expected=f"1 to {largest}")
    index = folder.service.modality_index
    if plot is not None:
        from poise.cli.frontier_plot import draw_frontiers

        draw_frontiers(plans, index, plot, title=f"{folder.service.service}: accuracy against time")
        err.print(f"plot: {plot}", highlight=False)
    if batch is not None and accuracy is not None:
        _show_cheapest(cheapest(plans, index, batch, accuracy, threads), json)
        return
    found = [
        VariantFrontiers(
            variant=p.name,
            threads=threads,
            batches=[
                [point_of(frontier.plan(i), index) for i in range(len(frontier))]
                for frontier in frontiers_of(p)
                if batch is None or frontier.batch == batch
            ],
        )
        for p in plans
    ]
    if json:
        print_json(found)
    else:
        _show(found, batch)


def plans_of(folder: ServiceFolder, variant: str | None, threads: int) -> list[VariantPlans]:
    """Return the plans of a service's variants, or of one.

    Raises:
        ConfigError: no such variant, or none profiled at these threads.
    """
    names = list(folder.service.variants)
    if variant is not None and variant not in names:
        raise ConfigError(f"unknown variant {variant!r}", field="--variant", expected=f"one of {names}")
    cache = FrontierCache.beside_profile(folder, warning_line)
    model = ServiceModel(folder.service, folder.load_profile(), cache)
    return [model.plans(name, threads) for name in names if variant in (None, name)]


def frontiers_of(plans: VariantPlans) -> list[Frontier]:
    """Return the frontiers of all batch sizes over all modality sets, from batch 1."""
    every = plans.allowed((1 << 62) - 1)
    found = (plans.frontier(every, batch) for batch in range(1, plans.model.max_batch + 1))
    return [frontier for frontier in found if frontier is not None]


def point_of(found: ModalityPlan, index: ModalityIndex) -> PlanPoint:
    """Return a plan with its modality sets by label."""
    return PlanPoint(
        batch=found.batch,
        latency_s=found.latency_s,
        accuracy=found.accuracy,
        counts={index.label(mask): count for mask, count in found.counts},
    )


def cheapest(
    plans: list[VariantPlans], index: ModalityIndex, batch: int, accuracy: float, threads: int
) -> CheapestPlan:
    """Return the plan of least latency with at least an accuracy, over some variants; of equals the most accurate.

    Raises:
        ConfigError: not achievable (the highest is named).
    """
    best: tuple[str, ModalityPlan] | None = None
    highest = 0.0
    for p in plans:
        frontier = p.frontier(p.allowed(index.all), batch)
        if frontier is None or not len(frontier):
            continue
        highest = max(highest, frontier.accuracy[-1])
        point = frontier.cheapest_at(accuracy)
        if point is None:
            continue
        own = frontier.plan(point)
        if best is None or (own.latency_s, -own.accuracy) < (best[1].latency_s, -best[1].accuracy):
            best = (p.name, own)
    if best is None:
        # Rounded down, but for the tolerance: what is named can be asked for.
        named = math.floor(highest * 1e6 + 1e-4) / 1e6
        raise ConfigError(f"accuracy {accuracy:g} is not achievable: the highest is {named:.6f}")
    name, found = best
    chosen = point_of(found, index)
    return CheapestPlan(name, threads, batch, chosen.latency_s, chosen.accuracy, chosen.counts)


def _show_cheapest(found: CheapestPlan, json: bool) -> None:
    if json:
        print_json(found)
        return
    table = Table(show_header=False, box=None)
    table.add_row("variant", found.variant)
    table.add_row("batch", str(found.batch))
    table.add_row("latency", f"{found.latency_s * 1000:.3f} ms")
    table.add_row("accuracy", f"{found.accuracy:.4f}")
    table.add_row("plan", _counts(found.counts))
    out.print(table)


def _show(found: list[VariantFrontiers], batch: int | None) -> None:
    for one in found:
        every = {points[0].batch: points for points in one.batches if points}
        chosen = [batch] if batch is not None else [b for b in (1, 8, max(every)) if b in every]
        for size in chosen:
            table = Table(title=f"{one.variant}, batch {size}", title_justify="left")
            for column in ("latency ms", "ms an item", "accuracy"):
                table.add_column(column, justify="right")
            table.add_column("plan")
            for point in _thinned(every.get(size or 0, [])):
                table.add_row(
                    f"{point.latency_s * 1000:.3f}",
                    f"{point.latency_s * 1000 / point.batch:.3f}",
                    f"{point.accuracy:.4f}",
                    _counts(point.counts),
                )
            out.print(table)


def _thinned(points: list[PlanPoint], most: int = 16) -> list[PlanPoint]:
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{count} × {label}" for label, count in sorted(counts.items(), key=lambda c: -c[1]))
