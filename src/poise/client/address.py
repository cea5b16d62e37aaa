"""Where a server is, as a URL says it."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

import msgspec

from poise.errors import ConfigError


class Endpoint(msgspec.Struct, frozen=True):
    """A server's root: where to connect, and what its paths start with."""

    host: str
    port: int
    tls: bool
    root: str

    @property
    def authority(self) -> str:
        """Host and port as the ``Host`` header and a URL have them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The root as a URL."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.root}"


def parse_url(url: str) -> Endpoint:
    """Return the endpoint of a URL; its path is the server's root.

    Raises:
        ConfigError: not an http or https URL with a host.
    """
    expected = "a URL such as http://localhost:8000"
    if not isinstance(url, str):
        raise ConfigError(f"got a URL of type {type(url).__name__}", expected=expected)
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
        (parts.hostname or "").encode("idna")  # as the system's resolver does: no label too long, none empty
    except ValueError:  # UnicodeError is one
        raise ConfigError(f"got URL {url!r}", expected=expected) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"got URL {url!r}", expected=expected)
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ConfigError(f"got URL {url!r}", expected=expected)
    if port == 0:
        raise ConfigError(f"got URL {url!r}", expected="a port that a server can have, from 1 to 65535")
    tls = parts.scheme == "https"
    return Endpoint(parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


def tls_of(endpoint: Endpoint, given: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """Return how to speak TLS with an endpoint; None where it is not spoken.

    Raises:
        ConfigError: settings of TLS for an endpoint without.
    """
    if not endpoint.tls:
        if given is not None:
            raise ConfigError(f"got settings of TLS for {endpoint.url}", expected="an https URL")
        return None
    return given or ssl.create_default_context()


def head_of(endpoint: Endpoint, token: str | None) -> bytes:
    """Return the headers that every request has.

    Raises:
        ConfigError: a token that a header cannot carry.
    """
    lines = f"Host: {endpoint.authority}\r\n"
    if token is not None:
        lines += f"Authorization: Bearer {checked_token(token)}\r\n"
    return lines.encode("ascii")


def checked_token(token: object) -> str:
    """Return a token that a header can carry.

    Raises:
        ConfigError: another one.
    """
    if isinstance(token, str) and token and token.isascii() and token.isprintable() and " " not in token:
        return token
    raise ConfigError("got a token that no header can carry", expected="printable ASCII, no spaces")
