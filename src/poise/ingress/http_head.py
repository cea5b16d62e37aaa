"""A request's head: its bytes, to what they say.

httptools (llhttp) reads it, strictly: no bare line feeds, no folded lines, no second length, no length beside chunks.
What servers and the proxies before them may read in different ways, and llhttp lets pass, is refused here.
"""

from __future__ import annotations

from typing import Any

import httptools

from poise.ingress.limits import Limits
from poise.ingress.routes import Reply, error_reply

ONCE = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"host",
        b"inference-header-content-length",
        b"origin",
        b"transfer-encoding",
    )
)
"""Headers that a request may have once: of two, a proxy may have checked the other one."""
HEAD_TOO_LONG = error_reply(431, "the head of the request is too long", close=True)
VERSIONS = (b" HTTP/1.1", b" HTTP/1.0")
REMEMBERED_BYTES = 2 * 2**10
"""A longer head is read anew each time."""


class Head:
    """What a head says. ``headers`` have lower-case names; ``length`` is None for a body in chunks."""

    __slots__ = ("complete", "count", "headers", "keep_alive", "length", "method", "repeated", "target")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.length: int | None = 0
        self.keep_alive = False
        self.count = 0
        self.repeated = b""
        self.complete = False

    def on_url(self, target: bytes) -> None:
        """Take up a part of the request's target; httptools calls this."""
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take up a header; httptools calls this."""
        name = name.lower()
        self.count += 1
        if name in self.headers and name in ONCE:
            self.repeated = name
        self.headers[name] = value

    def on_headers_complete(self) -> None:
        """Note that the head was whole; httptools calls this."""
        self.complete = True


class Heads:
    """Reads the heads of one connection. Most clients send the same bytes again and again, which say the same."""

    __slots__ = ("_bytes", "_head", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = b""
        self._head: Head | None = None

    def read(self, data: bytes | bytearray, at: int, end: int) -> Head | Reply:
        """Return what the head between two places says, or how it is refused. A head belongs to all who said it."""
        if self._head is not None and end - at == len(self._bytes) and data.startswith(self._bytes, at):
            return self._head
        view = memoryview(data)[at:end]
        head = parse_head(view, self._limits)
        if isinstance(head, Head) and len(view) <= REMEMBERED_BYTES:
            self._bytes, self._head = bytes(view), head
        return head


def parse_head(data: memoryview, limits: Limits) -> Head | Reply:
    """Return what a head says, or how it is refused; where the request ends is not known then."""
    if len(data) > limits.head_bytes:
        return HEAD_TOO_LONG
    head = Head()
    parser: Any = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # not offered: the request is answered as any other
    except httptools.HttpParserError:
        return _refused(400, "expected HTTP/1.1")
    # httptools takes RTSP/1.0 for HTTP/1.0, and other versions for what they say
    line, _, _ = bytes(data).lstrip(b"\r\n").partition(b"\r\n")
    if not head.complete or not line.endswith(VERSIONS):
        return _refused(400, "expected HTTP/1.1")
    if head.count > limits.headers:
        return _refused(431, "the request has too many headers")
    if head.repeated:
        return _refused(400, f"got header {head.repeated.decode()} twice, expected it once")
    if b"host" not in head.headers and line.endswith(VERSIONS[0]):
        return _refused(400, "got no header host, expected one, as HTTP/1.1 wants it")
    head.method = parser.get_method().decode("latin-1")
    head.keep_alive = parser.should_keep_alive()
    coding = head.headers.get(b"transfer-encoding")
    if coding is None:
        head.length = int(head.headers.get(b"content-length", b"0"))
    elif coding.strip().lower() == b"chunked" and line.endswith(VERSIONS[0]):
        head.length = None
    else:
        return _refused(400, "got another Transfer-Encoding, expected chunked, and that in HTTP/1.1 only")
    return head


def _refused(code: int, words: str) -> Reply:
    return error_reply(code, words, close=True)
