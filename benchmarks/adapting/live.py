"""Adapters live: servers with emulated workers of InfAdapter's profile, real sockets, the bursty slice in real time.

Three servers run side by side on this machine, each with a load generator of its own: 20 emulated cores need none of
its real ones. Each server's history is given the hours before the slice, so that its forecaster knows what it would
know. The same jobs are simulated for comparison.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
from suite.bench import Bench, poise_command, write_service
from suite.bench import run as run_command
from suite.grid import Grid
from suite.live import Server, server

from poise.adapting.events import ClassCounts, Observed
from poise.domain.adapter_settings import AdapterSettings, ForecasterSettings
from poise.files.history import HistoryFile, history_path
from poise.load.report import LoadReport

from . import reference
from .runs import LSTM, SYSTEMS, Row, Task, run_all

COMPARED = (("poise", None), ("infadapter", None), ("vpa", "50"))
PAST_S = 2 * 3600
SEED = 1


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """One live run, and the same jobs simulated. Shares as shares; units: cores, seconds."""

    system: str
    jobs: int
    violations: float
    p99_s: float
    loss: float
    cores: float
    reconfigurations: int
    lost: int
    valid: bool
    simulated: Row


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. Units: seconds."""

    seconds: int
    runs: list[Live]


class Watch:
    """Reads a server's gauges every second, from a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.cores: list[float] = []
        self.changes = 0.0
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            self.cores.append(
                _sum(lines, "poise_cores_in_use") + _sum(lines, 'poise_workers{state="starting"}')
            )
            self.changes = sum(
                float(line.rsplit(" ", 1)[1])
                for line in lines
                if line.startswith("poise_decisions_total") and 'outcome="adopted"' in line
            )


def _sum(lines: Sequence[str], name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


missing = reference.missing


def measure(bench: Bench) -> Result:
    """Serve and send in real time, then simulate the same."""
    seconds = int(bench.options.pick(reference.SLICE_S, 60))
    with ThreadPoolExecutor(len(COMPARED)) as pool:
        together = threading.Barrier(len(COMPARED))
        sent = list(pool.map(lambda what: _run(bench, *what, seconds, together), COMPARED))
    tasks = [
        Task(slice="bursty", system=system, variant=variant, seed=SEED, seconds=seconds)
        for system, variant in COMPARED
    ]
    rows = run_all(tasks, bench.options.jobs, bench.say)
    return Result(
        seconds=seconds,
        runs=[
            Live(
                system=row.task.name,
                jobs=report.run.jobs,
                violations=1.0 - report.run.attainment,
                p99_s=0.0 if report.run.latency_s is None else report.run.latency_s.p99,
                loss=reference.BEST - (report.run.mean_accuracy or 0.0),
                cores=float(np.mean(watch.cores)),
                reconfigurations=int(watch.changes),
                lost=sum(report.run.failed.values()),
                valid=report.generator.valid,
                simulated=row,
            )
            for (report, watch), row in zip(sent, rows, strict=True)
        ],
    )


def _run(
    bench: Bench, system: str, variant: str | None, seconds: int, together: threading.Barrier
) -> tuple[LoadReport, Watch]:
    name = system if variant is None else f"{system}-{variant}"
    folder = _folder(bench.options.work / f"live-{name}", system, variant)
    with server(folder, SYSTEMS[system][1], bench.options.work / f"{name}.log") as target:
        together.wait(300)
        watch = Watch(target.url)
        try:
            report = _send(target, folder, seconds)
        finally:
            watch.stop()
    return report, watch


def _send(target: Server, folder: Path, seconds: int) -> LoadReport:
    words = poise_command(
        "load", target.url, "--service", str(folder), "--warm-up", "0", "--json", "--seed", str(SEED),
        "--trace", str(reference.TRACE), "--from-s", str(reference.BURSTY_FROM_S), "--duration", str(seconds),
        "--within", "poisson", "--grace-s", "120",
    )  # fmt: skip
    return msgspec.json.decode(run_command(words), type=LoadReport)


def _folder(folder: Path, system: str, variant: str | None) -> Path:
    """Write a service folder: its file, its profile, some test items, and what is known of the load before."""
    adapter, policy = SYSTEMS[system]
    service = reference.service(policy=policy, adapter=adapter, variant=variant)
    forecaster = (
        ForecasterSettings(kind="burst")
        if adapter == "poise"
        else ForecasterSettings(kind="lstm", file=LSTM.name)
    )
    adapting: AdapterSettings = msgspec.structs.replace(service.adapter, forecaster=forecaster)
    write_service(msgspec.structs.replace(service, adapter=adapting, test="test.npz"), folder)
    (folder / "profile.json").write_bytes(msgspec.json.encode(reference.profile()))
    (folder / LSTM.name).write_bytes(LSTM.read_bytes())
    np.savez(folder / "test.npz", image=np.zeros((16, 8), np.uint8), label=np.zeros(16, np.int64))
    before = reference.past(reference.BURSTY_FROM_S)[-PAST_S:]
    now_s = float(int(time.time()))
    history = HistoryFile(history_path(folder / "service.yaml"))
    history.write(
        Observed(0.0, 1.0, (ClassCounts("default", int(rps), int(rps)),), epoch_s=now_s - len(before) + 1 + i)
        for i, rps in enumerate(before.tolist())
        if not np.isnan(rps)
    )
    history.close()
    return folder


def grids(result: Result) -> list[Grid]:
    """Return the table: each system live, and simulated below it."""
    lines = []
    for each in result.runs:
        row = each.simulated
        lines.append(
            [f"{each.system}, live{'' if each.valid else ' (not valid)'}", f"{each.jobs:,}",
             f"{each.violations:.2%}", f"{1000 * each.p99_s:.0f}", f"{100 * each.loss:.2f}", f"{each.cores:.1f}",
             str(each.reconfigurations), str(each.lost)]
        )  # fmt: skip
        lines.append(
            [f"{each.system}, simulated", f"{row.jobs:,}", f"{row.violations:.2%}",
             f"{1000 * (row.p99_s or 0):.0f}", f"{100 * row.loss:.2f}", f"{row.cores + row.surge_cores:.1f}",
             str(row.reconfigurations), str(row.lost)]
        )  # fmt: skip
    return [
        Grid(
            "Adapters live on the bursty slice, β = 0.05, side by side on this machine",
            (
                "system",
                "jobs",
                "violations",
                "p99 ms",
                "points lost",
                "cores",
                "reconfigurations",
                "jobs lost",
            ),
            lines,
            f"{result.seconds} s in real time, 20 emulated cores each. Jobs are drawn anew for each kind of run. "
            "Lost: given up by the load generator, which waits 120 s beyond the deadline.",
        )
    ]
