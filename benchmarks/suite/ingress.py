"""What front ends in processes of their own are worth: jobs a second, and whose processor time a job takes.

An emulated service with more workers than it needs is asked over many connections, each with one job at a time. There
is nothing to compute, so the front ends and the cell are what is measured. The generator is this process.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import psutil
import uvloop

from poise.client import calls
from poise.client.address import parse_url
from poise.client.response import ResponseReader

from .bench import Bench, poise_command
from .grid import Grid
from .spread import Spread, spread_of

INGRESS = (0, 1, 2)
CONNECTIONS = 64
INPUT_BYTES = 10_000
WARM_UP_S = 1.0


class Case(msgspec.Struct, frozen=True):
    """One number of ingress processes. Units: jobs a second; processor seconds a job, those of all ingress at once."""

    ingress: int
    rate_rps: Spread
    cell_s: Spread
    ingress_s: Spread
    generator_s: Spread


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: bytes."""

    input_bytes: int
    connections: int
    cases: list[Case]


Run = tuple[float, float, float, float]
"""Jobs a second; processor seconds a job of the cell, of the ingress processes, and of the generator."""


def measure(bench: Bench) -> Result:
    """Run each number of processes in turn, and all again."""
    service = _service(bench.options.work / "fast")
    seconds = bench.options.pick(6.0, 1.0)
    runs: dict[int, list[Run]] = {count: [] for count in INGRESS}
    for _ in range(bench.options.repeats):
        for count in INGRESS:
            runs[count].append(_run(service, count, seconds))
            bench.say(f"ingress {count}: {runs[count][-1][0]:.0f} jobs/s")
    cases = [
        Case(count, *(spread_of(run[at] for run in found) for at in range(4)))
        for count, found in runs.items()
    ]
    return Result(input_bytes=INPUT_BYTES, connections=CONNECTIONS, cases=cases)


def _run(service: Path, count: int, seconds: float) -> Run:
    words = poise_command("serve", str(service), "--port", "0", "--no-grpc", "--json")
    with service.with_suffix(".log").open("ab") as said:
        process = subprocess.Popen([*words, "--ingress", str(count)], stdout=subprocess.PIPE, stderr=said)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        uvloop.run(_load(url, WARM_UP_S))
        cell = psutil.Process(process.pid)
        ingress = [each for each in cell.children() if "poise.serving.ingress_process" in each.cmdline()]
        before = [_used_s([cell]), _used_s(ingress), time.process_time()]
        jobs, took_s = uvloop.run(_load(url, seconds))
        after = [_used_s([cell]), _used_s(ingress), time.process_time()]
    finally:
        process.terminate()
        process.wait()
    of_cell, of_ingress, of_generator = (
        (end - begin) / jobs for begin, end in zip(before, after, strict=True)
    )
    return jobs / took_s, of_cell, of_ingress, of_generator


def _used_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


class _Asking(asyncio.Protocol):
    """One connection: the next job goes out when the answer to the last is there, until it is time."""

    def __init__(self, request: bytes, end_s: float) -> None:
        self.answered = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._end_s = end_s
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        response = self._reader.feed(data)
        if response is None:
            return
        assert self._transport is not None
        if response.status != 200:
            self.closed.set_exception(RuntimeError(f"got status {response.status}: {response.body[:200]!r}"))
            self._transport.abort()
            return
        self.answered += 1
        if time.perf_counter() < self._end_s:
            self._reader = ResponseReader()
            self._transport.write(self._request)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def _load(url: str, seconds: float) -> tuple[int, float]:
    """Return how many jobs were answered, and in how many seconds."""
    endpoint = parse_url(url)
    call = calls.infer(
        "fast",
        {"x": np.zeros((1, INPUT_BYTES), np.uint8)},
        slo_class=None,
        deadline_ms=None,
        floor=None,
        priority=None,
        outputs=None,
        request_id=None,
        parameters=None,
    )
    request = b"".join(call.parts("", f"Host: {endpoint.authority}\r\n".encode()))
    begin_s = time.perf_counter()
    loop = asyncio.get_running_loop()
    asking = []
    for _ in range(CONNECTIONS):
        _, one = await loop.create_connection(
            lambda: _Asking(request, begin_s + seconds), endpoint.host, endpoint.port
        )
        asking.append(one)
    await asyncio.gather(*(one.closed for one in asking))
    return sum(one.answered for one in asking), time.perf_counter() - begin_s


def _service(folder: Path) -> Path:
    """Write an emulated service that answers after a millisecond, or two for a batch of 32."""
    folder.mkdir(parents=True)
    (folder / "service.yaml").write_text(
        f"""format: 1
service: fast
modalities: {{x: {{inputs: {{x: {{datatype: UINT8, shape: [{INPUT_BYTES}]}}}}}}}}
outputs: {{y: {{datatype: FP32, shape: [10]}}}}
variants: {{paper: {{runtime: emulated}}}}
classes: {{only: {{latency_slo_ms: 10000}}}}
budget: {{cores: 16, memory: 500MB}}
scheduler: {{max_batch: 32}}
adapter: {{policy: static}}
"""
    )
    variant = {
        "name": "paper",
        "load_time_s": 0.01,
        "memory_bytes": 1_000_000,
        "modes": [{"modalities": ["x"], "accuracy": 0.9, "samples": 100}],
        "stages": [
            {
                "name": "x",
                "modality_sets": [["x"]],
                "latency": [{"batch": 1, "mean_s": 0.001}, {"batch": 32, "mean_s": 0.002}],
            }
        ],
    }
    profile = {"format": 1, "service": "fast", "variants": [variant]}
    (folder / "profile.json").write_text(json.dumps(profile))
    return folder


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    yield Grid(
        f"Jobs of {result.input_bytes / 1e3:.0f} KB over {result.connections} connections, closed loop",
        ["ingress", "jobs/s", "cell, µs/job", "ingress, all, µs/job", "generator, µs/job"],
        [
            [
                str(case.ingress),
                case.rate_rps.text(".0f"),
                *(each.text(".0f", 1e6) for each in (case.cell_s, case.ingress_s, case.generator_s)),
            ]
            for case in result.cases
        ],
        "Generator, cell, ingress and emulated workers share the machine's cores.",
    )
