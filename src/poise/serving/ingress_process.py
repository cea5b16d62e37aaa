"""An ingress process: takes connections, reads requests, and puts their tensors where the workers find them.

Run as ``python -m poise.serving.ingress_process CONTROL LISTENER START`` by ``poise.serving.ingresses``; all are file
descriptors. It ends when it is told to, or when the cell's process is gone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import uvloop

from poise.errors import ConfigError, InternalError
from poise.ingress.child_end import die_with_parent, leave, leave_signals_to_the_server, read_memory_file
from poise.ingress.gate import Gate, Gates, PendingJob, Refused
from poise.ingress.guard import Guard
from poise.ingress.http_server import HttpServer
from poise.ingress.tls import Tls
from poise.serving.arena import Arena
from poise.serving.ingress_app import IngressApp
from poise.serving.ingress_gate import JobNumbers, RemoteGate
from poise.serving.ingress_link import IngressLink
from poise.serving.ingress_messages import (
    Counted,
    Drain,
    Drained,
    Finish,
    IngressStart,
    JobAnswered,
    JobFailed,
    JobRefused,
    LabelsComing,
    Listening,
    Renew,
    Replied,
    Services,
    ToIngress,
    decode_services,
    decode_start,
)
from poise.telemetry.logs import Level, configure_logging

COUNT_S = 1.0
"""How often the cell's process is told what was counted; it ends a process that it hears nothing of."""
LINGER_S = 0.25
"""So long a service that was replaced still takes jobs, of requests that were being read; its cell does for longer."""
GC_THRESHOLDS = (20_000, 50, 20)

log = logging.getLogger(__name__)


class Ingress:
    """The process's state. Everything runs on one event loop."""

    def __init__(self, start: IngressStart, control: socket.socket, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._start = start
        self._listener = listener
        self._jobs = JobNumbers()
        self._gates: dict[int, RemoteGate] = {}
        self._told: tuple[dict[tuple[str, int], int], int, int] = ({}, 0, 0)
        self._draining: asyncio.Task[None] | None = None
        self.finished: asyncio.Future[float | None] = loop.create_future()
        self.known: asyncio.Future[None] = loop.create_future()
        self._link = IngressLink(control, self._message, self._orphaned)
        self._guard = Guard(start.tokens, start.origins)
        self._tls: Tls | None = None
        if start.tls is not None:
            ca = start.tls.client_ca
            self._tls = Tls(
                Path(start.tls.certificate), Path(start.tls.key), None if ca is None else Path(ca)
            )
        self._directory = Gates({})
        if start.labels:
            self._directory.labels = self
        self._app = IngressApp(self._directory, self._guard, start.limits, start.routes, self._link.tell)
        self._http = HttpServer(self._app, start.limits)

    async def run(self) -> None:
        """Serve until told to finish, or until nobody is there to serve for."""
        ways: list[asyncio.Future[Any]] = [self.known, self.finished]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        await self._http.start(self._listener, None if self._tls is None else self._tls.http)
        self._link.tell(Listening())
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._count_again()
        take_limit_s = await self.finished
        await self._app.stop()  # what waits for it is refused, while there is somebody to tell
        if take_limit_s is not None:
            await self._http.stop(take_limit_s)
            self._count()
            self._link.flush()

    def expect(self, gate: Gate, pending: PendingJob, request_id: str, sender: str) -> None:
        """Have a job's answer kept for its labels."""
        self._link.tell(LabelsComing(pending.job.id, request_id, sender))

    def _orphaned(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def _message(self, message: ToIngress, files: Sequence[int]) -> None:
        if isinstance(message, JobAnswered):
            gate, pending = self._jobs.waiting.pop(message.number)
            gate.answered(pending, message.answer)
        elif isinstance(message, JobRefused):
            gate, pending = self._jobs.waiting.pop(message.number)
            gate.settle(pending, Refused(message.reason, message.detail))
        elif isinstance(message, JobFailed):
            gate, pending = self._jobs.waiting.pop(message.number)
            gate.settle(pending, InternalError(f"job {message.number} met a fault of the server"))
        elif isinstance(message, Replied):
            self._app.replied(message)
        elif isinstance(message, Services):
            self._serve(files)
        elif isinstance(message, Renew):
            self._renew(message)
        elif isinstance(message, Drain):
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        elif isinstance(message, Finish) and not self.finished.done():
            self.finished.set_result(message.take_limit_s)

    async def _drain(self) -> None:
        await self._http.replied()
        self._link.tell(Drained())

    def _serve(self, files: Sequence[int]) -> None:
        services = decode_services(read_memory_file(files[0]))
        gates: dict[int, RemoteGate] = {}
        left = list(files[1:])
        for told in services:
            fd = None if told.closed else left.pop(0)
            gate = self._gates.get(told.gate)
            if gate is None:
                arena = None if fd is None else Arena(told.layout, fd)
                gate = RemoteGate(told, arena, self._jobs, self._link.tell)
            gates[told.gate] = gate
            if fd is not None:
                os.close(fd)
        for number, gate in self._gates.items():
            if number not in gates:
                asyncio.get_running_loop().call_later(LINGER_S, _close, gate)
        self._gates = gates
        self._directory.replace({told.name: gates[told.gate] for told in services})
        if not self.known.done():
            self.known.set_result(None)

    def _renew(self, message: Renew) -> None:
        self._guard.replace(message.tokens)
        if self._tls is not None:
            try:
                self._tls.renewed().apply()
            except ConfigError as error:
                log.error("the files of TLS are not taken up: %s", error)

    def _count_again(self) -> None:
        self._count()
        asyncio.get_running_loop().call_later(COUNT_S, self._count_again)

    def _count(self) -> None:
        traffic, (requests, opened, refused) = self._http.traffic, self._told
        now = cast(dict[tuple[str, int], int], dict(traffic.requests))
        new = tuple(
            (route, code, count - requests.get((route, code), 0))
            for (route, code), count in now.items()
            if count != requests.get((route, code), 0)
        )
        self._told = (now, traffic.connections_opened, traffic.connections_refused)
        self._link.tell(
            Counted(
                new,
                traffic.connections_opened - opened,
                traffic.connections_refused - refused,
                self._http.connections,
                self._http.bodies_bytes,
            )
        )


def _close(gate: RemoteGate) -> None:
    gate.draining = True


def main(arguments: list[str]) -> int:
    """Set the process up and serve."""
    control_fd, listener_fd, start_fd = map(int, arguments[:3])
    leave_signals_to_the_server()
    die_with_parent()
    start = decode_start(read_memory_file(start_fd))
    configure_logging(cast(Level, start.log_level), as_json=start.log_json)

    async def run() -> None:
        await Ingress(start, socket.socket(fileno=control_fd), socket.socket(fileno=listener_fd)).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
