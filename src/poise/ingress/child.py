"""A process that the server starts: how it is spoken to, and seen to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from poise.errors import InternalError
from poise.ingress.child_end import MAX_PACKET_BYTES, SERVERS_SIGNALS

END_LIMIT_S = 1.0
"""How long a process that has closed its socket may take to end by itself."""
MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""A process that leaves more than this waiting to be taken is hung."""

log = logging.getLogger(__name__)


class ChildProcess(ABC):
    """One process, from its start to its end, with a socket to it that keeps packets whole.

    It is given, as its first arguments, the numbers of file descriptors: its end of the socket, those of ``shared``,
    and a memory file that holds ``start``; then ``arguments``.

    Units: ``sent_bytes`` and ``received_bytes`` count what went over the socket. ``untaken``: it ended, or its end was
    found out, before it took the last packet.

    Raises:
        OSError: no memory, or no more processes.
    """

    def __init__(
        self, module: str, start: bytes, shared: Sequence[int] = (), arguments: Sequence[str] = ()
    ) -> None:
        self.sent_bytes = self.received_bytes = 0
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self.untaken = False
        self._given_up = False
        self._last_words: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        try:
            start_fd = _memory_file(start)
            fds = (theirs.fileno(), *shared, start_fd)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SERVERS_SIGNALS)
            try:
                # From the loop's own thread: a process dies with the thread that started it.
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",  # nothing is imported from wherever the server was started
                        "-m",
                        module,
                        *(str(fd) for fd in fds),
                        *arguments,
                    ],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # stdout is for what the command prints
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                os.close(start_fd)
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._control.fileno(), self._readable)
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once; ``_gone`` follows."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _send(self, data: bytes) -> None:
        """Send a packet, after those that wait; where there is no room it waits. A process that is hung is ended."""
        sent = not (self._unsent or self._given_up) and self._sent(data)
        if sent or self._given_up:
            return
        if self._unsent_bytes + len(data) > MAX_UNSENT_BYTES:
            log.error(
                "process %d is hung: it takes no messages, and %d bytes wait for it; it is ended",
                self.pid,
                self._unsent_bytes,
            )
            self._give_up()
            return
        if not self._unsent:
            self._loop.add_writer(self._control.fileno(), self._writable)
        self._unsent.append(data)
        self._unsent_bytes += len(data)

    def _send_with(self, data: bytes, fds: Sequence[int]) -> None:
        """Send a packet with files. It never waits: for processes that answer before they get the next."""
        try:
            self.sent_bytes += socket.send_fds(self._control, [data], fds)
        except OSError:
            self._give_up()

    @abstractmethod
    def _packet(self, data: bytes) -> None:
        """Take up a packet; one that raises ``InternalError`` ends the process."""

    @abstractmethod
    def _gone(self, status: int) -> None:
        """Take up that the process is really gone, once; all it sent has been taken up before."""

    def _sent(self, data: bytes) -> bool:
        """Send a packet now, if there is room for it; a process that can never take it is ended."""
        try:
            self.sent_bytes += self._control.send(data)
        except BlockingIOError:  # it reads more slowly than is written, or has not begun to
            return False
        except OSError:
            self.untaken = True
            self._give_up()
            return False
        return True

    def _writable(self) -> None:
        while self._unsent and self._sent(self._unsent[0]):
            self._unsent_bytes -= len(self._unsent.popleft())
        if not self._unsent and not self._given_up:
            self._loop.remove_writer(self._control.fileno())

    def _give_up(self) -> None:
        """Send nothing any more, and end the process."""
        self._forget_unsent()
        self.kill()

    def _forget_unsent(self) -> None:
        self._given_up = True
        self.untaken |= bool(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if self._control.fileno() >= 0:
            self._loop.remove_writer(self._control.fileno())

    def _readable(self) -> None:
        while True:
            try:
                data = self._control.recv(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:  # what it sent before may still be there
                self.untaken = True
                continue
            except OSError:
                data = b""
            if not data:
                # Nothing more can be said to it. Most likely it is just ending; if not, it is of no use.
                self._loop.remove_reader(self._control.fileno())
                self._last_words = self._loop.call_later(END_LIMIT_S, self.kill)
                return
            self.received_bytes += len(data)
            try:
                self._packet(data)
            except InternalError:
                self.kill()
                return

    def _ended(self) -> None:
        if self._process.poll() is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._last_words is None:
            self._readable()
        if self._last_words is not None:
            self._last_words.cancel()
        self._loop.remove_reader(self._control.fileno())
        self._forget_unsent()
        self._control.close()
        self._gone(self._process.returncode)


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("poise-start", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd
