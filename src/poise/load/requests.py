"""Requests of the Open Inference Protocol v2 with binary tensors, made from test items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from poise.domain.service import Service
from poise.errors import ConfigError
from poise.files import LabelledItems
from poise.load.connections import Endpoint
from poise.protocol.elements import to_bf16
from poise.workload import JobDraw


class RequestMaker:
    """Makes the request of each job; the same seed gives the same requests.

    Which items a job carries is fixed beforehand: the test items in a random order, each once, then in
    another order, and so on. Nothing else is prepared: a body is written in one go, each row copied once.
    """

    def __init__(
        self,
        service: Service,
        items: LabelledItems,
        jobs: Sequence[JobDraw],
        rng: Generator,
        *,
        endpoint: Endpoint,
        token: str | None = None,
    ) -> None:
        """Look through the items.

        Raises:
            ConfigError: the service has inputs of BYTES, which are of no one size.
        """
        specs = service.inputs_of(service.modalities)
        for name, spec in specs.items():
            if spec.datatype == "BYTES":
                raise ConfigError(
                    f"input {name!r} is BYTES", field=name, expected="inputs whose items are all of one size"
                )
        self._rows = {
            name: _rows(to_bf16(array) if specs[name].datatype == "BF16" else array)
            for name, array in items.inputs.items()
        }
        self._shapes = {name: list(array.shape[1:]) for name, array in items.inputs.items()}
        self._datatypes = {
            name: spec.datatype
            for modality in service.modalities.values()
            for name, spec in modality.inputs.items()
        }
        index = service.modality_index
        self._tensors = {
            mask: [name for modality in index.members(mask) for name in service.modalities[modality].inputs]
            for mask in index.every_set()
        }
        sizes = np.array([job.items for job in jobs], np.int64)
        self._ends = np.cumsum(sizes)
        self._order = _orders(len(items), int(sizes.sum()), rng)
        self._tails: dict[tuple[int, int], bytes] = {}
        self._head = _head(endpoint, f"/v2/models/{service.service}/infer", token, "POST")

    def rows_of(self, job: JobDraw) -> NDArray[np.int64]:
        """Return which test items a job carries. Shapes: [items]."""
        end = int(self._ends[job.number])
        return self._order[end - job.items : end]

    def make(self, job: JobDraw) -> tuple[bytes, bytearray]:
        """Return the head and the body of a job's request."""
        rows = self.rows_of(job)
        header = self._header(job)
        names = self._tensors[job.available]
        body = bytearray(len(header) + len(rows) * sum(self._rows[name].shape[1] for name in names))
        body[: len(header)] = header
        at = len(header)
        for name in names:
            source = self._rows[name]
            size = len(rows) * source.shape[1]
            target = np.frombuffer(body, np.uint8, size, at).reshape(len(rows), source.shape[1])
            np.take(source, rows, axis=0, out=target, mode="clip")  # clip: writes to out without a copy
            at += size
        return b"%b%d\r\nInference-Header-Content-Length: %d\r\n\r\n" % (
            self._head,
            len(body),
            len(header),
        ), body

    def _header(self, job: JobDraw) -> bytes:
        tail = self._tails.get((job.items, job.available))
        if tail is None:
            tail = self._tails[job.items, job.available] = self._tail(job.items, job.available)
        parameters: dict[str, object] = {"binary_data_output": True, "poise_class": job.slo_class}
        if job.deadline_s is not None:
            parameters["poise_deadline_ms"] = round(job.deadline_s * 1000.0, 3)
        if job.accuracy_floor is not None:
            parameters["poise_accuracy_floor"] = job.accuracy_floor
        return b'{"parameters":%b,%b' % (msgspec.json.encode(parameters), tail)

    def _tail(self, items: int, available: int) -> bytes:
        inputs = [
            {
                "name": name,
                "shape": [items, *self._shapes[name]],
                "datatype": self._datatypes[name],
                "parameters": {"binary_data_size": items * self._rows[name].shape[1]},
            }
            for name in self._tensors[available]
        ]
        return b'"inputs":%b}' % msgspec.json.encode(inputs)


def get_head(endpoint: Endpoint, path: str, token: str | None = None) -> bytes:
    """Return the whole of a GET request."""
    return _head(endpoint, path, token, "GET") + b"0\r\n\r\n"


def _head(endpoint: Endpoint, path: str, token: str | None, method: str) -> bytes:
    """The head of a request up to the value of its last header, which is the length of the body."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    headers: Mapping[str, str] = {
        "Host": f"{host}:{endpoint.port}",
        "Content-Type": "application/octet-stream",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    lines = [
        f"{method} {endpoint.root}{path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\nContent-Length: ").encode("latin-1")


def _rows(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """View items as rows of bytes, little-endian. Shapes: [n, …] to [n, bytes]."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(len(array), -1).view(np.uint8)


def _orders(items: int, total: int, rng: Generator) -> NDArray[np.int64]:
    rounds = [rng.permutation(items) for _ in range(-(-total // items))]
    return np.concatenate(rounds)[:total] if rounds else np.empty(0, np.int64)
