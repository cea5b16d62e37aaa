"""``poise simulate``: a service under a workload in virtual time, or a recorded log replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

import poise
from poise.cli.adapted import forecaster_of, served_by
from poise.cli.console import err, error_line, out, print_json, warning_line
from poise.cli.workload_flags import WorkloadFlags, longer_than_slo, open_flags, takes_workload
from poise.errors import ConfigError
from poise.files import FrontierCache, open_service
from poise.scheduling.commands import Command
from poise.scheduling.events import Event
from poise.scheduling.log import LogHeader, decode_log, encode_entry, encode_header
from poise.scheduling.scheduler import Scheduler
from poise.simulation.adapted import AdaptedReport, simulate_adapted
from poise.simulation.driver import Observer
from poise.simulation.faults import Faults, LostWorker, SlowWorker
from poise.simulation.replay import Difference, ReplayReport
from poise.simulation.replay import replay as replay_log
from poise.simulation.simulate import SimulationReport
from poise.simulation.simulate import simulate as run_simulation
from poise.workload import JobDraw

STEP_OF_PROGRESS = 1024


class Replayed(msgspec.Struct, frozen=True):
    """What ``--replay --json`` prints. ``truncated_line``: a last line that a crash cut short, not
    replayed.
    """

    same: bool
    report: ReplayReport
    truncated_line: int | None


@takes_workload
def simulate(
    service: Annotated[
        Path | None, typer.Argument(help="The service's folder, or its file; not needed to replay.")
    ] = None,
    *,
    policy: Annotated[
        str | None, typer.Option(help="The scheduler's policy, instead of the service file's.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="The adapter's policy, instead of the service file's.")
    ] = None,
    slow_worker: Annotated[
        list[str] | None,
        typer.Option(help="A fault, as 0:30:2.5: from second 30 worker 0 takes 2.5 times as long."),
    ] = None,
    lose_worker: Annotated[
        list[str] | None,
        typer.Option(
            help="A fault, as 1:30:5: worker 1 dies at second 30 and is back 5 s later (1:30: never)."
        ),
    ] = None,
    profile_error: Annotated[
        float, typer.Option(help="What to multiply every service time by; the scheduler is not told.")
    ] = 1.0,
    front_end_us: Annotated[
        float, typer.Option(min=0, max=1e9, help="Microseconds that the front end needs for one job.")
    ] = 0.0,
    record: Annotated[Path | None, typer.Option(help="Write the scheduler's log to this file.")] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Replay a recorded log instead; exit status 1 if the commands differ."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report on stdout, as JSON.")] = False,
    flags: WorkloadFlags,
) -> None:
    """Simulate a service under a workload, with the scheduler and the adapter that serve; or replay a log."""
    if replay is not None:
        _replay(replay, json)
        return
    if service is None:
        raise ConfigError("no service was given", field="SERVICE", expected="its folder or file, or --replay")
    faults = _faults(slow_worker or (), lose_worker or (), profile_error)
    folder = open_service(service)
    profile = folder.load_profile()
    opened = open_flags(flags)
    draws = opened.draw(folder.service, profile)
    longer = longer_than_slo(draws, folder.service)
    if longer:
        warning_line(
            f"{longer:,} of {len(draws):,} deadlines are longer than the SLO of their class, which holds"
        )
    name = policy or folder.service.scheduler.policy
    header = LogHeader(poise=poise.__version__, service=folder.service, profile=profile, policy=name)
    cache = FrontierCache.beside_profile(folder, warning_line)
    adapting = adapter or folder.service.adapter.policy
    with ExitStack() as stack:
        observe = None if record is None else stack.enter_context(_recording(record, header))
        common: dict[str, Any] = {
            "duration_s": opened.duration_s,
            "policy": name,
            "seed": opened.workload.seed,
            "faults": faults,
            "front_end_s": front_end_us * 1e-6,
            "scheduler": Scheduler(folder.service, profile, name, cache),
            "observe": observe,
        }
        report: SimulationReport
        if adapting == "static":
            jobs = stack.enter_context(_progress(draws))
            report = run_simulation(folder.service, profile, jobs, **common).report
        else:
            served = served_by(folder, profile, adapting)
            forecaster = forecaster_of(folder)
            jobs = stack.enter_context(_progress(draws))
            report = simulate_adapted(served, jobs, adapter=adapting, forecaster=forecaster, **common).report
    if json:
        print_json(report)
    else:
        _show(report)


def _faults(slow: Sequence[str], lost: Sequence[str], profile_error: float) -> Faults:
    """Return the faults that the flags name.

    Raises:
        ConfigError: a flag that is not as its help says, or a number out of range.
    """
    flag = "--slow-worker"
    try:
        slow_workers = tuple(SlowWorker(*_fault(text, back=False)) for text in slow)
        flag = "--lose-worker"
        lost_workers = tuple(LostWorker(*_fault(text, back=True)) for text in lost)
        flag = "--profile-error"
        return Faults(slow=slow_workers, lost=lost_workers, profile_error=profile_error)
    except ValueError as error:
        raise ConfigError(str(error), field=flag) from None


def _fault(text: str, *, back: bool) -> tuple[int, float, Any]:
    """Return a worker and two numbers; ``back``: the second may be left out (None)."""
    words = text.split(":")
    if back and len(words) == 2:
        words.append("")
    try:
        worker_id, at_s, last = words
        return int(worker_id), float(at_s), None if back and not last else float(last)
    except ValueError:
        raise ValueError(f"got {text!r}, expected numbers such as 0:30:2.5") from None


@contextmanager
def _recording(path: Path, header: LogHeader) -> Iterator[Observer]:
    """Write a log while a simulation runs."""
    try:
        file = path.open("wb", buffering=1 << 20)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(path)) from None
    with file:
        file.write(encode_header(header))

        def observe(event: Event, commands: Sequence[Command]) -> None:
            file.write(encode_entry(event, commands))

        yield observe


@contextmanager
def _progress(draws: Sequence[JobDraw]) -> Iterator[Iterator[JobDraw]]:
    """Hand the jobs out, with a bar on stderr that says how many are left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("simulating jobs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=len(draws))

        def handed_out() -> Iterator[JobDraw]:
            for first in range(0, len(draws), STEP_OF_PROGRESS):
                bar.update(task, completed=first)
                yield from draws[first : first + STEP_OF_PROGRESS]

        yield handed_out()


def _replay(path: Path, json: bool) -> None:
    """Replay a log and say whether the commands are the same; if not, exit with status 1."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None
    with file:
        header, entries = decode_log(file, path.name)
        if header.poise != poise.__version__:
            warning_line(f"recorded by poise {header.poise}, replayed by {poise.__version__}")
        report = replay_log(header, entries)
    if entries.truncated_line is not None:
        warning_line(f"line {entries.truncated_line} was cut short and is left out")
    if json:
        print_json(Replayed(report.same, report, entries.truncated_line))
    elif report.same:
        out.print(f"[green]same[/] {report.events} events led to the recorded commands")
    if not report.same:
        error_line(f"{report.differences} of {report.events} events led to other commands than recorded")
        for line in _told(report.differing[0]):
            err.print(line, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _told(first: Difference) -> Iterator[str]:
    """Tell a difference, one value a line."""
    yield f"line {first.line}: {first.event}"
    for word, commands in (("recorded", first.expected), ("replayed", first.got)):
        yield f"  {word}:" if commands else f"  {word}: no commands"
        for command in commands:
            yield f"    {command}"
    if first.failed is not None:
        yield f"  the scheduler failed: {first.failed}"


def _show(report: SimulationReport) -> None:
    """Print a report for people."""
    from poise.load import run_table

    out.print(run_table(report, title=f"{report.policy} at {report.load:.1f} jobs/s, simulated"))
    if isinstance(report, AdaptedReport):
        decided = ", ".join(f"{count} {outcome}" for outcome, count in report.decided.items())
        out.print(
            f"{report.adapter} by {report.forecaster}: {report.mean_cores:.2f} cores, "
            f"{report.mean_surge_cores:.2f} more while loading; {report.reconfigurations} reconfigurations, "
            f"{report.loads} workers loaded; decisions: {decided or 'none'}",
            highlight=False,
            soft_wrap=True,
        )
    cost = report.decisions
    out.print(
        f"{cost.count} decisions on this machine: p50 {cost.p50_s * 1e6:.0f} µs, p99 {cost.p99_s * 1e6:.0f} µs",
        highlight=False,
    )
