"""``poise profile``: measure a service on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poise.cli.console import err, print_json, warning_line
from poise.cli.console import out as results
from poise.domain.profile import LatencyPoint, Profile, VariantProfile
from poise.errors import ConfigError
from poise.files import ServiceFolder, open_service

if TYPE_CHECKING:
    from poise.profiling import OnProgress


def profile(
    service: Annotated[Path, typer.Argument(help="The service's folder, or its file.")],
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget-s",
            min=0,
            help="About how many seconds to take; more make it repeat better. Default: 60, and 30 more for each "
            "further number of threads and of busy cores.",
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            help="Numbers of threads of a worker to measure, such as 1 or 1,2,4; default: 1, and all of the budget's "
            "cores. Each is measured in a worker alone, and with all of the budget's cores busy."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default: where the service file says.")
    ] = None,
    keep_accuracy: Annotated[
        bool,
        typer.Option(
            "--keep-accuracy",
            help="Take accuracies from the present profile where models and validation data are unchanged.",
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over, even where an interrupted run could be gone on with.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the profile on stdout, as JSON.")] = False,
) -> None:
    """Measure how right every mode is and how long every stage takes, here, and write the profile."""
    from poise.profiling import PARTIAL_SUFFIX, PartialFile, measure_profile, write_profile

    folder = open_service(service)
    before = folder.resolve(folder.service.profile, "profile", must_exist=False)
    path = before if out is None else out
    if path.exists() and not path.is_file():
        raise ConfigError(f"{str(path)!r} is no file", field="--out", expected="a path for a file")
    known = folder.load_profile() if keep_accuracy and before.is_file() else None
    partial = PartialFile(path.with_name(path.name + PARTIAL_SUFFIX), _note)
    if fresh:
        partial.remove()
    try:
        with _progress() as on_progress:
            measured = measure_profile(
                folder,
                budget_s=budget_s,
                threads=None if threads is None else _threads(threads),
                known=known,
                partial=partial,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        _note("interrupted; the same command goes on from here, and with --fresh it starts over")
        raise typer.Exit(130) from None
    write_profile(measured, path)
    partial.remove()
    for warning in _warnings(folder, measured):
        warning_line(warning)
    if json:
        print_json(measured)
        return
    for variant in measured.variants:
        _show(variant)
    results.print(f"written to {path}", soft_wrap=True)


def _threads(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"got threads {text!r}", field="--threads", expected="whole numbers, such as 1,2"
        ) from None


def _note(text: str) -> None:
    err.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Show a bar on stderr, with what is being measured and the time left."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("opening the models", total=1.0, left="")

        def on_progress(done_frac: float, left_s: float, what: str) -> None:
            bar.update(task, completed=done_frac, description=what, left=f"{left_s:.0f} s left")

        yield on_progress


def _warnings(folder: ServiceFolder, measured: Profile) -> list[str]:
    """Return what the operator should know about a profile just measured."""
    warnings = []
    if folder.service.validation is None:
        warnings.append("no validation data: accuracies are unknown and stand as 0")
    for variant in measured.variants:
        disturbed = [
            f"{s.name} at batch {p.batch}"
            + (f" of bucket {p.bucket}" if p.bucket else "")
            + (f" with {p.threads} threads" if p.threads > 1 else "")
            + (
                f" beside {(p.busy_cores or 0) // p.threads - 1} others"
                if (p.busy_cores or 0) > p.threads
                else ""
            )
            for s in variant.stages
            for p in s.latency
            if p.contaminated
        ]
        if disturbed:
            warnings.append(
                f"{variant.name}: other load disturbed {', '.join(disturbed)}; profile again on a quieter machine"
            )
    return warnings


def _show(variant: VariantProfile) -> None:
    """Print what was measured about a variant, as tables."""
    from rich.table import Table

    results.print(
        f"\n[bold]{variant.name}[/]: loads in {variant.load_time_s * 1e3:.0f} ms, "
        f"holds {variant.memory_bytes / 2**20:.0f} MiB"
    )
    modes = Table("modality set", "accuracy", "independent items")
    for mode in sorted(variant.modes, key=lambda mode: mode.accuracy):
        modes.add_row(mode.label, f"{mode.accuracy:.3f}", str(mode.samples or "unknown"))
    results.print(modes)
    bucketed = any(stage.buckets for stage in variant.stages)
    columns = (
        "stage",
        "threads",
        "busy cores",
        *(("bucket",) if bucketed else ()),
        "batch",
        "p50 ms",
        "p95 ms",
        "p99 ms",
    )
    stages = Table(*columns, "runs", "")
    for stage in variant.stages:
        for at, point in enumerate(stage.latency):
            stages.add_row(
                stage.name if at == 0 else "",
                *_cells(point, bucketed=bucketed),
                end_section=at == len(stage.latency) - 1,
            )
    results.print(stages)


def _cells(point: LatencyPoint, *, bucketed: bool) -> list[str]:
    times = [point.statistic("p50"), point.statistic("p95"), point.statistic("p99")]
    return [
        str(point.threads),
        str(point.busy_cores or ""),
        *((str(point.bucket or ""),) if bucketed else ()),
        str(point.batch),
        *(f"{seconds * 1e3:.3f}" for seconds in times),
        str(point.runs or ""),
        "disturbed" if point.contaminated else "",
    ]
