"""A server of a model that misbehaves on request, and a load whose every request is accounted for."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import uvloop
from tests.faults import faulty_model
from tests.servers import Server

from poise.load.connections import ConnectionPool, Reply, parse_url

CODES = {fault.__name__: code for code, fault in faulty_model.FAULTS.items()}
TIMEOUT_S = 120.0
SERVICE = """format: 1
service: faulty
modalities: {x: {inputs: {x: {datatype: FP32, shape: [4]}}}}
outputs: {y: {datatype: FP32, shape: [4]}}
variants: {mine: {runtime: python, module: mine.py, factory: load, graphs: {x: x}}}
classes: {only: {latency_slo_ms: SLO_MS}}
budget: {cores: WORKERS, memory: 500MB}
scheduler: {max_batch: 8}
"""


def write_service(folder: Path, *, workers: int, slo_ms: int, more: str = "", factory: str = "load") -> None:
    """Put a service file in the place of the one that is there, in one step."""
    text = SERVICE.replace("SLO_MS", str(slo_ms)).replace("WORKERS", str(workers))
    text = text.replace("factory: load", f"factory: {factory}")
    new = folder / f"service.{threading.get_ident()}.new"  # two threads may change it at once
    new.write_text(text + more)
    new.replace(folder / "service.yaml")


def write_faulty(folder: Path, *, workers: int = 1, slo_ms: int = 600_000) -> Path:
    """A service of the model, with an SLO that nothing here can miss unless it is told to."""
    folder.mkdir()
    shutil.copy(faulty_model.__file__, folder / "mine.py")
    write_service(folder, workers=workers, slo_ms=slo_ms)
    points = [{"batch": batch, "mean_s": 0.003} for batch in (1, 8)]
    variant = {
        "name": "mine",
        "load_time_s": 0.5,
        "memory_bytes": 50_000_000,
        "modes": [{"modalities": ["x"], "accuracy": 0.9, "samples": 100}],
        "stages": [{"name": "x", "modality_sets": [["x"]], "latency": points}],
    }
    profile = {"format": 1, "service": "faulty", "variants": [variant]}
    (folder / "profile.json").write_text(json.dumps(profile))
    return folder


def item(first: float) -> dict:
    """A request of one item that begins with a number."""
    data = [first, 1.0, 2.0, 3.0]
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": data}]}


def large_item(size_bytes: int) -> bytes:
    """A request of one item, in JSON that is so long because its last number has so many digits."""
    text = json.dumps(item(1.0)).removesuffix("]}]}")
    return f"{text}{'0' * (size_bytes - len(text) - 4)}]}}]}}".encode()


@contextlib.contextmanager
def serving_with(
    service: Path, *options: str, before: str = "", environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Start a server as ``tests.servers.serving`` does, with something done before it begins: a limit that is shorter.

    What remains of it is ended.
    """
    stderr = service.parent / f"stderr-{service.name}.txt"
    code = f"{before}\nfrom poise.cli.main import main\nmain()"
    with stderr.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(service), "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, stderr.read_text()
        ready = json.loads(line)
        yield Server(process, ready["url"], stderr, ready["service"], ready["grpc"] or "")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children():
                child.kill()
        process.kill()
        process.wait()
        process.stdout.close()


def workers_of(server: Server) -> list[psutil.Process]:
    """The worker processes, without the JSON process."""
    return [child for child in server.workers() if _module(child) == "poise.serving.worker"]


def json_process_of(server: Server) -> psutil.Process | None:
    """The JSON process, where there is one."""
    found = [child for child in server.workers() if _module(child) == "poise.ingress.decoding_process"]
    return found[0] if found else None


def _module(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return ""
    return next((word for word in words if word.startswith("poise.")), "")


class Traffic:
    """An even load from one process, and what became of every request: 200, another status with its reason, or nothing.

    ``lost`` is what got no reply at all, ``not_sent`` what there was no connection for: so many waited already.
    ``wrong`` counts answers that ``right`` says are not those of their request.
    """

    def __init__(
        self,
        url: str,
        service: str,
        make: Callable[[int], bytes],
        right: Callable[[int, bytes], bool] = lambda number, body: True,
    ) -> None:
        self._url = url
        self._path = f"/v2/models/{service}/infer"
        self._make = make
        self._right = right
        self._next = 0
        self.sent = 0
        self.not_sent = 0
        self.statuses: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.wrong = 0
        self.slowest_s = 0.0

    @property
    def answered(self) -> int:
        return self.statuses["200"]

    def run(self, rate_rps: float, seconds: float, meanwhile: Callable[[], object] | None = None) -> None:
        """Send for so long, with something going on beside it in a thread; return when each request has its reply."""
        uvloop.run(self._run(rate_rps, seconds, meanwhile))

    async def _run(self, rate_rps: float, seconds: float, meanwhile: Callable[[], object] | None) -> None:
        pool = ConnectionPool(parse_url(self._url), limit=900)
        beside = asyncio.ensure_future(asyncio.to_thread(meanwhile)) if meanwhile is not None else None
        begin_s = time.monotonic()
        waiting: set[int] = set()
        done = asyncio.Event()
        while time.monotonic() < begin_s + seconds or (beside is not None and not beside.done()):
            await asyncio.sleep(max(0.0, begin_s + self._next / rate_rps - time.monotonic()))
            self._send(pool, waiting, done)
        if beside is not None:
            await beside
        while waiting:
            done.clear()
            await done.wait()
        await pool.close()

    def _send(self, pool: ConnectionPool, waiting: set[int], done: asyncio.Event) -> None:
        number = self._next
        self._next += 1
        self.sent += 1
        body = self._make(number)
        host = parse_url(self._url).host
        head = f"POST {self._path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        waiting.add(number)
        sent_s = time.perf_counter()

        def replied(reply: Reply) -> None:
            waiting.discard(number)
            done.set()
            self.slowest_s = max(self.slowest_s, reply.done_s - sent_s)
            if reply.error == "no_connection":  # all of the generator's are waiting for a reply
                self.sent -= 1
                self.not_sent += 1
            elif reply.error:
                self.lost[reply.error] += 1
            elif reply.status == 200:
                self.statuses["200"] += 1
                self.wrong += not self._right(number, reply.body)
            else:
                said = json.loads(reply.body)
                self.statuses[f"{reply.status} {said.get('reason', said['error'][:60])}"] += 1

        pool.send(head, body, replied, TIMEOUT_S)
