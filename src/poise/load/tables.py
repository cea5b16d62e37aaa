"""Reports as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.table import Table
from rich.text import Text

from poise.load.health import GeneratorHealth
from poise.load.report import LoadReport
from poise.workload import Figures, RunReport

_NONE = "–"

Cell = Callable[[Figures], str]


def run_table(report: RunReport, title: str = "Run") -> Table:
    """Return the figures of one run: all jobs, and each class beside them where there are several."""
    columns: dict[str, Figures] = {"all": report}
    if len(report.per_class) > 1:
        columns |= report.per_class
    return _table(title, columns, interval_of=report)


def compare_table(reports: Mapping[str, RunReport], title: str = "Comparison") -> Table:
    """Return runs side by side, by name; the best of each figure that has a better direction stands out."""
    return _table(title, dict(reports), mark_best=True)


def generator_table(report: LoadReport) -> Table:
    """Return how the generator did and what the server says of its own times."""
    health: GeneratorHealth = report.generator
    table = Table(title="Generator", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("valid", Text("yes", "green") if health.valid else Text("no", "bold red"))
    if health.lateness_s is not None:
        late = health.lateness_s
        table.add_row("sent late, p50 / p99 / max", f"{_ms(late.p50)} / {_ms(late.p99)} / {_ms(late.max)} ms")
    if health.loop_lag_s is not None:
        lag = health.loop_lag_s
        table.add_row(
            "event loop lag, p50 / p99 / max", f"{_ms(lag.p50)} / {_ms(lag.p99)} / {_ms(lag.max)} ms"
        )
    table.add_row("processor", f"{health.cpu_frac:.0%} of a core, {health.cpu_per_job_s * 1e6:.0f} µs a job")
    table.add_row("most in flight / connections", f"{health.most_in_flight} / {health.connections}")
    for name, times in (("queue", report.queue_s), ("compute", report.compute_s)):
        if times is not None:
            table.add_row(f"server's {name}, p50 / p99", f"{_ms(times.p50)} / {_ms(times.p99)} ms")
    return table


def _table(
    title: str,
    columns: Mapping[str, Figures],
    *,
    interval_of: RunReport | None = None,
    mark_best: bool = False,
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    figures = list(columns.values())
    for label, cell, value in _ROWS:
        best = _best(label, [value(f) for f in figures]) if mark_best and value is not None else set()
        table.add_row(
            label, *(Text(cell(f), "bold green" if i in best else "") for i, f in enumerate(figures))
        )
        if label == "served accuracy" and interval_of is not None and interval_of.served_accuracy_interval:
            interval = interval_of.served_accuracy_interval
            blanks = [""] * (len(figures) - 1)
            table.add_row(
                f"  {interval.level:.0%} interval", f"{interval.low:.4f} to {interval.high:.4f}", *blanks
            )
    for heading, shares in (("modalities", "modality_share"), ("variant", "variant_share")):
        labels = sorted({label for f in figures for label in getattr(f, shares)})
        if labels:
            table.add_section()
        for label in labels:
            table.add_row(
                f"{heading} {label}", *(_share(getattr(f, shares).get(label, 0.0)) for f in figures)
            )
    for heading, reasons in (("refused", "refused"), ("failed", "failed")):
        labels = sorted({label for f in figures for label in getattr(f, reasons)})
        if labels:
            table.add_section()
        for label in labels:
            table.add_row(f"{heading}: {label}", *(f"{getattr(f, reasons).get(label, 0):,}" for f in figures))
    return table


def _best(label: str, values: list[float | None]) -> set[int]:
    """Positions of the best value, none where all are alike or one is not there."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(set(known)) < 2:
        return set()
    best = min(known) if label.startswith(_LOW_IS_GOOD) else max(known)
    return {i for i, value in enumerate(values) if value == best}


def _latency(name: str) -> Callable[[Figures], float | None]:
    return lambda figures: None if figures.latency_s is None else float(getattr(figures.latency_s, name))


def _latency_cell(name: str) -> Cell:
    value = _latency(name)

    def cell(figures: Figures) -> str:
        seconds = value(figures)
        return _NONE if seconds is None else f"{_ms(seconds)} ms"

    return cell


def _effective_cell(figures: Figures) -> str:
    mark = " (expected)" if figures.effective_accuracy_source == "expected" else ""
    return f"{_number(figures.effective_accuracy)}{mark}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _share(share: float) -> str:
    return f"{share:.1%}"


_LOW_IS_GOOD = ("late", "refused", "failed", "latency")
_ROWS: tuple[tuple[str, Cell, Callable[[Figures], float | None] | None], ...] = (
    ("jobs (items)", lambda f: f"{f.jobs:,} ({f.items:,})", None),
    ("offered", lambda f: f"{f.offered_rps:.1f} jobs/s", None),
    ("goodput", lambda f: f"{f.goodput_rps:.1f} jobs/s", lambda f: f.goodput_rps),
    ("attainment", lambda f: f"{f.attainment:.2%}", lambda f: f.attainment),
    ("effective accuracy", _effective_cell, lambda f: f.effective_accuracy),
    ("mean expected accuracy", lambda f: _number(f.mean_accuracy), lambda f: f.mean_accuracy),
    ("served accuracy", lambda f: _number(f.served_accuracy), lambda f: f.served_accuracy),
    ("late", lambda f: f"{f.late:,}", lambda f: f.late),
    ("refused", lambda f: f"{sum(f.refused.values()):,}", lambda f: sum(f.refused.values())),
    ("failed", lambda f: f"{sum(f.failed.values()):,}", lambda f: sum(f.failed.values())),
    ("latency p50", _latency_cell("p50"), _latency("p50")),
    ("latency p95", _latency_cell("p95"), _latency("p95")),
    ("latency p99", _latency_cell("p99"), _latency("p99")),
    ("latency max", _latency_cell("max"), _latency("max")),
)
