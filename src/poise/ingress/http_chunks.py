"""A body in chunks, taken apart (RFC 9112, 7.1), with what surrounds the chunks bounded.

httptools could do this too, but it keeps a trailer of any length, and runs on into the request that follows.
"""

from __future__ import annotations

from enum import Enum, auto

from poise.errors import MalformedRequestError, TooLargeError

LINE_BYTES = 256
"""A chunk's size line may be so long, its extensions included; these are read over, as the standard says."""
TRAILER_BYTES = 8 * 2**10
"""All trailers together; they are read over too, and change nothing of what the head said."""
PIECES_AT_ONCE = 64
"""So many chunks are looked at before others get their turn."""

_DIGITS = frozenset(b"0123456789abcdefABCDEF")
_MOST_DIGITS = 12
_END = b"\r\n"


class _Part(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    COMPLETE = auto()


class ChunkedBody:
    """What there is of a body in chunks. ``content`` grows up to ``limit_bytes``."""

    __slots__ = ("_left", "_limit_bytes", "_line", "_part", "_trailers_bytes", "content")

    def __init__(self, limit_bytes: int) -> None:
        self.content = bytearray()
        self._limit_bytes = limit_bytes
        self._part = _Part.SIZE
        self._left = 0
        self._line = b""
        self._trailers_bytes = 0

    @property
    def complete(self) -> bool:
        """Whether the last chunk and what belongs to it were there."""
        return self._part is _Part.COMPLETE

    def feed(self, data: bytes | bytearray, at: int, end: int) -> int:
        """Take up data from ``at`` on; return how far: not to the end where the body ends or is in many pieces.

        Raises:
            MalformedRequestError: these are no chunks.
            TooLargeError: the content is longer than its limit.
        """
        for _ in range(PIECES_AT_ONCE):
            if at == end or self._part is _Part.COMPLETE:
                break
            if self._part is _Part.DATA:
                step = min(self._left, end - at)
                self.content += memoryview(data)[at : at + step]
                self._left -= step
                at += step
                if self._left == 0:
                    self._part = _Part.DATA_END
            else:
                at = self._take_line(data, at, end)
        return at

    def _take_line(self, data: bytes | bytearray, at: int, end: int) -> int:
        most = {_Part.SIZE: LINE_BYTES, _Part.DATA_END: 0}.get(self._part, TRAILER_BYTES) + len(_END)
        # The end may lie in both: half of it at the end of what is kept, half here.
        window = self._line + data[at : min(end, at + most - len(self._line))]
        found = window.find(_END)
        if found < 0:
            if len(window) >= most:
                raise MalformedRequestError("expected a body in chunks, as the head of the request said")
            self._line = bytes(window)
            return end
        taken = found + len(_END) - len(self._line)
        self._line = b""
        self._line_ended(bytes(window[:found]))
        return at + taken

    def _line_ended(self, line: bytes) -> None:
        if b"\n" in line or b"\r" in line:
            raise MalformedRequestError("got a bare line feed or return between chunks, expected both")
        if self._part is _Part.SIZE:
            self._left = _size(line)
            self._part = _Part.DATA if self._left else _Part.TRAILER
            if len(self.content) + self._left > self._limit_bytes:
                raise TooLargeError(
                    f"got a body of more than {self._limit_bytes} bytes, expected at most so many"
                )
        elif self._part is _Part.DATA_END:
            if line:
                raise MalformedRequestError("got more in a chunk than its size, expected its end")
            self._part = _Part.SIZE
        elif line:
            self._trailers_bytes += len(line)
            if self._trailers_bytes > TRAILER_BYTES:
                raise MalformedRequestError("got too many trailers, expected none")
        else:
            self._part = _Part.COMPLETE


def _size(line: bytes) -> int:
    digits, _, _ = line.partition(b";")
    digits = digits.rstrip(b" \t")
    if not 0 < len(digits) <= _MOST_DIGITS or not _DIGITS.issuperset(digits):
        raise MalformedRequestError("got no size of a chunk, expected hexadecimal digits")
    return int(digits, 16)
