"""The way to a worker and back, without the model: ``python -m poise.profiling way`` is the worker.

An estimate. A real child process gets a batch's descriptor over a seqpacket socket pair, gathers the rows of the
largest modality set out of shared memory, writes as many rows of outputs there, and replies: what a live worker does
around a model, without the event loop of the front end and without other load. Both ends share a core: between two,
the time to wake the other one depends on whether that core has gone to sleep, and differs by a factor of two from one
profile to the next. The rows are scattered, which is the dear case: consecutive rows are not copied at all. Inputs
with buckets are gathered at their longest.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.profile import LatencyPoint
from poise.domain.service import Service, TensorSpec
from poise.errors import WorkerError
from poise.files import ServiceFolder, open_service
from poise.profiling.timing import CoreStopwatch, quiet_collector, time_calls
from poise.runtimes import gather
from poise.runtimes.cores import usable_cores
from poise.runtimes.machine import first_in_line, pinned
from poise.runtimes.tensors import item_bytes

ALIGNMENT = 64
MESSAGE_BYTES = 65_536
REPLY_TIMEOUT_S = 30.0


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """What the parent sends: the rows of a batch."""

    rows: list[int]


class Done(msgspec.Struct, frozen=True, array_like=True):
    """What the child replies: how many rows it wrote."""

    items: int


def measure_way(
    folder: ServiceFolder, modalities: Sequence[str], batches: Sequence[int], *, budget_s: float
) -> list[LatencyPoint]:
    """Return the latency of the way for each batch size, gathering the inputs of some modalities.

    Raises:
        WorkerError: the child process failed.
    """
    generator = np.random.default_rng(0)
    with first_in_line(), _child(folder, modalities, 2 * max(batches)) as link:
        rows = [generator.permutation(2 * max(batches))[:batch].tolist() for batch in batches]
        calls = [_exchange(link, mine) for mine in rows]
        with pinned(usable_cores()[-1:]), quiet_collector():
            timed = time_calls(calls, CoreStopwatch(waits=True), budget_s=budget_s, generator=generator)
    return [
        result.summary(batch=batch, threads=1, busy_cores=1)
        for batch, result in zip(batches, timed, strict=True)
    ]


def _exchange(link: socket.socket, rows: list[int]) -> Callable[[], object]:
    encoder, decoder, batch = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Done), Batch(rows)

    def call() -> object:
        link.send(encoder.encode(batch))
        reply = link.recv(MESSAGE_BYTES)
        if not reply:
            raise WorkerError("the process at the end of the way has gone")
        return decoder.decode(reply)

    return call


@contextmanager
def _child(folder: ServiceFolder, modalities: Sequence[str], capacity: int) -> Iterator[socket.socket]:
    """Start the other end, pinned to a core; yield the socket to it; stop it."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.settimeout(REPLY_TIMEOUT_S)
    memory = os.memfd_create("poise-way")
    child: subprocess.Popen[bytes] | None = None
    try:
        os.ftruncate(memory, _layout(folder.service, modalities, capacity)[2])
        command = [sys.executable, "-m", "poise.profiling", "way", str(folder.file), "+".join(modalities)]
        command += [str(capacity), str(far.fileno()), str(memory)]
        with pinned(usable_cores()[-1:]):  # the child inherits it
            child = subprocess.Popen(command, pass_fds=(far.fileno(), memory), stdout=subprocess.DEVNULL)
        far.close()
        try:
            _exchange(near, [0])()  # it is there
        except (OSError, msgspec.DecodeError) as error:
            raise WorkerError(f"the process at the end of the way does not answer: {error}") from error
        yield near
    finally:
        near.close()
        far.close()
        os.close(memory)
        if child is not None:
            try:
                child.wait(REPLY_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _layout(
    service: Service, modalities: Sequence[str], capacity: int
) -> tuple[list[tuple[int, TensorSpec]], list[tuple[int, TensorSpec]], int]:
    """Return (offset, tensor) of the inputs and of the outputs in shared memory, and its size in bytes."""
    at = 0
    parts: list[list[tuple[int, TensorSpec]]] = []
    inputs = [spec for name in modalities for spec in service.modalities[name].inputs.values()]
    for specs in (inputs, list(service.outputs.values())):
        placed = []
        for spec in specs:
            placed.append((at, spec))
            size = capacity * item_bytes(spec)
            at += -(-size // ALIGNMENT) * ALIGNMENT
        parts.append(placed)
    return parts[0], parts[1], max(at, ALIGNMENT)


def _arrays(memory: mmap.mmap, placed: list[tuple[int, TensorSpec]], capacity: int) -> list[NDArray[Any]]:
    return [
        np.ndarray((capacity, *spec.shape_at()), spec.numpy_type, memory, offset) for offset, spec in placed
    ]


def main(arguments: Sequence[str]) -> None:
    """Be the worker: answer batches until the other end closes."""
    file, label, capacity, socket_fd, memory_fd = arguments
    service = open_service(file).service
    inputs_at, outputs_at, size = _layout(service, label.split("+"), int(capacity))
    memory = mmap.mmap(int(memory_fd), size)
    inputs = _arrays(memory, inputs_at, int(capacity))
    outputs = _arrays(memory, outputs_at, int(capacity))
    answers = [np.zeros_like(array) for array in outputs]
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Batch)
    with socket.socket(fileno=int(socket_fd)) as link, quiet_collector():
        while message := link.recv(MESSAGE_BYTES):
            rows = np.array(decoder.decode(message).rows)
            for array in inputs:
                gather(array, rows)
            for array, answer in zip(outputs, answers, strict=True):
                array[rows] = answer[: len(rows)]
            link.send(encoder.encode(Done(len(rows))))
