"""Triton and poise with the same models, each started as its users start it.

One description of the models' tensors makes both the model repository of Triton and the service folders of poise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.servers import serving

HERE = Path(__file__).parent
TRITON = HERE / "triton.sh"
MAX_BATCH = 8
START_S = 120.0
"""How long a server may take to be ready."""

Tensor = tuple[str, str, int]
"""Name, datatype, elements of an item."""

WIDTH = 3
PLAIN = [
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
]
MODELS: dict[str, tuple[list[Tensor], list[Tensor]]] = {
    "brief": ([("short", "BF16", WIDTH)], [("same", "BF16", WIDTH)]),
    "moody": ([("mood", "FP32", 1)], [("rest", "FP32", 1)]),
    "sums": (
        [("left", "FP32", 4), ("right", "FP32", 4)],
        [("sum", "FP32", 4), ("difference", "FP32", 4)],
    ),
    "types": (
        [(f"in_{datatype.lower()}", datatype, WIDTH) for datatype in PLAIN],
        [(f"out_{datatype.lower()}", datatype, WIDTH) for datatype in PLAIN],
    ),
    "words": ([("word", "BYTES", WIDTH)], [("drow", "BYTES", WIDTH)]),
}
"""Model -> its inputs and outputs, in the order in which Triton lists models; ``models/arithmetic.py`` computes."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A running server: ``host:port`` of both protocols."""

    name: str
    http: str
    grpc: str


def write_repository(folder: Path) -> Path:
    """Write Triton's model repository."""
    for model in MODELS:
        version = folder / model / "1"
        version.mkdir(parents=True)
        shutil.copy(HERE / "models/triton_model.py", version / "model.py")
        shutil.copy(HERE / "models/arithmetic.py", version)
        (folder / model / "config.pbtxt").write_text(_pbtxt(model))
    return folder


def _pbtxt(model: str) -> str:
    """Return Triton's configuration: it batches as it pleases, and takes timeouts and priorities."""
    groups = []
    for kind, tensors in zip(("input", "output"), MODELS[model], strict=True):
        for name, datatype, width in tensors:
            data_type = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
            groups.append(f'{kind} {{ name: "{name}", data_type: {data_type}, dims: [ {width} ] }}')
    max_batch = 1 if model == "moody" else MAX_BATCH
    return "\n".join(
        [
            f'name: "{model}"',
            'backend: "python"',
            f"max_batch_size: {max_batch}",
            *groups,
            "instance_group { count: 1, kind: KIND_CPU }",
            "dynamic_batching {",
            "  priority_levels: 8",
            "  default_priority_level: 2",
            "  default_queue_policy {",
            "    timeout_action: REJECT, allow_timeout_override: true",
            "    default_timeout_microseconds: 600000000  # a request can only ask for less",
            "  }",
            "}\n",
        ]
    )


def write_services(folder: Path, models: Iterable[str] = MODELS) -> list[Path]:
    """Write one service folder of poise for each model."""
    return [_write_service(folder / model, model) for model in models]


def _write_service(folder: Path, model: str) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(HERE / "models/poise_model.py", folder / "model.py")
    shutil.copy(HERE / "models/arithmetic.py", folder)
    inputs, outputs = (
        {name: _spec(datatype, width) for name, datatype, width in tensors} for tensors in MODELS[model]
    )
    max_batch = 1 if model == "moody" else MAX_BATCH
    service = {
        "format": 1,
        "service": model,
        "modalities": {"all": {"inputs": inputs}},
        "outputs": outputs,
        "variants": {
            "only": {"runtime": "python", "module": "model.py", "factory": "load", "graphs": {"all": model}}
        },
        "classes": {"patient": {"latency_slo_ms": 600_000}},
        "budget": {"cores": 1},
        "scheduler": {"max_batch": max_batch},
    }
    (folder / "service.yaml").write_text(json.dumps(service))  # JSON is YAML
    points = [{"batch": batch, "mean_s": 0.001} for batch in sorted({1, max_batch})]
    stage = {"name": "all", "modality_sets": [["all"]], "latency": points}
    mode = {"modalities": ["all"], "accuracy": 1.0, "samples": 1}
    variant = {"name": "only", "modes": [mode], "stages": [stage]}
    profile = {"format": 1, "service": model, "variants": [variant]}
    (folder / "profile.json").write_text(json.dumps(profile))
    return folder


def _spec(datatype: str, width: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"datatype": datatype, "shape": [width]}
    return spec | ({"max_bytes": 64} if datatype == "BYTES" else {})


@contextlib.contextmanager
def triton(folder: Path) -> Iterator[Peer]:
    """Install Triton where it is not installed yet, and run it until the end of the block."""
    subprocess.run([str(TRITON), "--install-only"], check=True, timeout=300)
    repository = write_repository(folder / "repository")
    ports = _free_ports(2)
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                str(TRITON),
                str(repository),
                *("--http-address", "127.0.0.1", "--http-port", str(ports[0])),
                *("--grpc-address", "127.0.0.1", "--grpc-port", str(ports[1])),
                *("--allow-metrics", "false", "--model-control-mode", "explicit", "--load-model", "*"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        peer = Peer("triton", f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
        _wait_until_ready(peer, process, log)
        yield peer
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def poise(folder: Path, models: Iterable[str] = MODELS) -> Iterator[Peer]:
    """Run ``poise serve`` with both protocols and its repository open until the end of the block."""
    services = write_services(folder / "services", models)
    first, *others = services
    options = [*map(str, others), "--grpc-port", "0", "--repository"]
    with serving(first, *options) as server:
        yield Peer("poise", server.address, server.grpc_address)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taken.getsockname()[1] for taken in sockets]


def _wait_until_ready(peer: Peer, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(peer.http, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return
        time.sleep(0.05)
    raise AssertionError(f"{peer.name} was not ready after {START_S:.0f} s:\n{log.read_text()}")
