"""What both ends of a child process know, and what its own end does first.

Only the standard library is imported: see ``serving.worker`` for why.
"""

from __future__ import annotations

import ctypes
import signal

MAX_PACKET_BYTES = 128 * 1024
"""Below every system's default buffer of a Unix socket."""

_PR_SET_PDEATHSIG = 1


def leave_signals_to_the_server() -> None:
    """Ignore what a terminal sends to all: the server decides when this process ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def read_memory_file(fd: int) -> bytes:
    """Return all that a memory file holds, and close it."""
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()
