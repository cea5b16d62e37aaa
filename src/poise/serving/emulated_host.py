"""A process that is many emulated workers: each answers its batches when its profile says, and none uses a core.

Run as ``python -m poise.serving.emulated_host CONTROL ARENA START`` by ``poise.serving.hosting``; all three are file
descriptors. A worker is an entry in a dictionary, what it is about to say an entry in a heap of times, and the process
sleeps until the first of them or until the server speaks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import socket
import sys
import time
from heapq import heappop, heappush
from pathlib import Path

from poise.domain.profile import Profile
from poise.domain.service import Device, Service
from poise.errors import ConfigError, InternalError
from poise.ingress.child_end import (
    MAX_PACKET_BYTES,
    die_with_parent,
    leave,
    leave_signals_to_the_server,
    read_memory_file,
)
from poise.runtimes.base import VariantRunner
from poise.runtimes.opening import open_variant
from poise.serving.arena import Arena
from poise.serving.messages import (
    MAX_MESSAGE_CHARACTERS,
    CannotStart,
    Drop,
    FromHost,
    FromHosted,
    Gone,
    Ready,
    Run,
    Take,
    ToHost,
    decode_host_start,
    decode_to_host,
    encode,
)
from poise.serving.worker import answer

_PR_SET_TIMERSLACK = 29
_SLACK_NS = 1
"""How late the kernel may end a sleep; it is 50 µs unless told, and as long again as a short batch."""

Kind = tuple[str, int, Device]


class EmulatedWorkers:
    """The workers of one host. It reads no clock: each call says what time it is, and gets what is due by then.

    Units: times are in seconds on any clock that never goes back.
    """

    def __init__(self, service: Service, profile: Profile, arena: Arena, seed: int) -> None:
        self._service = service
        self._profile = profile
        self._arena = arena
        self._seed = seed
        self._slept_s = 0.0
        self._workers: dict[int, dict[str, VariantRunner]] = {}
        self._runners: dict[Kind, VariantRunner] = {}
        self._ending: set[int] = set()
        self._busy: set[int] = set()
        self._next = 0
        self._due: list[tuple[float, int, FromHost]] = []

    @property
    def next_s(self) -> float | None:
        """When somebody has something to say; None where nobody has."""
        return self._due[0][0] if self._due else None

    def tell(self, now_s: float, told: ToHost) -> None:
        """Take up a message of the server.

        Raises:
            InternalError: it is for a worker that there is not.
        """
        worker_id, message = told.worker_id, told.message
        if isinstance(message, Take):
            self._take(now_s, worker_id, message)
            return
        if worker_id not in self._workers:
            raise InternalError(f"a message is for emulated worker {worker_id}, which there is not")
        if isinstance(message, Run):
            self._run(now_s, worker_id, message)
        elif isinstance(message, Drop):
            self._forget(worker_id)
        elif worker_id in self._busy:
            self._ending.add(worker_id)
        else:
            self._end(now_s, worker_id)

    def due(self, now_s: float) -> list[FromHost]:
        """Return what is to be said by now, and forget it."""
        said = []
        while self._due and self._due[0][0] <= now_s:
            message = heappop(self._due)[2]
            worker_id = message.worker_id
            if worker_id not in self._workers:
                continue  # dropped since
            said.append(message)
            if isinstance(message.message, Gone | CannotStart):
                self._forget(worker_id)
            else:
                self._busy.discard(worker_id)
                if worker_id in self._ending:
                    self._end(now_s, worker_id)
        return said

    def _take(self, now_s: float, worker_id: int, message: Take) -> None:
        load_s = sum(self._profile.variant(name).load_time_s for name in message.variants)
        try:
            runners = {
                name: self._runner((name, message.threads, message.device)) for name in message.variants
            }
        except ConfigError as error:
            self._workers[worker_id] = {}
            self._say(now_s, worker_id, CannotStart(str(error)[:MAX_MESSAGE_CHARACTERS]))
            return
        self._workers[worker_id] = runners
        self._busy.add(worker_id)
        memory_bytes = sum(self._profile.variant(name).memory_bytes for name in message.variants)
        self._say(now_s + load_s, worker_id, Ready(load_s, memory_bytes))

    def _run(self, now_s: float, worker_id: int, message: Run) -> None:
        self._slept_s = 0.0
        said = answer(message, self._workers[worker_id], self._arena)
        self._busy.add(worker_id)
        self._say(now_s + self._slept_s, worker_id, said)

    def _end(self, now_s: float, worker_id: int) -> None:
        self._say(now_s, worker_id, Gone())

    def _forget(self, worker_id: int) -> None:
        del self._workers[worker_id]
        self._busy.discard(worker_id)
        self._ending.discard(worker_id)

    def _say(self, at_s: float, worker_id: int, message: FromHosted) -> None:
        self._next += 1
        heappush(self._due, (at_s, self._next, FromHost(worker_id, message)))

    def _runner(self, kind: Kind) -> VariantRunner:
        """Return what answers for all workers of a kind; none runs while another does."""
        found = self._runners.get(kind)
        if found is None:
            name, threads, device = kind
            found = self._runners[kind] = open_variant(
                self._service,
                name,
                _no_files,
                profile=self._profile,
                threads=threads,
                device=device,
                seed=self._seed + len(self._runners),
                sleep=self._sleep,
            )
        return found

    def _sleep(self, seconds: float) -> None:
        self._slept_s += seconds


def main(arguments: list[str]) -> int:
    """Be the workers that the server asks for, until the server is gone."""
    control_fd, arena_fd, start_fd = (int(argument) for argument in arguments[:3])
    leave_signals_to_the_server()
    die_with_parent()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _SLACK_NS, 0, 0, 0)
    control = socket.socket(fileno=control_fd)
    start = decode_host_start(read_memory_file(start_fd))
    workers = EmulatedWorkers(start.service, start.profile, Arena(start.layout, arena_fd), os.getpid())
    gc.collect()
    gc.freeze()
    serve(control, workers)
    return 0


def serve(control: socket.socket, workers: EmulatedWorkers) -> None:
    """Speak for the workers until nobody is at the other end."""
    while True:
        next_s = workers.next_s
        wait_s = None if next_s is None else max(0.0, next_s - time.monotonic())
        # select and not poll: its timeout is in microseconds.
        heard = select.select([control], [], [], wait_s)[0]
        if heard:
            data = control.recv(MAX_PACKET_BYTES)
            if not data:
                return
            workers.tell(time.monotonic(), decode_to_host(data))
        for message in workers.due(time.monotonic()):
            control.send(encode(message))


def _no_files(relative: str, field: str) -> Path:
    raise InternalError(f"an emulated variant asked for file {relative!r} ({field})")


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
