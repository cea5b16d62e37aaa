"""A process that the server starts: how it is spoken to, and seen to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence

from poise.errors import InternalError
from poise.serving.messages import MAX_PACKET_BYTES

END_LIMIT_S = 1.0
"""How long a process that has closed its socket may take to end by itself."""


class ChildProcess(ABC):
    """One process, from its start to its end, with a socket to it that keeps packets whole.

    It is given, as its first arguments, the numbers of three file descriptors: its end of the socket, the arena, and
    a memory file that holds ``start``; then ``arguments``.

    Units: ``sent_bytes`` and ``received_bytes`` count what went over the socket.

    Raises:
        OSError: no memory, or no more processes.
    """

    def __init__(self, module: str, start: bytes, arena_fd: int, arguments: Sequence[str] = ()) -> None:
        self.sent_bytes = self.received_bytes = 0
        self._last_words: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        try:
            start_fd = _memory_file(start)
            fds = (theirs.fileno(), arena_fd, start_fd)
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
        """Send a packet; a process that cannot take it is ended."""
        try:
            self.sent_bytes += self._control.send(data)
        except OSError:
            self.kill()

    @abstractmethod
    def _packet(self, data: bytes) -> None:
        """Take up a packet; one that raises ``InternalError`` ends the process."""

    @abstractmethod
    def _gone(self, status: int) -> None:
        """Take up that the process is really gone, once; all it sent has been taken up before."""

    def _readable(self) -> None:
        while True:
            try:
                data = self._control.recv(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
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
        self._control.close()
        self._gone(self._process.returncode)


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("poise-start", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd
