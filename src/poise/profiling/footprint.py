"""Load time and memory of a variant, measured in a fresh process: ``python -m poise.profiling footprint``."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec
import numpy as np
import psutil

from poise.domain.modalities import names_of
from poise.errors import PoiseError, WorkerError
from poise.files import ServiceFolder, open_service
from poise.runtimes import mode_labels, open_staged
from poise.runtimes.tensors import zeros

LOADS = 3
TIMEOUT_S = 300.0


class Footprint(msgspec.Struct, frozen=True):
    """What a variant costs to hold. Units: seconds, bytes.

    ``load_time_s`` is the median time to open it in a process whose runtime is imported, the files in the page
    cache. ``memory_bytes`` is what the process grew by for holding it and answering its largest batch once.
    """

    load_time_s: float = 0.0
    memory_bytes: int = 0
    error: str = ""


def measure_footprint(folder: ServiceFolder, variant: str, *, threads: int) -> Footprint:
    """Measure a variant in a process of its own.

    Raises:
        WorkerError: the process failed.
    """
    command = [sys.executable, "-m", "poise.profiling", "footprint", str(folder.file), variant, str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
        footprint = msgspec.json.decode(done.stdout, type=Footprint)
    except subprocess.TimeoutExpired:
        raise WorkerError(f"variant {variant!r}: not loaded within {TIMEOUT_S:.0f} s") from None
    except msgspec.DecodeError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise WorkerError(
            f"variant {variant!r}: loading it ended with status {done.returncode}: {last[0]}"
        ) from None
    if footprint.error:
        raise WorkerError(f"variant {variant!r}: {footprint.error}")
    return footprint


def _measure(folder: ServiceFolder, variant: str, threads: int) -> Footprint:
    library = {"onnx": "onnxruntime", "torch": "torch"}.get(folder.service.variants[variant].runtime)
    if library is not None and importlib.util.find_spec(library) is not None:
        importlib.import_module(library)  # before the first look at the memory
    process = psutil.Process()
    before = process.memory_info().rss
    loads: list[float] = []
    start = time.perf_counter()
    runner = open_staged(folder.service, variant, folder.resolve, threads=threads)
    loads.append(time.perf_counter() - start)
    items = folder.service.scheduler.max_batch
    inputs = zeros(folder.service.inputs_of(folder.service.modalities), items)
    index = folder.service.modality_index
    for label in mode_labels(folder.service, variant):
        runner.run(inputs, np.arange(items), np.full(items, index.mask(names_of(label))))
    memory = process.memory_info().rss - before
    for _ in range(LOADS - 1):
        start = time.perf_counter()
        open_staged(folder.service, variant, folder.resolve, threads=threads)
        loads.append(time.perf_counter() - start)
    return Footprint(load_time_s=round(statistics.median(loads), 6), memory_bytes=max(0, memory))


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments name (service, variant, threads) and print it as JSON."""
    service, variant, threads = arguments
    try:
        footprint = _measure(open_service(service), variant, int(threads))
    except PoiseError as error:
        footprint = Footprint(error=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(footprint))
