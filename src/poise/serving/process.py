"""The server's end of one worker process: how it is started, spoken to, put on its cores, and seen to end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from poise.ingress.child import ChildProcess
from poise.serving.messages import FromWorker, Start, ToWorker, decode_from_worker, encode


class Worker(Protocol):
    """What a cell knows of a worker: a process of its own, or one of many in a host of emulated ones."""

    @property
    def worker_id(self) -> int:
        """Its number, which no other worker of the cell ever had."""

    @property
    def cores(self) -> tuple[int, ...]:
        """The cores that it is pinned to; none where it needs none."""

    @property
    def untaken(self) -> bool:
        """Whether it is known to have ended without taking the last message."""

    def send(self, message: ToWorker) -> None:
        """Send a message; a worker that cannot take it is ended."""

    def kill(self) -> None:
        """End it at once."""

    def settle(self, cores: Sequence[int]) -> None:
        """Pin it to cores, at normal priority: it is about to be given batches."""


class WorkerProcess(ChildProcess):
    """One process, from its start to its end; a worker that is started again is another one.

    ``at_idle``: it loads at idle priority. ``on_message`` is called for each message, ``on_exit`` once, when the
    process is really gone: from then on nothing can touch the arena in its name. Messages sent before the end are
    delivered before ``on_exit``.
    """

    def __init__(
        self,
        worker_id: int,
        start: Start,
        arena_fd: int,
        cores: Sequence[int],
        *,
        on_message: Callable[[WorkerProcess, FromWorker], None],
        on_exit: Callable[[WorkerProcess, int], None],
        at_idle: bool = False,
    ) -> None:
        self.worker_id = worker_id
        self.cores = tuple(cores)
        self._on_message = on_message
        self._on_exit = on_exit
        arguments = [",".join(str(core) for core in cores), *(["idle"] if at_idle else [])]
        super().__init__("poise.serving.worker", encode(start), (arena_fd,), arguments)

    def send(self, message: ToWorker) -> None:
        """Send a message; a worker that cannot take it is ended, and ``on_exit`` follows."""
        self._send(encode(message))

    def settle(self, cores: Sequence[int]) -> None:
        """Pin every thread of the process, and give it normal priority where it loaded at idle priority.

        A thread that may not leave idle priority stays there: see ``worker`` for why that is none that answers.
        """
        self.cores = tuple(cores)
        for thread in _threads(self.pid):
            with contextlib.suppress(OSError):  # it has ended, or may not leave idle priority
                os.sched_setaffinity(thread, self.cores)
                _leave_idle_priority(thread)

    def leave_idle_priority(self) -> bool:
        """Give every thread normal priority; say whether one was at idle priority.

        Raises:
            PermissionError: one that is may not leave it.
        """
        left = False
        for thread in _threads(self.pid):
            with contextlib.suppress(ProcessLookupError):
                left |= _leave_idle_priority(thread)
        return left

    def _packet(self, data: bytes) -> None:
        self._on_message(self, decode_from_worker(data))

    def _gone(self, status: int) -> None:
        self._on_exit(self, status)


def _leave_idle_priority(thread: int) -> bool:
    if os.sched_getscheduler(thread) != os.SCHED_IDLE:
        return False
    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
    return True


def _threads(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
