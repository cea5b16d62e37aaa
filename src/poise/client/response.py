"""An HTTP response out of the bytes of a connection. No sockets here."""

from __future__ import annotations

import ssl
from typing import Any

import httptools
import msgspec


class Response(msgspec.Struct, frozen=True):
    """A response. ``header_length``: the size of the JSON before binary tensors; None where there are none.

    ``reusable``: the connection may carry another request.
    """

    status: int
    body: bytes
    header_length: int | None
    reusable: bool


class BrokenResponseError(Exception):
    """What came is not HTTP, or was cut short."""


class ClosedError(BrokenResponseError):
    """The connection was closed before a response was whole."""

    def __init__(self) -> None:
        super().__init__("the connection was closed")


class ResponseReader:
    """Reads one response; a connection has one for each."""

    def __init__(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._header_length: int | None = None
        self._begun = False
        self._until_close = True
        self._in_body = False
        self._more = False
        self._response: Response | None = None

    @property
    def begun(self) -> bool:
        """Whether anything has come."""
        return self._begun

    def feed(self, data: bytes) -> Response | None:
        """Take up bytes; return the response once it is whole. Where more follows, the connection is of no more use.

        Raises:
            BrokenResponseError: not HTTP.
        """
        self._begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._response is None:
                raise BrokenResponseError(str(error)) from None
            self._more = True
        if self._response is not None and self._more:
            return msgspec.structs.replace(self._response, reusable=False)
        return self._response

    def end(self) -> Response:
        """Take up that the connection has ended; return the response that ends with it.

        Raises:
            ClosedError: it was not whole.
        """
        if not (self._in_body and self._until_close):
            raise ClosedError
        return self._whole(reusable=False)

    def _whole(self, *, reusable: bool) -> Response:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        return Response(self._parser.get_status_code(), body, self._header_length, reusable)

    # What httptools calls

    def on_message_begin(self) -> None:
        """Take up the beginning of a response, which may be one that nobody asked for."""
        self._more = self._response is not None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take up a header."""
        lower = name.lower()
        if lower == b"inference-header-content-length" and value.isdigit():
            self._header_length = int(value)
        elif lower in (b"content-length", b"transfer-encoding"):
            self._until_close = False

    def on_headers_complete(self) -> None:
        """Take up the end of the head."""
        self._in_body = self._parser.get_status_code() >= 200

    def on_body(self, data: bytes) -> None:
        """Take up a piece of the body."""
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """Take up the end of the response, or of one that only announces it (1xx)."""
        if self._parser.get_status_code() >= 200:
            self._response = self._whole(reusable=self._parser.should_keep_alive())  # only known here


def hint_at(error: Exception, *, tls: bool) -> str:
    """Return what may be the matter where a connection ended before anything came on it; empty for other errors."""
    ended = isinstance(error, ClosedError | ConnectionResetError | BrokenPipeError | ssl.SSLEOFError)
    if tls and (ended or getattr(error, "reason", None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"):
        return "; does it ask for a certificate (--cert, --key)?"
    return "; does it speak TLS (https)?" if ended else ""
