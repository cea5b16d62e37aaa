"""The server's end of emulated workers: many in one process, each of which looks like a worker of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from poise.domain.profile import Profile
from poise.domain.service import Device, Service
from poise.ingress.child import ChildProcess
from poise.serving.arena import Arena
from poise.serving.messages import (
    CannotStart,
    Drop,
    FromWorker,
    Gone,
    HostStart,
    Take,
    ToHost,
    ToWorker,
    decode_from_host,
    encode,
)

MAX_PER_HOST = 256
"""So many workers share a process, and its fate."""

OnMessage = Callable[["HostedWorker", FromWorker], None]
OnExit = Callable[["HostedWorker", int], None]


class HostedWorker:
    """One emulated worker; ``on_message`` and ``on_exit`` are called as a ``WorkerProcess`` calls them."""

    cores: tuple[int, ...] = ()
    untaken = False

    def __init__(self, worker_id: int, host: EmulatedHost, on_message: OnMessage, on_exit: OnExit) -> None:
        self.worker_id = worker_id
        self._host = host
        self.on_message = on_message
        self.on_exit = on_exit

    def send(self, message: ToWorker) -> None:
        """Send a message; a worker that is gone does not hear it."""
        self._host.tell(self.worker_id, message)

    def kill(self) -> None:
        """End it at once; ``on_exit`` follows, as of a killed process."""
        self._host.drop(self)

    def settle(self, cores: Sequence[int]) -> None:
        """Do nothing: it needs no core."""


class EmulatedHost(ChildProcess):
    """A process that is many emulated workers; with it they all are gone."""

    def __init__(self, service: Service, profile: Profile, arena: Arena) -> None:
        self.workers: dict[int, HostedWorker] = {}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        start = HostStart(service=service, profile=profile, layout=arena.layout)
        super().__init__("poise.serving.emulated_host", encode(start), (arena.fd,))

    def take(
        self,
        worker_id: int,
        variants: tuple[str, ...],
        threads: int,
        device: Device,
        *,
        on_message: OnMessage,
        on_exit: OnExit,
    ) -> HostedWorker:
        """Return a worker more; it is ready when it says so."""
        worker = self.workers[worker_id] = HostedWorker(worker_id, self, on_message, on_exit)
        self.tell(worker_id, Take(variants, threads, device))
        return worker

    def tell(self, worker_id: int, message: Take | ToWorker | Drop) -> None:
        """Send a message to one of its workers."""
        if worker_id in self.workers and not self.ended.done():
            self._send(encode(ToHost(worker_id, message)))

    def drop(self, worker: HostedWorker) -> None:
        """Give a worker up at once; its ``on_exit`` follows."""
        if worker.worker_id in self.workers:
            self.tell(worker.worker_id, Drop())
            del self.workers[worker.worker_id]
            asyncio.get_running_loop().call_soon(worker.on_exit, worker, -signal.SIGKILL)

    def _packet(self, data: bytes) -> None:
        said = decode_from_host(data)
        worker = self.workers.get(said.worker_id)
        if worker is None:
            return  # it has been dropped since
        if isinstance(said.message, Gone):
            del self.workers[said.worker_id]
            worker.on_exit(worker, 0)
            return
        worker.on_message(worker, said.message)
        if isinstance(said.message, CannotStart):
            del self.workers[said.worker_id]
            worker.on_exit(worker, 1)

    def _gone(self, status: int) -> None:
        self.ended.set_result(None)
        workers, self.workers = list(self.workers.values()), {}
        for worker in workers:
            worker.on_exit(worker, status)


class EmulatedHosts:
    """The hosts of a cell: as many as its emulated workers need."""

    def __init__(self, service: Service, profile: Profile, arena: Arena) -> None:
        self._service = service
        self._profile = profile
        self._arena = arena
        self._hosts: list[EmulatedHost] = []

    def host(self) -> EmulatedHost:
        """Return a host with room for a worker more.

        Raises:
            OSError: no memory, or no more processes.
        """
        self._hosts = [host for host in self._hosts if not host.ended.done()]
        for host in self._hosts:
            if len(host.workers) < MAX_PER_HOST:
                return host
        self._hosts.append(EmulatedHost(self._service, self._profile, self._arena))
        return self._hosts[-1]

    async def end(self) -> None:
        """End all hosts at once, and wait until they are gone."""
        for host in self._hosts:
            if not host.ended.done():
                host.kill()
                await host.ended
