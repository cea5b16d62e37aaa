"""Bodies that are compressed, with a cap on what they may become."""

from __future__ import annotations

import zlib
from typing import Literal

from poise.errors import MalformedRequestError, TooLargeError, UnknownEncodingError
from poise.protocol.requests import shown

Encoding = Literal["gzip", "deflate"]
ENCODINGS: tuple[Encoding, ...] = ("gzip", "deflate")

_GZIP = 16 + zlib.MAX_WBITS
_WINDOW_BYTES = 64 * 2**10
_LEVEL = 1
"""Tensors hardly shrink more at a higher one, and cost many times as much."""


def encoding_of(header: bytes | None) -> Encoding | None:
    """Return what a ``Content-Encoding`` header says; None where the body is as it is.

    Raises:
        UnknownEncodingError: another encoding, or several.
    """
    name = b"" if header is None else header.strip().lower()
    if name in (b"", b"identity"):
        return None
    for encoding in ENCODINGS:
        if name == encoding.encode():
            return encoding
    given = shown(name.decode("latin-1"))
    raise UnknownEncodingError(f"Content-Encoding: got {given}, expected gzip, deflate or identity")


def accepted_encoding(header: bytes | None) -> Encoding | None:
    """Return the encoding that an ``Accept-Encoding`` header prefers of those there are; None for none.

    A weight of 0 forbids one; other weights do not matter, as gzip and deflate are the same but for their frame.
    """
    if header is None:
        return None
    offered = {}
    for part in header.decode("latin-1").lower().split(","):
        name, _, weight = part.partition(";")
        offered[name.strip()] = weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    for encoding in ENCODINGS:
        if offered.get(encoding):
            return encoding
    return None


class Inflater:
    """Inflates a body a piece at a time, to ``limit`` bytes at most.

    ``deflate`` may come with zlib's frame, as the standard says, or without, as some clients send it.
    """

    def __init__(self, encoding: Encoding, data: bytes | bytearray | memoryview, limit: int) -> None:
        bits = _GZIP if encoding == "gzip" else zlib.MAX_WBITS
        if encoding == "deflate" and not _has_zlib_frame(data):
            bits = -zlib.MAX_WBITS
        self._machine = zlib.decompressobj(bits)
        self._encoding = encoding
        self._data = memoryview(data)
        self._limit = self._left = limit
        self._at = 0
        self._rest = b""

    @property
    def complete(self) -> bool:
        """Whether all of the body is inflated."""
        return self._machine.eof

    def piece(self, most: int) -> bytes:
        """Return what comes next, of ``most`` bytes at most.

        Raises:
            TooLargeError: the body would become larger than ``limit``.
            MalformedRequestError: it is damaged, cut short, or something follows it.
        """
        found = []
        wanted = most = min(most, self._left + 1)
        while wanted and not self._machine.eof:
            exhausted = not self._rest and self._at >= len(self._data)
            try:
                part = self._machine.decompress(self._rest or self._next(), wanted)
            except zlib.error:
                raise MalformedRequestError(f"the body is damaged, expected {self._encoding}") from None
            self._rest = self._machine.unconsumed_tail
            if exhausted and not part and not self._machine.eof:
                raise MalformedRequestError(f"the body is cut short, expected whole {self._encoding}")
            found.append(part)
            wanted -= len(part)
        self._left -= most - wanted
        if self._left < 0:
            raise TooLargeError(
                f"got a body of more than {self._limit} bytes when inflated, expected at most {self._limit}"
            )
        if self._machine.eof and (self._machine.unused_data or self._at < len(self._data)):
            raise MalformedRequestError(
                f"something follows the compressed body, expected one {self._encoding} stream"
            )
        return b"".join(found)

    def _next(self) -> memoryview:
        """Return some more of the body: zlib copies what it does not come to."""
        begin, self._at = self._at, self._at + _WINDOW_BYTES
        return self._data[begin : self._at]


def inflate(encoding: Encoding, data: bytes | bytearray | memoryview, limit: int) -> bytes:
    """Return a compressed body's content, of ``limit`` bytes at most.

    Raises:
        TooLargeError: it would become larger; no more than ``limit`` is ever held.
        MalformedRequestError: it is damaged, cut short, or something follows it.
    """
    inflater = Inflater(encoding, data, limit)
    found = []
    while not inflater.complete:
        found.append(inflater.piece(limit + 1))
    return b"".join(found)


def deflate(encoding: Encoding, content: bytes) -> bytes:
    """Return content compressed."""
    machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP if encoding == "gzip" else zlib.MAX_WBITS)
    return machine.compress(content) + machine.flush()


def _has_zlib_frame(data: bytes | bytearray | memoryview) -> bool:
    return len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
