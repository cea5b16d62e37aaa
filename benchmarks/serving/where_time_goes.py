"""Where the processor time of poise's front end goes: py-spy on a server whose workers sleep, under a steady load.

    python -m serving.where_time_goes [JOBS_A_SECOND] [SECONDS]      (in benchmarks/)

Prints the processor time of a job, and the functions that it is spent in: in the function itself, and with all that it
calls. Samples are taken while the process runs, 500 a second; what it does in C counts to the function that calls it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
from rich.console import Console
from suite.bench import Bench, Options

from .cells import Cells
from .front_end import emulated_service
from .pinned import on_generator_core, python
from .seen import LoadSpec
from .served import Served, served
from .servers import WORK
from .systems import HERE, PEERS, POISE, running
from .trials import seen_by

SAMPLES_A_SECOND = 500
MOST = 40


def main(rate_rps: float, duration_s: float) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as work, on_generator_core():
        bench = Bench(
            Options(
                service=HERE.parents[1] / "examples" / "digits",
                results=Path(work),
                work=Path(work),
                quick=True,
                repeats=1,
                keep_profile=True,
            )
        )
        made = served(bench, Cells(WORK / "where.cells.jsonl"), WORK)
        _measure(
            msgspec.structs.replace(made, service=emulated_service(made)), Path(work), rate_rps, duration_s
        )


def _measure(made: Served, work: Path, rate_rps: float, duration_s: float) -> None:
    stacks = work / "stacks"
    with running(POISE, made, work) as server:
        spec = LoadSpec(
            rate_rps=rate_rps, duration_s=duration_s, seed=1, slo_s=made.slo_s, reference=str(made.reference),
            url=server.url, path=POISE.path, wire=POISE.wire, any_answer=True, pid=server.pid,
        )  # fmt: skip
        seen = seen_by(python("serving.generator"), spec)
        spy = subprocess.Popen(
            [str(PEERS / "py_spy.sh"), "record", "--pid", str(server.pid), "--rate", str(SAMPLES_A_SECOND),
             "--duration", str(int(duration_s)), "--format", "raw", "--output", str(stacks), "--nonblocking"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        seen_by(python("serving.generator"), spec)
        spy.wait()
    each_us = seen.front_end_cores * duration_s / seen.jobs * 1e6
    print(f"{each_us:.0f} µs a job at {rate_rps:g} jobs/s; {seen.attainment:.2%} in time")
    _print(stacks.read_text(), each_us)


def _print(stacks: str, each_us: float) -> None:
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        names = [frame.rsplit(":", 1)[0] + ")" for frame in frames.split(";")]
        own[names[-1]] += int(count)
        for name in set(names):
            within[name] += int(count)
    total = sum(own.values())
    for title, counts in (("itself", own), ("with what it calls", within)):
        print(f"\n{title}, µs a job")
        for name, count in counts.most_common(MOST):
            print(f"{each_us * count / total:8.1f}  {name}")


if __name__ == "__main__":
    Console(stderr=True).print("server, load and py-spy share two cores: the times are for comparison only")
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 1000.0, float(sys.argv[2]) if len(sys.argv) > 2 else 8.0
    )
