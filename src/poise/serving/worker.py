"""A worker process: holds a resident set of variants and answers one batch at a time, in the shared arena.

Run as ``python -m poise.serving.worker CONTROL ARENA START CORES [idle]`` by ``poise.serving.process``; the first
three are file descriptors, then the cores to pin to. Only the standard library is imported before the pinning,
because a library may size its thread pools by the cores it sees.

With ``idle`` it loads at idle priority (SCHED_IDLE), in a thread of its own: a process without privileges may go to
that priority and not come back, but its other threads stay as they were. What the loading thread starts inherits its
priority, and the threads of a runtime answer batches; so where a worker has more than one thread and may not come
back, it loads at normal priority.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from poise.ingress.child_end import (
    MAX_PACKET_BYTES,
    die_with_parent,
    leave,
    leave_signals_to_the_server,
    read_memory_file,
)

if TYPE_CHECKING:
    from poise.runtimes import VariantRunner
    from poise.serving.arena import Arena
    from poise.serving.messages import FromWorker, Run, Start

T = TypeVar("T")

_IDLE_BEFORE_COLLECTING_MS = 20


def main(arguments: list[str]) -> int:
    """Set the process up, load, and answer batches until told to stop or until the server is gone."""
    control_fd, arena_fd, start_fd = (int(argument) for argument in arguments[:3])
    cores = frozenset(int(core) for core in arguments[3].split(","))
    leave_signals_to_the_server()
    die_with_parent()
    os.sched_setaffinity(0, cores)
    from poise.serving.messages import decode_start

    control = socket.socket(fileno=control_fd)
    start = decode_start(read_memory_file(start_fd))
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(start.threads)
    at_idle = loads_at_idle_priority(arguments, start.threads)
    runners, arena = (at_idle_priority if at_idle else _at_once)(
        lambda: _load(start, control, arena_fd, cores)
    )
    if runners is None or arena is None:
        return 1
    gc.collect()
    gc.freeze()
    gc.disable()
    _serve(control, runners, arena)
    return 0


def loads_at_idle_priority(arguments: list[str], threads: int) -> bool:
    """Say whether a worker of so many threads is to load at idle priority, and may."""
    return arguments[4:] == ["idle"] and (threads == 1 or may_leave_idle_priority())


def at_idle_priority(call: Callable[[], T]) -> T:
    """Make a call in a thread of idle priority; whatever it returns or raises is the caller's."""
    with ThreadPoolExecutor(1, initializer=_go_idle) as thread:
        return thread.submit(call).result()


def may_leave_idle_priority() -> bool:
    """Say whether a thread of this process that goes to idle priority may come back from it."""

    def try_it() -> bool:
        _go_idle()
        try:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except PermissionError:
            return False
        return True

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(try_it).result()


def _go_idle() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _at_once(call: Callable[[], T]) -> T:
    return call()


def send(control: socket.socket, message: FromWorker) -> None:
    """Send a message to the server."""
    from poise.serving.messages import encode

    control.send(encode(message))


def _load(
    start: Start, control: socket.socket, arena_fd: int, cores: frozenset[int]
) -> tuple[dict[str, VariantRunner], Arena] | tuple[None, None]:
    from pathlib import Path

    from poise.errors import PoiseError
    from poise.files import ServiceFolder
    from poise.runtimes import open_variant
    from poise.serving.arena import Arena
    from poise.serving.messages import MAX_MESSAGE_CHARACTERS, CannotStart, Ready

    begin = time.perf_counter()
    folder = ServiceFolder(file=Path(start.folder), service=start.service)
    try:
        arena = Arena(start.layout, arena_fd)
        runners = {
            name: open_variant(
                start.service,
                name,
                folder.resolve,
                profile=start.profile,
                threads=start.threads,
                device=start.device,
                seed=os.getpid(),
            )
            for name in start.variants
        }
    except (PoiseError, OSError, MemoryError) as error:
        text = str(error) or type(error).__name__
        send(control, CannotStart(text[:MAX_MESSAGE_CHARACTERS]))
        return None, None
    if os.sched_getaffinity(0) != cores:
        os.sched_setaffinity(0, cores)  # an import has been seen to change it
    send(control, Ready(time.perf_counter() - begin, _resident_bytes()))
    return runners, arena


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (not a file of anybody's)
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _serve(control: socket.socket, runners: dict[str, VariantRunner], arena: Arena) -> None:
    from poise.serving.messages import Run, decode_to_worker

    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    collected = True
    while True:
        if not collected and not waiting.poll(_IDLE_BEFORE_COLLECTING_MS):
            gc.collect()
            collected = True
        data = control.recv(MAX_PACKET_BYTES)
        if not data:
            return  # the server is gone
        message = decode_to_worker(data)
        if not isinstance(message, Run):
            return
        send(control, answer(message, runners, arena))
        collected = False


def answer(message: Run, runners: dict[str, VariantRunner], arena: Arena) -> FromWorker:
    """Run one batch and write its outputs into its rows; whatever goes wrong becomes a ``Failed``."""
    import numpy as np

    from poise.runtimes.tensors import as_arena_holds
    from poise.serving.messages import MAX_MESSAGE_CHARACTERS, Done, Failed, unpack_runs

    try:
        runs = list(unpack_runs(message.runs))
        if len(runs) == 1:
            first, count, mask = runs[0]
            rows = np.arange(first, first + count)
            masks = np.full(count, mask, np.uint8)
        else:
            rows = np.concatenate([np.arange(first, first + count) for first, count, _ in runs])
            masks = np.repeat(
                np.array([mask for _, _, mask in runs], np.uint8), [count for _, count, _ in runs]
            )
        outputs, stage_s = runners[message.variant].run(arena.inputs, rows, masks)
        for name, slot in arena.outputs.items():
            array = as_arena_holds(outputs[name], slot.dtype)
            expected = (len(rows), *slot.shape[1:])
            if array.shape != expected or array.dtype != slot.dtype:
                return Failed(
                    message.batch_id,
                    f"variant {message.variant!r}: output {name!r} has shape {list(array.shape)} and type "
                    f"{array.dtype}, expected {list(expected)} and {slot.dtype}",
                )
            at = 0
            for first, count, _ in runs:
                slot[first : first + count] = array[at : at + count]
                at += count
    except Exception as error:
        # Whatever a model raises, the worker lives on: the server decides what becomes of the batch.
        text = f"variant {message.variant!r}: {type(error).__name__}: {error}"
        return Failed(message.batch_id, text[:MAX_MESSAGE_CHARACTERS])
    return Done(message.batch_id, tuple(stage_s))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
