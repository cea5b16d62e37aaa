"""Bodies that are compressed, with a cap on what they may become."""

from __future__ import annotations

import zlib
from typing import Literal

from poise.errors import MalformedRequestError, TooLargeError, UnknownEncodingError

Encoding = Literal["gzip", "deflate"]
ENCODINGS: tuple[Encoding, ...] = ("gzip", "deflate")

_GZIP = 16 + zlib.MAX_WBITS
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
    raise UnknownEncodingError("got a Content-Encoding that is not known, expected gzip, deflate or identity")


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


def inflate(encoding: Encoding, data: bytes | bytearray | memoryview, limit: int) -> bytes:
    """Return a compressed body's content, of ``limit`` bytes at most.

    ``deflate`` may come with zlib's frame, as the standard says, or without, as some clients send it.

    Raises:
        TooLargeError: it would become larger; no more than ``limit`` is ever held.
        MalformedRequestError: it is damaged, cut short, or something follows it.
    """
    bits = _GZIP if encoding == "gzip" else zlib.MAX_WBITS
    if encoding == "deflate" and not _has_zlib_frame(data):
        bits = -zlib.MAX_WBITS
    machine = zlib.decompressobj(bits)
    try:
        content = machine.decompress(data, limit + 1)
    except zlib.error:
        raise MalformedRequestError(f"the body is damaged, expected {encoding}") from None
    if len(content) > limit:
        raise TooLargeError(f"got a body of more than {limit} bytes when inflated, expected at most {limit}")
    if not machine.eof:
        raise MalformedRequestError(f"the body is cut short, expected whole {encoding}")
    if machine.unused_data:
        raise MalformedRequestError(f"something follows the compressed body, expected one {encoding} stream")
    return content


def deflate(encoding: Encoding, content: bytes) -> bytes:
    """Return content compressed."""
    machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP if encoding == "gzip" else zlib.MAX_WBITS)
    return machine.compress(content) + machine.flush()


def _has_zlib_frame(data: bytes | bytearray | memoryview) -> bool:
    return len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
