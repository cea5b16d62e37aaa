"""An ingress process's end of the socket to the cell's process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence

from poise.errors import InternalError
from poise.ingress.child_end import MAX_PACKET_BYTES
from poise.serving.ingress_messages import FromIngress, ToIngress, Unpacker, packets

MAX_FILES = 250
"""So many files may come with a packet; the kernel's own limit is 253."""

log = logging.getLogger(__name__)


class Outbox:
    """Gathers what is said in one turn of the event loop, and sends it together at its end."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._messages: list[ToIngress | FromIngress] = []
        self._loop = asyncio.get_running_loop()

    def tell(self, message: ToIngress | FromIngress) -> None:
        """Say something; it goes out soon, after all that was said before."""
        self._messages.append(message)
        if len(self._messages) == 1:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what waits now."""
        messages, self._messages = self._messages, []
        if messages:
            for packet in packets(messages):
                self._send(packet)


class IngressLink:
    """The socket. ``on_message`` is given each message, and the files that came with it, which are then its own."""

    def __init__(
        self,
        control: socket.socket,
        on_message: Callable[[ToIngress, Sequence[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        """Begin to listen. ``on_end`` is called once, when nobody is at the other end any more."""
        control.setblocking(False)
        self._control = control
        self._on_message = on_message
        self._on_end = on_end
        self._unpacker: Unpacker[ToIngress] = Unpacker(ToIngress)
        self._outbox = Outbox(self._send)
        self._unsent: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control.fileno(), self._readable)
        self.tell: Callable[[FromIngress], None] = self._outbox.tell

    def flush(self) -> None:
        """Send what waits to be said, as far as there is room for it."""
        self._outbox.flush()

    def _send(self, data: bytes) -> None:
        if self._unsent or not self._sent(data):
            if not self._unsent:
                self._loop.add_writer(self._control.fileno(), self._writable)
            self._unsent.append(data)

    def _sent(self, data: bytes) -> bool:
        try:
            self._control.send(data)
        except BlockingIOError:
            return False
        except OSError:
            self._end()
        return True

    def _writable(self) -> None:
        while self._unsent and self._sent(self._unsent[0]):
            self._unsent.popleft()
        if not self._unsent:
            self._loop.remove_writer(self._control.fileno())

    def _readable(self) -> None:
        while True:
            try:
                data, files, _, _ = socket.recv_fds(self._control, MAX_PACKET_BYTES, MAX_FILES)
            except BlockingIOError:
                return
            except OSError:
                data, files = b"", []
            if not data:
                self._end()
                return
            try:
                messages = self._unpacker.take(data)
            except InternalError:
                self._end()
                return
            for message in messages:
                try:
                    self._on_message(message, files)
                except Exception:  # others in the packet are waited for
                    log.exception("what the server says could not be taken up: %s", type(message).__name__)

    def _end(self) -> None:
        self._loop.remove_reader(self._control.fileno())
        self._on_end()
