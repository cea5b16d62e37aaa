"""What one request of 24 MB of JSON costs everybody else: how long small requests take beside it, and without it.

Two emulated services share a server, so that its front end alone is measured. Small requests go to one at an even rate.
Meanwhile another process sends the other one a large request at a time. "Added" is the largest latency of a small
request while a large one was under way, less the largest in a window as long without one just before.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from poise.load.connections import ConnectionPool, parse_url

from .bench import Bench, poise_command
from .grid import Grid
from .spread import Spread, spread_of

RATE_RPS = 200.0
BODY_BYTES = 24 * 10**6
NUMBERS = 2_400_000
ANSWERED = 250_000
"""So many numbers are in an answer of the large service."""
QUIET_S = 2.0
TIMEOUT_S = 60.0

SENDER = """
import gzip, http.client, json, sys, time
kind, address, path = sys.argv[1:]
data = open(path, "rb").read()
headers = {"content-type": "application/json"}
if kind == "compressed":
    data = gzip.compress(data, 1)
    headers["content-encoding"] = "gzip"
elif kind == "binary":
    header, data = data.split(b"\\n", 1)
    headers["inference-header-content-length"] = str(len(header))
    data = header + data
body = (data[at : at + 65536] for at in range(0, len(data), 65536)) if kind == "in chunks" else data
connection = http.client.HTTPConnection(address, timeout=60)
connection.connect()
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
connection.request("POST", "/v2/models/large/infer", body, headers, encode_chunked=kind == "in chunks")
response = connection.getresponse()
answer = response.read()
print(json.dumps([begin, time.perf_counter(), response.status, len(answer)]), flush=True)
"""
KINDS = ("at once", "in chunks", "compressed", "binary")


class Case(msgspec.Struct, frozen=True):
    """One kind of large request. Units: seconds, bytes; ``large_s`` is how long the large request itself took."""

    kind: str
    large_s: Spread
    before_s: Spread
    beside_s: Spread
    added_s: Spread
    small_jobs: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: requests a second, bytes."""

    rate_rps: float
    body_bytes: int
    answer_bytes: int
    cases: list[Case]


def measure(bench: Bench) -> Result:
    """Send each kind several times, in turn."""
    work = bench.options.work
    small, large = (
        _service(work / name, name, numbers) for name, numbers in (("small", 16), ("large", NUMBERS))
    )
    times = int(bench.options.pick(10, 2))
    log = work / "large-json.log"
    words = poise_command("serve", str(small), str(large), "--port", "0", "--json")
    with log.open("wb") as said:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said)
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
        url = json.loads(line)["url"]
        found = {}
        for kind in KINDS:
            body = work / ("binary.body" if kind == "binary" else "json.body")
            if not body.exists():
                body.write_bytes(_binary_body() if kind == "binary" else _json_body())
            found[kind] = [uvloop.run(_once(url, kind, body)) for _ in range(times + 1)][1:]
            bench.say(
                f"large JSON, {kind}: {spread_of(run[3] for run in found[kind]).text('.1f', 1e3)} ms added"
            )
        answer_bytes = found["at once"][0][4]
    finally:
        process.terminate()
        process.wait()
    return Result(
        rate_rps=RATE_RPS,
        body_bytes=(work / "json.body").stat().st_size,
        answer_bytes=answer_bytes,
        cases=[_case(kind, runs) for kind, runs in found.items()],
    )


Run = tuple[float, float, float, float, int, int]
"""Seconds: the large request, the worst small one before and beside it, the difference; its answer's bytes; jobs."""


async def _once(url: str, kind: str, body: Path) -> Run:
    """Send small requests, and in their midst a large one."""
    endpoint = parse_url(url)
    pool = ConnectionPool(endpoint, limit=64)
    sender = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SENDER, kind, f"{endpoint.host}:{endpoint.port}", str(body),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert sender.stdin is not None
    assert sender.stdout is not None
    await sender.stdout.readline()
    latencies: list[tuple[float, float]] = []
    small = asyncio.ensure_future(_small(pool, endpoint.host, latencies))
    await asyncio.sleep(QUIET_S)
    sender.stdin.write(b"go\n")
    line = await sender.stdout.readline()
    begin_s, end_s, status, size = json.loads(line)
    small.cancel()
    await asyncio.gather(small, return_exceptions=True)
    await pool.close()
    await sender.wait()
    if status != 200:
        raise RuntimeError(f"the large request, {kind}, was answered with status {status}")
    window_s = end_s - begin_s
    before = max(took for at, took in latencies if begin_s - max(window_s, 0.5) <= at < begin_s)
    beside = max(took for at, took in latencies if at + took >= begin_s and at <= end_s)
    return window_s, before, beside, beside - before, size, len(latencies)


async def _small(pool: ConnectionPool, host: str, latencies: list[tuple[float, float]]) -> None:
    """Send small requests at an even rate, and note when each was due and how long it took from then."""
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
    ).encode()
    head = f"POST /v2/models/small/infer HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
    due_s = time.perf_counter()
    while True:
        due_s += 1 / RATE_RPS
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))

        def answered(reply: Any, due_s: float = due_s) -> None:
            if reply.error:
                return  # it was under way as the pool was closed
            if reply.status != 200:
                raise RuntimeError(f"a small request was answered with status {reply.status}: {reply.body!r}")
            latencies.append((due_s, reply.done_s - due_s))

        pool.send(head.encode(), body, answered, TIMEOUT_S)


def _json_body() -> bytes:
    """Return a request of as many bytes, in numbers of seven digits."""
    numbers = np.random.default_rng(1).integers(1_000_000, 9_999_999, NUMBERS) / 1e6
    text = ",".join(f"{number:.7f}" for number in numbers)
    head = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{NUMBERS}],"data":['
    return f"{head}{text}]}}]}}".encode()


def _binary_body() -> bytes:
    """Return the same tensor in binary form; the header ends its line."""
    tensor = np.random.default_rng(1).random(NUMBERS).astype(np.float32).tobytes()
    about = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, NUMBERS],
        "parameters": {"binary_data_size": len(tensor)},
    }
    return json.dumps({"inputs": [about]}).encode() + b"\n" + tensor


def _service(folder: Path, name: str, numbers: int) -> Path:
    """Write an emulated service of one input, that answers after half a millisecond."""
    folder.mkdir(parents=True)
    outputs = 4 if name == "small" else ANSWERED
    slo_ms = 1000 if name == "small" else 60_000
    (folder / "service.yaml").write_text(
        f"""format: 1
service: {name}
modalities: {{x: {{inputs: {{x: {{datatype: FP32, shape: [{numbers}]}}}}}}}}
outputs: {{y: {{datatype: FP32, shape: [{outputs}]}}}}
variants: {{paper: {{runtime: emulated}}}}
classes: {{only: {{latency_slo_ms: {slo_ms}}}}}
budget: {{cores: 1, memory: 500MB}}
scheduler: {{max_batch: 4}}
"""
    )
    points = [{"batch": batch, "mean_s": 0.0005} for batch in (1, 4)]
    variant = {
        "name": "paper",
        "load_time_s": 0.01,
        "memory_bytes": 1_000_000,
        "modes": [{"modalities": ["x"], "accuracy": 0.9, "samples": 100}],
        "stages": [{"name": "x", "modality_sets": [["x"]], "latency": points}],
    }
    profile = {"format": 1, "service": name, "variants": [variant]}
    (folder / "profile.json").write_text(json.dumps(profile))
    return folder


def _case(kind: str, runs: list[Run]) -> Case:
    large, before, beside, added = (spread_of(run[at] for run in runs) for at in range(4))
    return Case(kind, large, before, beside, added, sum(run[5] for run in runs))


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    yield Grid(
        f"Small requests at {result.rate_rps:g}/s beside one of {result.body_bytes / 1e6:.0f} MB of JSON, ms",
        ["large request", "takes itself", "worst small one before", "beside it", "added"],
        [
            [
                "the same tensor, binary" if case.kind == "binary" else case.kind,
                case.large_s.text(".0f", 1e3),
                *(each.text(".1f", 1e3) for each in (case.before_s, case.beside_s, case.added_s)),
            ]
            for case in result.cases
        ],
        f"Its answer is {result.answer_bytes / 1e6:.1f} MB of JSON.",
    )
