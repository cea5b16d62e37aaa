"""What a client's call may raise, beside what a request may be told by any server.

PoiseError
├── RequestError          the request got no answer; by its class, why: see poise.errors
│   └── RefusedError      it was taken up as a job, and refused for a reason
├── ServerFailedError     the server's fault: an internal error, or no answer of the protocol
└── NoAnswerError         nothing came back: no connection, one that was lost, or no answer in time

The texts are fit to be shown.
"""

from __future__ import annotations

from typing import Final

from poise.errors import PoiseError, RequestError


class RefusedError(RequestError):
    """The server took a job up and did not answer it.

    ``reason`` is one word, a ``RefusalReason`` of the protocol's table; ``status`` the HTTP status that came with it.
    429 and 503 may be tried again elsewhere; 504 says that the deadline cannot be met, often long before it.
    """

    def __init__(self, message: str, *, reason: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.reason: Final = reason
        self.status: Final = status


class ServerFailedError(PoiseError):
    """The server failed, or what answered is no server of the protocol. ``status`` is HTTP's."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status: Final = status


class NoAnswerError(PoiseError):
    """Nothing came back. ``sent``: the request, or a part of it, had gone out, so the server may have acted on it."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent: Final = sent


def reason_of(error: Exception) -> str:
    """Return what an error of the system says, in words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
