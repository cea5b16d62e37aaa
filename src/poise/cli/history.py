"""``poise history``: what the adapter of a served service decided, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from poise.adapting.decision import Decision
from poise.cli.console import out, print_json
from poise.domain.allocation import Workers
from poise.errors import ConfigError
from poise.files import open_service
from poise.files.history import HistoryReader, KeptDecision, KeptSecond, WorkerChange, history_path

MINUTE_S = 60
LEAST_WIDTH = 140
MOST_NAMES = 3
"""Larger resident sets are named by their first and last variant."""
AT_ONCE_S = 0.1
BEFORE_S = 5.0
AFTER_S = 120.0
"""With a decision, what became of workers from a little before it until so long after it is shown."""


def history(
    service: Annotated[Path, typer.Argument(help="A service's folder, or its file.")],
    *,
    last: Annotated[int, typer.Option(help="So many decisions, or minutes with --rates.", min=1)] = 20,
    decision: Annotated[
        int | None, typer.Option(help="Show one decision in full, by its number.", min=1)
    ] = None,
    rates: Annotated[
        bool, typer.Option("--rates", help="Show the load, attainment and accuracy by the minute instead.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="The history, if it is not beside the service file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what the adapter decided and why, also while the server runs."""
    path = file or history_path(open_service(service).file)
    with contextlib.closing(HistoryReader(path)) as reader:
        if decision is not None:
            _show_decision(reader, decision, path, as_json=as_json)
        elif rates:
            _show_rates(reader.seconds(last * MINUTE_S), as_json=as_json)
        else:
            _show_decisions(reader.decisions(last), as_json=as_json)


def _show_decisions(kept: Sequence[KeptDecision], *, as_json: bool) -> None:
    if as_json:
        print_json([_as_json(each) for each in kept])
        return
    if not kept:
        out.print("no decision yet", highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("no.", "when", "why"):
        table.add_column(name, no_wrap=True)
    for name in ("seen/s", "forecast/s", "planned/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("running → planned")
    table.add_column("cores", justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("outcome")
    for each in kept:
        table.add_row(*_row(each))
    _print_wide(table)


def _print_wide(table: Table) -> None:
    """Print a table; where the terminal is narrow, or there is none, its lines run on rather than lose columns."""
    Console(width=max(out.width, LEAST_WIDTH)).print(table)


def _row(kept: KeptDecision) -> tuple[str, ...]:
    decision = kept.decision
    forecast = decision.forecast
    planned = decision.allocation
    before = words_of(decision.running.workers)
    after = words_of(planned.workers) if planned is not None else "–"
    what = before if planned is not None and before == after else f"{before}\n→ {after}"
    cores = "" if planned is None else str(planned.cores)
    outcome = decision.outcome + (f": {decision.trouble}" if decision.trouble else "")
    return (
        str(kept.id),
        time_of(decision.epoch_s),
        decision.reason,
        f"{sum(decision.observed_rps.values()):.4g}",
        "–" if forecast is None else f"{forecast.rates[-1]:.4g}",
        f"{sum(decision.planned_rps.values()):.4g}",
        what,
        cores,
        f"{1e3 * decision.solve_s:.1f}",
        outcome,
    )


def _show_decision(reader: HistoryReader, number: int, path: Path, *, as_json: bool) -> None:
    kept = reader.decision(number)
    if kept is None:
        there = reader.decisions(1)
        expected = f"1 to {there[0].id}" if there else "none, since nothing was decided yet"
        raise ConfigError(f"there is no decision {number}", file=str(path), expected=expected)
    epoch_s = kept.decision.epoch_s
    changes = reader.changes(epoch_s - BEFORE_S, epoch_s + AFTER_S)
    if as_json:
        print_json({**_as_json(kept), "workers": [msgspec.to_builtins(change) for change in changes]})
        return
    for name, text in _lines(kept.decision):
        out.print(f"{name:<14}{text}", highlight=False, soft_wrap=True, markup=False)
    for together in _alike(changes):
        out.print(_change_line(together, epoch_s), highlight=False, soft_wrap=True, markup=False)


def _lines(decision: Decision) -> Iterable[tuple[str, str]]:
    yield "when", f"{time_of(decision.epoch_s)} UTC, by policy {decision.policy}"
    yield "why", decision.reason
    yield "seen/s", _by_class(decision.observed_rps)
    if decision.forecast is not None:
        forecast = decision.forecast
        quantiles = ", ".join(
            f"{level:.3g}: {rate:.4g}" for level, rate in zip(forecast.levels, forecast.rates, strict=True)
        )
        yield "forecast/s", f"{quantiles} within {forecast.horizon_s:g} s ({forecast.forecaster})"
    yield "planned/s", _by_class(decision.planned_rps)
    yield "running", words_of(decision.running.workers)
    found = decision.allocation
    if found is not None:
        yield "found", f"{words_of(found.workers)} ({found.cores} cores, {found.status or 'no status'})"
        if found.objective is not None:
            yield "objective", f"{found.objective:.6g}" + (f", gap {found.gap:.2g}" if found.gap else "")
        for name, shares in found.shares.items():
            yield f"  {name}", _by_class(shares)
        shed = {name: rps for name, rps in found.shed.items() if rps > 0}
        if shed:
            yield "shed/s", _by_class(shed)
    yield "solved in", f"{1e3 * decision.solve_s:.1f} ms"
    yield "outcome", decision.outcome + (f": {decision.trouble}" if decision.trouble else "")
    yield (
        "asked for",
        f"{decision.loads} to load, {decision.activates} to activate, {decision.parks} to park, "
        f"{decision.stops} to stop",
    )


def _alike(changes: Iterable[WorkerChange]) -> list[list[WorkerChange]]:
    """Return changes of workers with those alike that followed each other at once put together."""
    found: list[list[WorkerChange]] = []
    for change in changes:
        last = found[-1][-1] if found else None
        if (
            last is not None
            and (change.what, change.kind, change.detail) == (last.what, last.kind, last.detail)
            and change.epoch_s - last.epoch_s < AT_ONCE_S
        ):
            found[-1].append(change)
        else:
            found.append([change])
    return found


def _change_line(changes: Sequence[WorkerChange], epoch_s: float) -> str:
    first = changes[0]
    workers = ", ".join(str(change.worker_id) for change in changes)
    detail = f" ({first.detail})" if first.detail else ""
    after_s = first.epoch_s - epoch_s
    return f"  {after_s:+8.2f} s  {first.what} {words_of((first.kind,))}: worker {workers}{detail}"


class Minute(msgspec.Struct, frozen=True, kw_only=True):
    """What one class did in a minute. Units: ``from_s`` in seconds since the epoch, jobs/s; null: no job or item.

    ``observed_s``: for how much of the minute anything is known.
    """

    from_s: int
    service: str
    slo_class: str
    observed_s: float
    jobs_rps: float
    attainment: float | None
    accuracy: float | None


def minutes_of(seconds: Iterable[KeptSecond]) -> list[Minute]:
    """Return seconds added up by the minute, in their order."""
    groups: dict[tuple[int, str, str], list[KeptSecond]] = {}
    for second in seconds:
        from_s = (second.at_s - 1) // MINUTE_S * MINUTE_S
        groups.setdefault((from_s, second.service, second.slo_class), []).append(second)
    found = []
    for (from_s, service, slo_class), group in groups.items():
        observed_s = sum(second.span_s for second in group)
        ended = sum(second.met + second.missed for second in group)
        items = sum(second.answered_items for second in group)
        found.append(
            Minute(
                from_s=from_s,
                service=service,
                slo_class=slo_class,
                observed_s=observed_s,
                jobs_rps=sum(second.jobs for second in group) / observed_s if observed_s > 0 else 0.0,
                attainment=sum(second.met for second in group) / ended if ended else None,
                accuracy=sum(second.accuracy_sum for second in group) / items if items else None,
            )
        )
    return found


def _show_rates(seconds: Sequence[KeptSecond], *, as_json: bool) -> None:
    minutes = minutes_of(seconds)
    if as_json:
        print_json(minutes)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("minute", "class"):
        table.add_column(name, no_wrap=True)
    for name in ("jobs/s", "in time", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for minute in minutes:
        table.add_row(
            time_of(minute.from_s)[:-3],
            f"{minute.service}/{minute.slo_class}" if minute.service else minute.slo_class,
            f"{minute.jobs_rps:.4g}",
            "–" if minute.attainment is None else f"{100 * minute.attainment:.2f} %",
            "–" if minute.accuracy is None else f"{minute.accuracy:.4f}",
        )
    _print_wide(table)


def _as_json(kept: KeptDecision) -> dict[str, Any]:
    return {"id": kept.id, **msgspec.to_builtins(kept.decision)}


def _by_class(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "–"


def words_of(workers: Iterable[Workers]) -> str:
    """Return workers in few words: how many, of which variants; threads where not one, and a cap on their batches."""
    words = []
    for each in workers:
        more = [f"{each.threads} threads"] if each.threads > 1 else []
        if each.batch_cap_s is not None:
            more.append(f"≤ {1e3 * each.batch_cap_s:.4g} ms")
        service = f"{each.service}: " if each.service else ""
        told = f" ({', '.join(more)})" if more else ""
        words.append(f"{each.count} × {service}{_set_of(each.variants)}{told}")
    return ", ".join(words) or "none"


def _set_of(variants: Sequence[str]) -> str:
    if len(variants) <= MOST_NAMES:
        return "+".join(variants)
    return f"{variants[0]}+…+{variants[-1]} ({len(variants)} variants)"


def time_of(epoch_s: float) -> str:
    """Return a time of day in UTC."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
