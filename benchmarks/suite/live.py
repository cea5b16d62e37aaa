"""Real runs: ``poise serve`` in one process, ``poise load`` in another, as ``poise demo`` starts them."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from poise.load.report import LoadReport

from .bench import Bench, poise_command, run

START_S, STOP_S = 60.0, 40.0
NO_WARM_UP = ("--warm-up", "0")
"""Requests sent beforehand are not counted, but earn a class credit that those after them spend: the mean over the
counted ones may then lie below the floor that the server holds."""


class Server(msgspec.Struct, frozen=True):
    """A running server: the line that ``poise serve --json`` prints."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        """Processor seconds of the front end so far: the server's own process, without its workers."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def workers_cpu_s(self) -> float:
        """Processor seconds of all processes below the server's so far."""
        each = [child.cpu_times() for child in psutil.Process(self.pid).children(recursive=True)]
        return sum(times.user + times.system for times in each)


class Sent(msgspec.Struct, frozen=True):
    """A load that was sent. Units: processor seconds while it was, of the front end and of the workers.

    ``others_cores``: how many cores everything else on the machine took meanwhile, on average.
    """

    report: LoadReport
    front_end_cpu_s: float
    workers_cpu_s: float
    others_cores: float

    @property
    def front_end_frac(self) -> float:
        """The front end's processor time as a share of one core."""
        return self.front_end_cpu_s / self.report.run.duration_s


@contextmanager
def server(service: Path, policy: str, log: Path, *, under: Sequence[str] = ()) -> Iterator[Server]:
    """Serve until the block ends; then drain. What the server says goes to ``log``.

    ``under``: a command that runs it, such as taskset's.

    Raises:
        RuntimeError: the server ended before it was ready.
    """
    words = [*under, *poise_command("serve", str(service), "--port", "0", "--policy", policy, "--json")]
    with log.open("wb") as said:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said)
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise RuntimeError(
                f"the server ended with status {process.wait(START_S)}: {log.read_text()[-2000:]}"
            )
        yield msgspec.json.decode(line, type=Server)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def send(target: Server, service: Path, *flags: str) -> Sent:
    """Run ``poise load`` with some flags."""
    words = poise_command("load", target.url, "--service", str(service), *NO_WARM_UP, *flags, "--json")
    start, before = time.perf_counter(), _cpu_s(target)
    report = msgspec.json.decode(run(words), type=LoadReport)
    wall_s, after = time.perf_counter() - start, _cpu_s(target)
    front_end_s, workers_s, load_s, machine_s = (b - a for a, b in zip(before, after, strict=True))
    others_s = max(0.0, machine_s - front_end_s - workers_s - load_s)
    return Sent(report, front_end_s, workers_s, others_s / wall_s)


def _cpu_s(target: Server) -> tuple[float, float, float, float]:
    """Return processor seconds so far: front end, workers, finished children of this process, the machine."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    machine = psutil.cpu_times()
    idle_s = machine.idle + getattr(machine, "iowait", 0.0)
    guests_s = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # user time already
    busy_s = sum(machine) - idle_s - guests_s
    return target.cpu_s(), target.workers_cpu_s(), ended.ru_utime + ended.ru_stime, busy_s


def send_poisson(
    bench: Bench,
    policy: str,
    load: float,
    duration_s: float,
    seed: int,
    *,
    folder: Path | None = None,
    floor: float | None = None,
) -> Sent:
    """Start a server, send Poisson arrivals, stop it. The demo's service and its floor unless others are given."""
    folder = folder or bench.folder.root
    floor = bench.floor if floor is None else floor
    with server(folder, policy, bench.options.work / "server.log") as target:
        return send(
            target, folder,
            "--process", "poisson", "--rate", repr(load), "--duration", repr(duration_s),
            "--seed", str(seed), "--floor", repr(floor),
            "--min-jobs", str(int(bench.options.pick(1000, 100))),
        )  # fmt: skip
