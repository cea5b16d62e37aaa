"""``poise demo``: the whole job on the digits example, and why it is worth it.

Check, profile, draw the frontier; then serve with one worker core and send the same bursty load, from a process
of its own, to policy ``edf`` (modality-agnostic: every answer from all modalities) and to ``poise`` in turn.
It reports what it measured; nothing that is timed can make it fail.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from poise.cli.console import err, out, warning_line
from poise.errors import ConfigError, WorkerError
from poise.files import FrontierCache, ServiceFolder, open_service
from poise.planning.service_model import ServiceModel, VariantPlans

POLICIES = ("edf", "poise")
FLOOR_OF_RANGE = 2 / 3
LOAD_OF_EDF = 2.5
"""Mean load, as a multiple of what one core carries when every item uses every modality."""
BURST_FACTOR, BURST_S, CALM_S = 6.0, 2.0, 4.0
START_S, STOP_S = 60.0, 40.0


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's ``report.json``. Units: jobs/s; accuracies in [0, 1]."""

    service: str
    cpu: str
    floor: float
    accuracy_range: tuple[float, float]
    offered_rps: float
    promised: float
    runs: dict[str, msgspec.Raw]


def demo(
    service: Annotated[Path, typer.Option(help="the service to show")] = Path("examples/digits"),
    out_dir: Annotated[Path, typer.Option("--out", help="where the report and the plots go")] = Path(
        "runs/demo"
    ),
    seconds: Annotated[float, typer.Option(help="length of each load", min=2)] = 24,
    budget_s: Annotated[float, typer.Option("--budget-s", help="time to profile for", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="of the load")] = 3,
) -> None:
    """Serve a real multimodal model under a bursty load, twice, and show what choosing modalities is worth."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started is ended, as by Ctrl-C
    if not service.is_dir():
        raise ConfigError(
            f"no service folder at {str(service)!r}",
            expected="the example of the repository; run this in its root, or give --service",
        )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {str(out_dir)!r}: {error.strerror}", field="--out") from None
    _derive(service)
    _step("check", "the service file, its models and its data")
    _poise(out_dir / "check.log", "check", str(service))
    _step("profile", f"accuracy of every mode, latency of every stage, about {budget_s:.0f} s")
    _poise(None, "profile", str(service), "--budget-s", str(budget_s), "--keep-accuracy")
    folder = open_service(service)
    profile = folder.load_profile()
    cache = FrontierCache.beside_profile(folder, warning_line)
    plans = ServiceModel(folder.service, profile, cache).plans(next(iter(folder.service.variants)))
    low, high = min(plans.expected_accuracy), max(plans.expected_accuracy)
    floor = round(low + FLOOR_OF_RANGE * (high - low), 3)
    _step(
        "plan", f"modes are right from {low:.1%} to {high:.1%} of the time; floor at two thirds: {floor:.1%}"
    )
    frontier_png = _draw_frontier(folder, plans, floor, out_dir)
    rate = round(LOAD_OF_EDF / best_item_s(plans), 1)
    _step(
        "load", f"mean {rate:g} jobs/s in bursts, {seconds:g} s, SLO {_slo_ms(folder):g} ms, one worker core"
    )
    reports: dict[str, bytes] = {}
    for policy in POLICIES:
        with _server(service, policy, out_dir / f"serve-{policy}.log") as url:
            _step(f"serve {policy}", url)
            reports[policy] = _send(url, service, policy, rate, floor, seconds, seed, out_dir)
    _show(folder, reports, floor, out_dir, frontier_png)
    written = DemoReport(
        service=folder.service.service,
        cpu=profile.device.cpu,
        floor=floor,
        accuracy_range=(low, high),
        offered_rps=rate,
        promised=floor,
        runs={policy: msgspec.Raw(report) for policy, report in reports.items()},
    )
    path = out_dir / "report.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(written)))
    out.print(f"report   {path}", soft_wrap=True, highlight=False)


def best_item_s(plans: VariantPlans) -> float:
    """Return the least time of an item by the most accurate mode, in the best batch size. Units: seconds."""
    best = plans.best_only((1 << 62) - 1)
    found = (plans.frontier(best, batch) for batch in range(1, plans.model.max_batch + 1))
    return min(f.latency_s[0] / f.batch for f in found if f is not None and len(f))


def _step(name: str, what: str) -> None:
    err.print(f"[bold]{name:>11}[/]  {what}", highlight=False, soft_wrap=True)


def _slo_ms(folder: ServiceFolder) -> float:
    return folder.service.classes[folder.service.default_class].latency_slo_ms


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "poise.cli.main", *words]


def _poise(log: Path | None, *words: str) -> None:
    """Run a command as a user would; its results are not shown, and its remarks only if it fails or without a log."""
    with log.open("w+") if log else nullcontext() as stderr:
        done = subprocess.run(_command(*words), check=False, stdout=subprocess.DEVNULL, stderr=stderr)
        if done.returncode:
            if stderr is not None:
                stderr.seek(0)
                err.print(stderr.read(), markup=False, highlight=False)
            raise WorkerError(f"'poise {' '.join(words)}' ended with status {done.returncode}")


def _derive(service: Path) -> None:
    """Write the example's arrays where they are made from smaller ones."""
    if (service / "derive.py").is_file():
        _step("derive", "validation and test items from their base pools")
        done = subprocess.run(
            [sys.executable, "derive.py"], cwd=service, check=False, stdout=subprocess.DEVNULL
        )
        if done.returncode:
            raise WorkerError(f"{service / 'derive.py'} ended with status {done.returncode}")


def _draw_frontier(folder: ServiceFolder, plans: VariantPlans, floor: float, out_dir: Path) -> Path:
    from poise.cli.frontier_plot import draw_frontiers

    path = out_dir / "frontier.png"
    title = f"{folder.service.service}: what accuracy costs"
    draw_frontiers([plans], folder.service.modality_index, path, title=title, floor=floor)
    return path


class _Ready(msgspec.Struct, frozen=True):
    url: str


@contextmanager
def _server(service: Path, policy: str, log: Path) -> Iterator[str]:
    """Serve as a user would, until the block ends; then drain."""
    words = ("serve", str(service), "--port", "0", "--policy", policy, "--json")
    with log.open("wb") as stderr:
        server = subprocess.Popen(_command(*words), stdout=subprocess.PIPE, stderr=stderr)
    try:
        line = server.stdout.readline() if server.stdout else b""
        if not line:
            status = server.wait(START_S)
            raise WorkerError(f"the server ended with status {status} before it was ready; {log} says why")
        yield msgspec.json.decode(line, type=_Ready).url
    finally:
        server.terminate()
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _send(
    url: str, service: Path, policy: str, rate: float, floor: float, seconds: float, seed: int, out_dir: Path
) -> bytes:
    flags: Sequence[str] = (
        "--process", "mmpp", "--rate", str(rate), "--duration", str(seconds), "--seed", str(seed),
        "--burst-factor", str(BURST_FACTOR), "--burst-s", str(BURST_S), "--calm-s", str(CALM_S),
        "--floor", str(floor), "--json",
    )  # fmt: skip
    done = subprocess.run(
        _command("load", url, "--service", str(service), *flags), check=False, stdout=subprocess.PIPE
    )
    if done.returncode:
        raise WorkerError(f"the load on {policy} ended with status {done.returncode}")
    (out_dir / f"{policy}.json").write_bytes(done.stdout)
    return done.stdout


def _show(
    folder: ServiceFolder, reports: dict[str, bytes], floor: float, out_dir: Path, frontier_png: Path
) -> None:
    from poise.load.plots import draw_timeline
    from poise.load.report import LoadReport
    from poise.load.tables import compare_table

    decoded = {policy: msgspec.json.decode(report, type=LoadReport) for policy, report in reports.items()}
    name = folder.service.default_class
    timeline_png = out_dir / "timeline.png"
    draw_timeline(
        {policy: report.timeline for policy, report in decoded.items()},
        timeline_png,
        slo_s={name: folder.service.classes[name].latency_slo_s},
        floors={name: floor},
        title=f"{folder.service.service}: the same bursty load, one worker core",
    )
    out.print()
    out.print(compare_table({p: r.run for p, r in decoded.items()}, title=f"accuracy promised: {floor:.1%}"))
    for policy, report in decoded.items():
        if not report.generator.valid:
            warning_line(
                f"the load generator did not keep up in the run on {policy}: read its figures with care"
            )
    edf, poise = decoded["edf"].run, decoded["poise"].run
    if poise.goodput_rps > 0 and edf.goodput_rps > 0:
        out.print(
            f"poise answered {poise.attainment:.1%} of the jobs in time and at the floor, edf {edf.attainment:.1%}: "
            f"{poise.goodput_rps / edf.goodput_rps:.1f} times as many.",
            highlight=False,
            soft_wrap=True,
        )
    out.print(f"plots    {frontier_png}, {timeline_png}", soft_wrap=True, highlight=False)
