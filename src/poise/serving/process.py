"""The server's end of one worker process: how it is started, spoken to, and seen to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from poise.errors import InternalError
from poise.serving.messages import (
    MAX_PACKET_BYTES,
    FromWorker,
    Start,
    ToWorker,
    decode_from_worker,
    encode,
)

END_LIMIT_S = 1.0
"""How long a worker that has closed its socket may take to end by itself."""


class WorkerProcess:
    """One process, from its start to its end; a worker that is started again is another one.

    ``on_message`` is called for each message, ``on_exit`` once, when the process is really gone: from then on
    nothing can touch the arena in its name. Messages sent before the end are delivered before ``on_exit``.
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
    ) -> None:
        self.worker_id = worker_id
        self.cores = tuple(cores)
        self._last_words: asyncio.TimerHandle | None = None
        self.sent_bytes = self.received_bytes = 0
        self._on_message = on_message
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        start_fd = _memory_file(encode(start))
        fds = (theirs.fileno(), arena_fd, start_fd)
        try:
            # From the loop's own thread: a worker dies with the thread that started it.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # nothing is imported from wherever the server was started
                    "-m",
                    "poise.serving.worker",
                    *(str(fd) for fd in fds),
                    ",".join(str(core) for core in cores),
                ],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout is for what the command prints
            )
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
            os.close(start_fd)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._control.fileno(), self._readable)
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Send a message; a worker that cannot take it is ended, and ``on_exit`` follows."""
        data = encode(message)
        try:
            self.sent_bytes += self._control.send(data)
        except OSError:
            self.kill()

    def kill(self) -> None:
        """End the process at once; ``on_exit`` follows."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

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
                message = decode_from_worker(data)
            except InternalError:
                self.kill()
                return
            self._on_message(self, message)

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
        self._on_exit(self, self._process.returncode)


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("poise-start", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd
