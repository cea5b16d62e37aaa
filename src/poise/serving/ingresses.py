"""The server's end of its ingress processes: their jobs are put to the cells, their other requests to the app.

Each has rows of its own in every arena, so that tensors are copied before anybody is asked; what then comes to the
cell is a descriptor. One that dies has its jobs cancelled. Its rows are used again when no batch touches them any more:
only then another is started in its place, on the same listening socket, where new connections wait meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

from poise.domain.job import RefusalReason
from poise.errors import RequestError
from poise.ingress.gate import PendingJob
from poise.ingress.http_app import HttpApp
from poise.ingress.routes import HttpRequest, Reply, error_reply, reply_to
from poise.protocol import status
from poise.serving.cell import Cell
from poise.serving.ingress_child import IngressProcess
from poise.serving.ingress_messages import (
    Asked,
    Counted,
    Drain,
    Finish,
    IngressStart,
    JobTurnedAway,
    LabelsComing,
    Renew,
    Replied,
    RouteTold,
    ServiceTold,
    ToIngress,
    encode_services,
    encode_start,
)
from poise.serving.server_file import TlsFiles
from poise.telemetry.logs import JsonLines
from poise.telemetry.traffic import Traffic

AGAIN_S = 1.0
"""An ingress process that ends sooner than this after its start is started again so much later."""
BEAT_S = 1.0
"""How often it is seen to it that ingress processes say something."""
END_LIMIT_S = 2.0
"""How long ingress processes may take to end, once their clients have been seen off."""

log = logging.getLogger(__name__)


class Ingresses:
    """All ingress processes of a server. Belongs to the event loop's thread."""

    def __init__(
        self, app: HttpApp, listeners: Sequence[socket.socket], tls: TlsFiles | None, origins: Sequence[str]
    ) -> None:
        """Prepare as many as there are listening sockets; nothing is started yet."""
        self.app = app
        self.traffic = Traffic("http")
        self._listeners = list(listeners)
        self._tls = tls
        self._origins = tuple(origins)
        self._processes: dict[int, IngressProcess] = {}
        self._cells: dict[int, Cell] = {}
        self._before: dict[int, Cell] = {}
        self._next_gate = 0
        self._stopping = False
        self._beat: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed()
        app.gates.watch(self._changed)

    @property
    def connections(self) -> int:
        """How many connections there are, as far as was last told."""
        return sum(process.connections for process in self._processes.values())

    @property
    def bodies_bytes(self) -> int:
        """How many bytes of bodies are on their way in, as far as was last told."""
        return sum(process.bodies_bytes for process in self._processes.values())

    async def start(self) -> None:
        """Start all, and wait until they take connections.

        Raises:
            WorkerError: one ended as it began.
        """
        for place in range(1, len(self._listeners) + 1):
            self._begin(place)
        self._beat_on()
        await asyncio.gather(*(process.listening for process in self._processes.values()))

    def renew(self) -> None:
        """Have them let in whoever the guard lets in now, and read their files of TLS again."""
        for process in self._processes.values():
            process.tell(Renew(self.app.guard.tokens))

    async def replied(self) -> None:
        """Wait until each request that waits for its reply now has one, or its client is gone."""
        running = [process for process in self._processes.values() if not process.ended.done()]
        for process in running:
            process.tell(Drain())
        if running:
            await asyncio.wait([process.replied for process in running])

    async def stop(self, take_limit_s: float) -> None:
        """Have them see their clients off and end; those that do not are ended."""
        self._stopping = True
        if self._beat is not None:
            self._beat.cancel()
        running = [process for process in self._processes.values() if not process.ended.done()]
        for process in running:
            process.tell(Finish(take_limit_s))
        if running:
            await asyncio.wait([process.ended for process in running], timeout=take_limit_s + END_LIMIT_S)
        for process in running:
            if not process.ended.done():
                process.kill()
                await process.ended
        for task in self._tasks:
            task.cancel()
        for listener in self._listeners:
            listener.close()

    def _beat_on(self) -> None:
        """Have those ended that say nothing, now and again."""
        for process in self._processes.values():
            process.beat()
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._beat_on)

    # What the processes bring

    def cell(self, gate: int) -> Cell | None:
        """Return the cell of a number; None where it is long replaced."""
        return self._cells.get(gate) or self._before.get(gate)

    def turned_away(self, message: JobTurnedAway) -> None:
        """Count a job that never came to its cell."""
        cell = self.cell(message.gate)
        if cell is not None:
            cell.monitor.arrived(message.slo_class, message.items)
            cell.metrics.arrived(message.slo_class, message.items)
            cell.refused(message.slo_class, RefusalReason.QUEUE_FULL, "too many items wait")

    def labels_coming(self, cell: Cell, pending: PendingJob, message: LabelsComing) -> None:
        """Keep a job's answer for its labels."""
        self.app.gates.taken(cell, pending, message.request_id, message.sender)

    def counted(self, message: Counted) -> None:
        """Add what a process counted."""
        for route, code, count in message.requests:
            self.traffic.requests[route, code] += count
        self.traffic.connections_opened += message.connections_opened
        self.traffic.connections_refused += message.connections_refused

    def asked(self, message: Asked, tell: Callable[[ToIngress], None]) -> None:
        """Have another request than of inference answered."""
        request = HttpRequest(message.method, message.target, message.headers)
        request.body, request.owned = message.body, True

        def replied(reply: Reply) -> None:
            body = b"".join(reply.body)
            tell(Replied(message.number, reply.status, reply.headers, body, reply.close))

        try:
            route = self.app.route(request, len(message.body))
            reply = route if isinstance(route, Reply) else route.handler(request)
        except RequestError as error:
            reply = reply_to(error)
        except Exception:
            log.exception("a request to %r failed", request.target)
            reply = error_reply(status.INTERNAL, status.GENERIC)
        if isinstance(reply, Reply):
            replied(reply)
        elif isinstance(reply, Coroutine):
            task = asyncio.get_running_loop().create_task(self._answer(reply, request, replied))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            reply.when_ready = replied

    async def _answer(
        self, coming: Coroutine[Any, Any, Reply], request: HttpRequest, replied: Callable[[Reply], None]
    ) -> None:
        try:
            reply = await coming
        except RequestError as error:
            reply = reply_to(error)
        except Exception:
            log.exception("a request to %r failed", request.target)
            reply = error_reply(status.INTERNAL, status.GENERIC)
        replied(reply)

    def ended(self, process: IngressProcess, status: int) -> None:
        """Take up that a process is gone."""
        if not self._stopping:
            log.error("ingress process %d ended with status %d", process.place, status)

    def rows_are_free(self, process: IngressProcess) -> None:
        """Start another in the place of one that is gone: no batch touches its rows any more."""
        if self._stopping or self._processes.get(process.place) is not process:
            return
        lived_s = time.monotonic() - process.begun_s
        wait_s = 0.0 if lived_s > AGAIN_S else AGAIN_S
        asyncio.get_running_loop().call_later(wait_s, self._begin_again, process)

    def _begin_again(self, process: IngressProcess) -> None:
        if not self._stopping and self._processes.get(process.place) is process:
            try:
                self._begin(process.place)
            except OSError as error:
                log.error("ingress process %d cannot be started: %s", process.place, error.strerror)
                asyncio.get_running_loop().call_later(AGAIN_S, self._begin_again, process)

    def _begin(self, place: int) -> None:
        root = logging.getLogger()
        count = len(self._listeners)
        limits = self.app.limits
        start = IngressStart(
            limits=msgspec.structs.replace(
                limits,
                connections=-(-limits.connections // count),
                bodies_bytes=max(limits.body_bytes, limits.bodies_bytes // count),
            ),
            tokens=self.app.guard.tokens,
            origins=self._origins,
            tls=self._tls,
            routes=tuple(
                RouteTold(method, pattern, route.changes_state, route.admin)
                for pattern, methods in self.app.routes
                for method, route in methods.items()
            ),
            labels=self.app.gates.labels is not None,
            log_level=logging.getLevelName(root.level).lower(),
            log_json=any(isinstance(handler.formatter, JsonLines) for handler in root.handlers),
        )
        process = IngressProcess(self, place, encode_start(start), self._listeners[place - 1])
        self._processes[place] = process
        process.tell_services(partial(self._services, place))

    def _changed(self) -> None:
        """Take up that other cells answer now; those before still answer what they were given."""
        self._before = self._cells
        known = {cell: number for number, cell in self._cells.items()}
        self._cells = {}
        for gate in self.app.gates.values():
            if isinstance(gate, Cell):
                if gate not in known:
                    self._next_gate += 1
                self._cells[known.get(gate, self._next_gate)] = gate
        for place, process in self._processes.items():
            if not process.ended.done():
                process.tell_services(partial(self._services, place))

    def _services(self, place: int) -> tuple[bytes, list[int]]:
        told = []
        for number, cell in self._cells.items():
            first, rows = cell.rows.share_of(place)
            index = cell.folder.service.modality_index
            told.append(
                ServiceTold(
                    gate=number,
                    name=cell.wire.name,
                    wire=cell.wire,
                    layout=cell.arena.layout,
                    first_row=first,
                    rows=rows,
                    closed=cell.arena.fd < 0,
                    labels={mask: index.label(mask) for mask in index.every_set()},
                    padded=bool(cell.folder.service.buckets_of(index.members(index.all))),
                )
            )
        return encode_services(told), [cell.arena.fd for cell in self._cells.values() if cell.arena.fd >= 0]
