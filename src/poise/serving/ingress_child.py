"""The server's end of one ingress process: its jobs are put to the cells, and what becomes of them is told to it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from poise.domain.job import RefusalReason
from poise.errors import InternalError, WorkerError
from poise.ingress.child import ChildProcess
from poise.ingress.gate import Answered, PendingJob, Refused
from poise.protocol.codec import ReplyTerms
from poise.serving.cell import Cell
from poise.serving.ingress_link import Outbox
from poise.serving.ingress_messages import (
    Asked,
    Counted,
    Drained,
    FromIngress,
    JobAnswered,
    JobFailed,
    JobGivenUp,
    JobPlaced,
    JobRefused,
    JobTurnedAway,
    LabelsComing,
    Listening,
    Services,
    ToIngress,
    Unpacker,
    packets,
)
from poise.serving.intake import PlacedRequest

TRY_AGAIN_S = 0.005
HUNG_BEATS = 10
"""A process that listens and says nothing for so many beats is hung: it says something with each."""
START_BEATS = 60
"""The same of one that does not listen yet."""

log = logging.getLogger(__name__)

_NO_REPLY = ReplyTerms(None, (), own_terms=False)


class IngressOwner(Protocol):
    """Who has the cells, and answers what is not inference."""

    def cell(self, gate: int) -> Cell | None:
        """Return the cell of a number; None where it is long replaced."""

    def turned_away(self, message: JobTurnedAway) -> None:
        """Count a job that never came to its cell."""

    def labels_coming(self, cell: Cell, pending: PendingJob, message: LabelsComing) -> None:
        """Keep a job's answer for its labels."""

    def asked(self, message: Asked, tell: Callable[[ToIngress], None]) -> None:
        """Have another request than of inference answered."""

    def counted(self, message: Counted) -> None:
        """Add what a process counted."""

    def ended(self, process: IngressProcess, status: int) -> None:
        """Take up that a process is gone."""

    def rows_are_free(self, process: IngressProcess) -> None:
        """Take up that a process is gone, and no batch touches its rows any more."""


class IngressProcess(ChildProcess):
    """One process, from its start to its end. ``place``: its share of the rows, from 1 on; 0 is this process's."""

    def __init__(self, owner: IngressOwner, place: int, start: bytes, listener: socket.socket) -> None:
        self.place = place
        self.begun_s = time.monotonic()
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.replied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connections = self.bodies_bytes = 0
        self._silent_beats = 0
        self._owner = owner
        self._jobs: dict[int, tuple[Cell, PendingJob]] = {}
        self._unpacker: Unpacker[FromIngress] = Unpacker(FromIngress)
        self._outbox = Outbox(self._send)
        self._due: Callable[[], tuple[bytes, list[int]]] | None = None
        self.tell: Callable[[ToIngress], None] = self._outbox.tell
        super().__init__("poise.serving.ingress_process", start, (listener.fileno(),))

    def beat(self) -> None:
        """Take up that another beat has passed; end the process if it was silent for too many.

        Beats are counted, not time: those that this process sleeps through are nobody's fault.
        """
        self._silent_beats += 1
        if self._silent_beats == (HUNG_BEATS if self.listening.done() else START_BEATS):
            log.error("ingress process %d says nothing; it is ended", self.place)
            self.kill()

    def tell_services(self, told: Callable[[], tuple[bytes, list[int]]]) -> None:
        """Say what there is to serve. ``told`` returns the description, and the arenas, as they are when it is sent."""
        self._due = told
        self._send_due()

    def _send_due(self) -> None:
        """Send the latest services; files cannot wait in the queue, so where there is no room, this comes again."""
        if self._due is None or self.ended.done():
            return
        data, arenas = self._due()
        fd = os.memfd_create("poise-services", os.MFD_CLOEXEC)
        try:
            os.write(fd, data)
            (packet,) = packets([Services()])
            self.sent_bytes += socket.send_fds(self._control, [packet], [fd, *arenas])
            self._due = None
        except BlockingIOError:
            asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._send_due)
        except OSError:
            self._give_up()
        finally:
            os.close(fd)

    def _packet(self, data: bytes) -> None:
        self._silent_beats = 0
        for message in self._unpacker.take(data):
            try:
                self._take_up(message)
            except InternalError:
                raise
            except Exception:  # others in the packet are waited for
                log.exception(
                    "ingress process %d: %s could not be taken up", self.place, type(message).__name__
                )
                if isinstance(message, JobPlaced):
                    self._jobs.pop(message.number, None)
                    self.tell(JobFailed(message.number))

    def _take_up(self, message: FromIngress) -> None:
        if isinstance(message, JobPlaced):
            self._placed(message)
        elif isinstance(message, JobGivenUp):
            if message.number in self._jobs:
                cell, pending = self._jobs[message.number]
                cell.cancel(pending)
        elif isinstance(message, JobTurnedAway):
            self._owner.turned_away(message)
        elif isinstance(message, LabelsComing):
            if message.number in self._jobs:
                cell, pending = self._jobs[message.number]
                pending.outputs_wanted = True
                self._owner.labels_coming(cell, pending, message)
        elif isinstance(message, Asked):
            self._owner.asked(message, self.tell)
        elif isinstance(message, Counted):
            self.connections, self.bodies_bytes = message.connections, message.bodies_bytes
            self._owner.counted(message)
        elif isinstance(message, Drained) and not self.replied.done():
            self.replied.set_result(None)
        elif isinstance(message, Listening) and not self.listening.done():
            self.listening.set_result(None)

    def _placed(self, message: JobPlaced) -> None:
        cell = self._owner.cell(message.gate)
        if cell is None:
            self.tell(JobRefused(message.number, RefusalReason.DRAINING, "the service is draining"))
            return
        first, rows = cell.rows.share_of(self.place)
        if message.items < 1 or not first <= message.first_row <= first + rows - message.items:
            raise InternalError(f"ingress {self.place} placed a job in rows that are not its own")
        if message.number in self._jobs or message.slo_class not in cell.wire.classes:
            raise InternalError(f"ingress {self.place} placed a job that cannot be")
        taken = cell.admit(
            PlacedRequest(
                items=message.items,
                available=message.available,
                tensors=(),
                slo_class=message.slo_class,
                deadline_s=message.deadline_s,
                accuracy_floor=message.accuracy_floor,
                priority=message.priority,
                reply=_NO_REPLY,
                first_row=message.first_row,
                arrival_s=message.arrival_s,
                bucket=message.bucket,
            )
        )
        if isinstance(taken, Refused):
            self.tell(JobRefused(message.number, taken.reason, taken.detail))
            return
        self._jobs[message.number] = (cell, taken)
        taken.outputs_wanted = False
        if taken.outcome is None:
            taken.when_settled = partial(self._settled, message.number)
        else:
            self._settled(message.number, taken)

    def _settled(self, number: int, pending: PendingJob) -> None:
        del self._jobs[number]
        outcome = pending.outcome
        if isinstance(outcome, Answered):
            self.tell(JobAnswered(number, outcome.answer))
        elif isinstance(outcome, Refused):
            self.tell(JobRefused(number, outcome.reason, outcome.detail))
        else:
            self.tell(JobFailed(number))
        if self.ended.done() and not self._jobs:
            self._owner.rows_are_free(self)

    def _gone(self, status: int) -> None:
        self.ended.set_result(None)
        if not self.replied.done():
            self.replied.set_result(None)
        if not self.listening.done():
            self.listening.set_exception(
                WorkerError(f"ingress process {self.place} ended with status {status} as it began")
            )
            self.listening.exception()
        self.connections = self.bodies_bytes = 0
        self._owner.ended(self, status)
        for cell, pending in list(self._jobs.values()):
            cell.cancel(pending)
        if not self._jobs:
            self._owner.rows_are_free(self)
