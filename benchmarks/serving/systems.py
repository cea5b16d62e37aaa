"""The servers that are compared, how each is set, and why; starting and stopping them."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import psutil
from suite.bench import poise_command

import poise

from .pinned import on_server_core, python
from .served import Served
from .wires import Wire

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
"""The interpreter that this runs on, without its environment: peers run on the same."""
START_S, STOP_S = 120.0, 15.0


class Settings(msgspec.Struct, frozen=True):
    """How a peer batches and bounds. Units: ms. ``queue``: jobs that may wait beside the batch that runs.

    None: it has no such setting.
    """

    max_batch: int
    wait_ms: float
    queue: int | None
    timeout_ms: int | None


class System(msgspec.Struct, frozen=True):
    """One server: how it is spoken to, and how it is set.

    ``bounded``: it can bound its queue. ``timeout``: whether what it gives up after counts the wait alone or all until
    the answer; it may have none. ``workers``: of the model, beside its front end. ``guess``: its capacity, as a
    multiple of poise's: where a search begins. ``patience``: the share of the SLO that jobs wait for in a full queue,
    the batch that runs counted.
    """

    name: str
    wire: Wire
    path: str
    max_batch: int = 16
    wait_ms: float = 0.0
    bounded: bool = True
    timeout: Literal["wait", "answer"] | None = "answer"
    workers: int = 1
    guess: float = 1.0
    patience: float = 0.9

    @property
    def is_peer(self) -> bool:
        """Whether it is started by a script of peers."""
        return (PEERS / f"{self.name}.sh").is_file()

    def settings(self, made: Served) -> Settings:
        """Return its settings, by what batches take here and the SLO."""
        batch_s = made.service_s[self.max_batch - 1]
        rest_s = self.patience * made.slo_s - batch_s
        queue = max(self.max_batch, int(rest_s / batch_s * self.max_batch))
        timeout_s = made.slo_s - (batch_s if self.timeout == "wait" else 0.0)
        return Settings(
            self.max_batch,
            self.wait_ms,
            queue if self.bounded else None,
            round(timeout_s * 1e3) if self.timeout else None,
        )

    def fingerprint(self) -> str:
        """Return what identifies its code and settings, for cells."""
        if self.name == "poise":
            root = Path(poise.__file__).parent
            files = sorted(root.rglob("*.py"))
        elif self.is_peer:
            files = [path for path in sorted(PEERS.glob(f"{self.name}*")) if path.is_file()]
            files += [PEERS / "engine.py", PEERS / "environment.sh"]
        else:
            files = [HERE / "bare.py", HERE / "engine.py", HERE / "echo.py"]
        found = hashlib.sha256(f"{self!r} {sys.version}".encode())
        for path in files:
            found.update(path.read_bytes())
        return found.hexdigest()[:12]


POISE = System("poise", "binary", "/v2/models/tokens/infer")
BARE = System("bare", "raw", "")
ECHO = System("echo", "raw", "/")
PEER_SYSTEMS = (
    System("mosec", "raw", "/inference", wait_ms=1),
    System("triton", "binary", "/v2/models/tokens/infer", max_batch=32, timeout="wait", guess=0.9),
    System("litserve", "raw", "/predict", wait_ms=1, bounded=False, timeout="wait", guess=0.85),
    System(
        "mlserver",
        "protocol_json",
        "/v2/models/tokens/infer",
        wait_ms=1,
        bounded=False,
        timeout=None,
        guess=0.4,
    ),
    System("ray", "raw", "/predict", wait_ms=1, guess=0.15),
    System("bentoml", "json", "/predict", guess=0.6),
)


class Running(msgspec.Struct, frozen=True):
    """A running server. ``pid`` is its first process."""

    url: str
    pid: int


def install(system: System) -> str:
    """Make a peer's environment; return why that failed, or an empty text."""
    done = subprocess.run(
        [str(PEERS / f"{system.name}.sh"), "--install"],
        env={**os.environ, "SERVING_PYTHON": PYTHON},
        capture_output=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()[-300:]


@contextmanager
def running(system: System, made: Served, work: Path) -> Iterator[Running]:
    """Start a server on its core, wait until it listens, and stop it with all that it started.

    Raises:
        RuntimeError: it ended, or did not listen in time; with what it said.
    """
    port = _free_port()
    words, settings = _command(system, made, port)
    log = work / f"{system.name}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            on_server_core(*words),
            cwd=HERE.parent,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={**os.environ, **settings, "SERVING_WORK": str(work)},
        )
    try:
        _wait_until_it_listens(process, port, log)
        yield Running(f"http://127.0.0.1:{port}", process.pid)
    finally:
        _stop(process)


def _command(system: System, made: Served, port: int) -> tuple[list[str], Mapping[str, str]]:
    """Return a server's command, and its environment."""
    if system.name == "poise":
        return poise_command("serve", str(made.service), "--port", str(port), "--adapter", "static"), {}
    if system.name == "echo":
        return python("serving.echo", str(port)), {}
    settings = system.settings(made)
    return ["bash", str(PEERS / f"{system.name}.sh")], {
        "SERVING_PYTHON": PYTHON,
        "SERVING_MODEL": str(made.model),
        "SERVING_SHAPE": ", ".join(map(str, made.shape)),
        "SERVING_PORT": str(port),
        "SERVING_WORKERS": str(system.workers),
        "SERVING_MAX_BATCH": str(settings.max_batch),
        "SERVING_WAIT_MS": f"{settings.wait_ms:g}",
        "SERVING_QUEUE": str(settings.queue or 0),
        "SERVING_TIMEOUT_MS": str(settings.timeout_ms or 0),
    }


def _free_port() -> int:
    """Return a free port whose next one is free too: MLServer takes it for gRPC."""
    while True:
        with socket.socket() as probe, socket.socket() as following:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            try:
                following.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    said = log.read_text(errors="replace")[-1500:]
    raise RuntimeError(f"{log.stem} does not listen: {said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, and end what is left of it."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(below, timeout=3.0)
    for each in left:
        each.kill()
