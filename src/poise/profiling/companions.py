"""Workers that keep the other cores busy: ``python -m poise.profiling companion`` is one of them.

Cores share memory bandwidth, the last cache, heat and often an execution unit, so a batch takes longer beside other
batches than alone. While a call is timed, each companion, a process pinned to cores of its own that has opened the same
variants, runs that very call over and over. Which one it is stands in shared memory: two numbers for each companion,
what it is to do and what it has begun to do. A timing starts when all have begun.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from poise.errors import PoiseError, WorkerError
from poise.files import LabelledItems, ServiceFolder, load_labelled, open_service
from poise.profiling.latency import stage_calls, stage_points
from poise.profiling.timing import quiet_collector
from poise.runtimes import StagedRunner, open_staged
from poise.runtimes.machine import first_in_line, pinned

IDLE, STOP, ABSENT = -1, -2, -3
"""Instead of the number of a call: do nothing, end, not there yet."""
IDLE_S = 200e-6
POLL_S = 20e-6
LOOK_EVERY = 500
"""Polls after which the processes are looked at."""
START_S, BEGIN_S, STOP_S = 300.0, 60.0, 10.0
"""How long a companion may take to open its variants, to begin a call and to end."""


class Companions:
    """Some companions, and what they are to do."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], shared: NDArray[np.int64]) -> None:
        self._processes = processes
        self._wanted, self._begun = shared

    def follow(self, call: int | None) -> None:
        """Have all run one call over and over, or nothing; return when they have begun.

        Raises:
            WorkerError: one of them has ended, or does not begin.
        """
        wanted = IDLE if call is None else call
        self._wanted[:] = wanted
        self._await(wanted, BEGIN_S)

    def await_start(self) -> None:
        """Return when all have opened their variants; see ``follow``."""
        self._await(IDLE, START_S)

    def _await(self, wanted: int, timeout_s: float) -> None:
        polls, start = 0, time.monotonic()
        while (self._begun != wanted).any():
            time.sleep(POLL_S)
            polls += 1
            if polls % LOOK_EVERY == 0:
                self._look()
                if time.monotonic() - start > timeout_s:
                    raise WorkerError(
                        f"a worker that was to keep other cores busy did not begin in {timeout_s:.0f} s"
                    )

    def _look(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                said = process.stderr.read() if process.stderr is not None else b""
                last = said.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                raise WorkerError(
                    f"a worker that was to keep other cores busy ended with status {process.returncode}: {last[0]}"
                )


@contextmanager
def companions(
    folder: ServiceFolder, variants: Sequence[str], *, threads: int, places: Sequence[Sequence[int]]
) -> Iterator[Companions]:
    """Start a companion on each of some places (the cores of a worker); yield them when they are there; stop them.

    Raises:
        WorkerError: one of them did not come up.
    """
    with ExitStack() as stack:
        memory = os.memfd_create("poise-companions")
        stack.callback(os.close, memory)
        os.ftruncate(memory, max(1, len(places)) * 2 * 8)
        shared = _numbers(memory, len(places))
        shared[0], shared[1] = IDLE, ABSENT
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, processes, shared)
        for at, cores in enumerate(places):
            command = [sys.executable, "-m", "poise.profiling", "companion", str(folder.file), str(threads)]
            command += [str(memory), str(len(places)), str(at), str(os.getpid()), *variants]
            with pinned(cores):  # the child inherits it
                processes.append(
                    subprocess.Popen(
                        command, pass_fds=(memory,), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                    )
                )
        found = Companions(processes, shared)
        found.await_start()
        yield found


def _numbers(memory: int, places: int) -> NDArray[np.int64]:
    """Return the shared numbers: [what it is to do or has begun, companion]."""
    size = max(1, places) * 2 * 8
    return np.ndarray((2, places), np.int64, mmap.mmap(memory, size))


def _stop(processes: Sequence[subprocess.Popen[bytes]], shared: NDArray[np.int64]) -> None:
    shared[0] = STOP
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _run(calls: Sequence[Callable[[], object]], shared: NDArray[np.int64], place: int, parent: int) -> None:
    """Do what is wanted until told to end, or until nobody is left to tell: ``parent`` is gone."""
    wanted, begun = shared
    while os.getppid() == parent:
        now = int(wanted[place])
        if now == STOP:
            return
        begun[place] = now
        if now == IDLE:
            time.sleep(IDLE_S)
        else:
            calls[now]()


def main(arguments: Sequence[str]) -> None:
    """Be a companion: open the variants, and run what is wanted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then stops this one
    file, threads, memory, places, place, parent, *variants = arguments
    shared = _numbers(int(memory), int(places))
    try:
        folder = open_service(file)
        service = folder.service
        items: LabelledItems | None = None
        if service.validation is not None:
            items = load_labelled(folder.resolve(service.validation, "validation"), service)
        with first_in_line():  # so are the threads of what is opened
            runners: Mapping[str, StagedRunner] = {
                name: open_staged(service, name, folder.resolve, threads=int(threads)) for name in variants
            }
            calls = stage_calls(service, runners, items, stage_points(service, runners))
            for call in calls:
                call()
            with quiet_collector():
                _run(calls, shared, int(place), int(parent))
    except PoiseError as error:
        raise SystemExit(str(error)) from None
