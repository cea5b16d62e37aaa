"""What both ends of a child process know, and what its own end does first.

Only the standard library is imported: see ``serving.worker`` for why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from typing import NoReturn

MAX_PACKET_BYTES = 128 * 1024
"""Below every system's default buffer of a Unix socket."""

SERVERS_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal, or a service manager, sends to all processes of a server; a child begins with them held back."""

_PR_SET_PDEATHSIG = 1


def leave_signals_to_the_server() -> None:
    """Ignore what a terminal sends to all, also what it sent already: the server decides when this process ends."""
    for number in SERVERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SERVERS_SIGNALS)


def die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def read_memory_file(fd: int) -> bytes:
    """Return all that a memory file holds, and close it."""
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()


def leave(status: int | str | None) -> NoReturn:
    """End the process; at once, and without taking the interpreter apart, where a daemon thread still runs.

    A thread that comes back from C++ then, from the solver or out of a service's own code, has no interpreter to come
    back to: CPython ends it by unwinding its stack, and a C++ frame that catches everything makes that an abort.
    """
    if isinstance(status, str) or not any(thread.daemon for thread in threading.enumerate()):
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it was closed before this process began
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
    os._exit(status or 0)
