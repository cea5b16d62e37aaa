"""A server as a user starts one, and a service whose deadlines a loaded machine cannot miss."""

import atexit
import contextlib
import http.client
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from tests.tiny import TINY, copy_of_tiny

_LOGS = tempfile.TemporaryDirectory(prefix="poise-tests-")
atexit.register(_LOGS.cleanup)
_numbers = itertools.count()

POISE = [sys.executable, "-m", "poise.cli.main"]
DATATYPES = {"pixels": "UINT8", "wave": "FP32", "letters": "INT64", "length": "FP32"}
MODALITY_INPUTS = {"image": ("pixels",), "sound": ("wave",), "word": ("letters", "length")}


class Server:
    """A running ``poise serve``."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        url: str,
        stderr: Path,
        service: str,
        grpc_address: str = "",
    ) -> None:
        self.process = process
        self.url = url
        self.service = service
        self.address = urlsplit(url).netloc
        self.grpc_address = grpc_address
        self._stderr = stderr

    def log(self) -> str:
        return self._stderr.read_text(errors="surrogateescape")

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def request(
        self, method: str, path: str, body: bytes | Iterable[bytes] = b"", **headers: str
    ) -> tuple[int, dict, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def post(self, body: bytes | dict, **headers: str) -> tuple[int, dict]:
        """An infer request, and the answer's JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.request("POST", f"/v2/models/{self.service}/infer", data, **headers)
        return status, json.loads(answer)

    def metric(self, name: str) -> float:
        """The value of a metric, by its name with labels; 0 where it is not there."""
        text = self.request("GET", "/metrics")[2].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Ask until it holds; each question is a round trip to the server, and pytest's timeout ends it."""
        while not condition():
            assert self.process.poll() is None, self.log()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def arrays() -> dict[str, np.ndarray]:
    with np.load(TINY / "test.npz") as archive:
        return {name: archive[name] for name in DATATYPES}


@pytest.fixture(scope="session")
def expected() -> Callable[[dict[str, np.ndarray], tuple[str, ...]], np.ndarray]:
    """What the tiny service answers with a modality set, by numpy."""
    with np.load(TINY / "weights.npz") as archive:
        weights = {name: archive[name] for name in archive.files}

    def logits(inputs: dict[str, np.ndarray], modalities: tuple[str, ...]) -> np.ndarray:
        total = 0
        for bit, (name, tensors) in enumerate(MODALITY_INPUTS.items()):
            if name in modalities:
                flat = [inputs[tensor].reshape(len(inputs[tensor]), -1) for tensor in tensors]
                total = total + np.concatenate(flat, axis=1) @ weights[name] + weights["presence"][bit]
        return np.asarray(total)

    return logits


def copy_tiny(target: Path, *, workers: int = 2, slo_ms: int = 600_000, queue_items: int = 1000) -> Path:
    """The tiny service with an SLO that nothing here can miss."""
    copy_of_tiny(target)
    file = target / "service.yaml"
    text = re.sub(r"latency_slo_ms: \d+", f"latency_slo_ms: {slo_ms}", file.read_text())
    text = text.replace("accuracy_floor: 0.6,", "accuracy_floor: 0.6, max_floor: 0.8,")
    text = text.replace("budget: {cores: 2", f"budget: {{cores: {workers}")
    text = text.replace("{max_batch: 8}", f"{{max_batch: 8, queue_items: {queue_items}}}")
    file.write_text(text + "guarantee: {scope: job}\n")
    return target


def copy_endless(target: Path) -> Path:
    """One worker with an emulated variant that takes ten minutes for anything."""
    copy_of_tiny(target)
    profile = json.loads((target / "emulated_profile.json").read_text())
    for variant in profile["variants"]:
        for stage in variant["stages"]:
            stage["latency"] = [{"batch": 1, "mean_s": 600.0}]
    (target / "emulated_profile.json").write_text(json.dumps(profile))
    text = re.sub(r"latency_slo_ms: \d+", "latency_slo_ms: 36000000", (target / "emulated.yaml").read_text())
    (target / "service.yaml").write_text(text.replace("budget: {cores: 2", "budget: {cores: 1"))
    return target


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tiny(tmp_path_factory.mktemp("services") / "tiny")


@contextlib.contextmanager
def serving(service: Path, *options: str) -> Iterator[Server]:
    """Start a server, wait until it says that it is ready, and leave nothing of it behind."""
    stderr = Path(_LOGS.name) / f"stderr-{next(_numbers)}.txt"
    with stderr.open("wb") as errors:
        process = subprocess.Popen(
            [*POISE, "serve", str(service), "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, stderr.read_text()
        ready = json.loads(line)
        assert ready["pid"] == process.pid
        yield Server(process, ready["url"], stderr, ready["service"], ready["grpc"] or "")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for worker in psutil.Process(process.pid).children():
                worker.kill()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Server]:
    """A server for tests that leave it as it was."""
    with serving(tiny) as running:
        yield running


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[Server]:
    """A server of one worker, for tests that harm it; its log is recorded."""
    service = copy_tiny(tmp_path / "tiny", workers=1)
    with serving(service, "--record", str(tmp_path / "log.jsonl")) as running:
        yield running


def json_request(
    arrays: dict[str, np.ndarray], names: tuple[str, ...], items: int = 1, **more: object
) -> dict:
    """An infer request with tensors in JSON."""
    inputs = [
        {
            "name": name,
            "datatype": DATATYPES[name],
            "shape": list(arrays[name][:items].shape),
            "data": arrays[name][:items].ravel().tolist(),
        }
        for name in names
    ]
    return {"inputs": inputs, **more}
