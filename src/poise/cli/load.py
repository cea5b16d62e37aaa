"""``poise load``: send a workload to a server, open-loop, and report what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from poise.cli.connecting import Ca, Cert, Key, TokenFile, tls_with, token_of
from poise.cli.console import err, out, print_json, warning_line
from poise.cli.workload_flags import OpenedWorkload, WorkloadFlags, open_flags, takes_workload
from poise.client.address import tls_of
from poise.domain.service import Service
from poise.errors import ConfigError
from poise.files import LabelledItems, ServiceFolder, load_labelled, open_service
from poise.workload import JobDraw, streams

if TYPE_CHECKING:
    from poise.load import LoadReport

SENDING = "How it is sent"


@takes_workload
def load(
    url: Annotated[str, typer.Argument(help="The server's root, such as http://localhost:8000.")],
    *,
    service: Annotated[
        Path, typer.Option(help="The service's folder or file: its test items, classes and modalities.")
    ],
    connections: Annotated[
        int | None,
        typer.Option(
            help="Most connections (default: what ulimit -n allows).", min=1, rich_help_panel=SENDING
        ),
    ] = None,
    warm_up: Annotated[
        int, typer.Option(help="Requests sent beforehand, not counted.", min=0, rich_help_panel=SENDING)
    ] = 10,
    grace_s: Annotated[
        float,
        typer.Option(
            help="How long after its deadline an answer is waited for.", min=0, rich_help_panel=SENDING
        ),
    ] = 5.0,
    min_jobs: Annotated[
        int, typer.Option(help="With fewer jobs a run is not valid.", min=0, rich_help_panel=SENDING)
    ] = 1000,
    token_file: TokenFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    report: Annotated[Path | None, typer.Option(help="Write the report to this file, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the run's course to this PNG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report on stdout, as JSON.")] = False,
    flags: WorkloadFlags,
) -> None:
    """Send jobs to a server when they are planned, whatever it answers, and report what came of them.

    A server may only shorten deadlines: one that is longer than the SLO of its class is cut to it.
    """
    from poise.load import LoadOptions, load_report, parse_url, run_load

    endpoint = parse_url(url)
    options = LoadOptions(
        connections=connections,
        warm_up=warm_up,
        grace_s=grace_s,
        min_jobs=min_jobs,
        token=token_of(token_file),
        tls=tls_with(ca, cert, key),
    )
    tls_of(endpoint, options.tls)  # before anything is drawn
    folder = open_service(service)
    declared = folder.service
    opened = open_flags(flags)
    seed = opened.workload.seed
    jobs = _draw(opened, folder)
    with _progress(len(jobs)) as advance:
        result = run_load(
            jobs,
            declared,
            _test_items(folder),
            endpoint,
            contents=streams(seed).contents,
            options=options,
            on_progress=advance,
        )
    summary = load_report(
        result,
        service=declared.service,
        url=endpoint.url,
        seed=seed,
        duration_s=opened.duration_s,
        floor_scope=declared.guarantee.scope,
        classes=tuple(declared.classes),
        rng=np.random.default_rng(seed),
    )
    if report is not None:
        _write(report, summary)
    if plot is not None:
        _draw_plot(plot, summary)
    _show(summary, as_json=json)


def _draw(opened: OpenedWorkload, folder: ServiceFolder) -> list[JobDraw]:
    """Draw the jobs; the profile is read only where deadlines are counted from it."""
    deadline = opened.workload.deadline
    needed = deadline is not None and deadline.slack_ms is not None
    jobs = opened.draw(folder.service, folder.load_profile() if needed else None)
    _warn_of_terms(jobs, folder.service)
    return jobs


def _warn_of_terms(jobs: Sequence[JobDraw], service: Service) -> None:
    """Say where jobs ask for what a server does not grant: more time than the SLO, or too high a floor."""
    slo_s = {name: each.latency_slo_s for name, each in service.classes.items()}
    longer = sum(job.deadline_s is not None and job.deadline_s > slo_s[job.slo_class] for job in jobs)
    if longer:
        warning_line(
            f"{longer:,} of {len(jobs):,} deadlines are longer than the SLO of their class, which holds"
        )
    highest = {name: each.max_floor or each.accuracy_floor for name, each in service.classes.items()}
    above = sum(
        job.accuracy_floor is not None and job.accuracy_floor > highest[job.slo_class] for job in jobs
    )
    if above:
        warning_line(
            f"{above:,} of {len(jobs):,} floors are above the max_floor of their class: answered by 400"
        )


def _test_items(folder: ServiceFolder) -> LabelledItems:
    name = folder.service.test
    if name is None:
        raise ConfigError(
            "the service names no test items", file=folder.file.name, field="test", expected="an .npz"
        )
    return load_labelled(folder.resolve(name, "test"), folder.service)


@contextmanager
def _progress(jobs: int) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.completed:,} of {task.total:,} jobs"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, refresh_per_second=2) as progress:
        task = progress.add_task("load", total=jobs)
        yield lambda _, done: progress.update(task, completed=done)


def _draw_plot(path: Path, summary: LoadReport) -> None:
    from poise.load import draw_timeline

    classes = summary.run.per_class
    draw_timeline(
        {summary.service: summary.timeline},
        path,
        slo_s={name: figures.deadline_s for name, figures in classes.items()},
        floors={
            name: figures.accuracy_floor for name, figures in classes.items() if figures.accuracy_floor > 0
        },
        title=f"{summary.service}: {summary.run.jobs:,} jobs in {summary.run.duration_s:g} s",
    )


def _show(summary: LoadReport, *, as_json: bool) -> None:
    from poise.load import generator_table, run_table

    if as_json:
        print_json(summary)
    else:
        out.print(run_table(summary.run, title=f"{summary.service} at {summary.url}"))
        out.print(generator_table(summary))
    for reason in summary.generator.reasons:
        warning_line(f"not valid: {reason}")


def _write(path: Path, summary: LoadReport) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(path)) from None
