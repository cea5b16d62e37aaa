"""Who may ask for what: the one layer of authentication, in front of every route of both protocols."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec

from poise.errors import ForbiddenError, UnauthorizedError
from poise.protocol.codec import shown

_SCHEME = "bearer "
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Identity(msgspec.Struct, frozen=True):
    """Who sent a request, as far as its token says. ``classes`` None: all; ``admin``: may change the server's state."""

    name: str
    classes: frozenset[str] | None = None
    admin: bool = True


EVERYBODY = Identity("")
"""Who asks where there are no tokens."""


class Token(msgspec.Struct, frozen=True):
    """A token, kept as its SHA-256, and whom it stands for."""

    digest: bytes
    identity: Identity

    @classmethod
    def of(cls, secret: str, identity: Identity) -> Token:
        """Return the token of a secret."""
        return cls(sha256(secret.encode()).digest(), identity)


class Guard:
    """Decides on requests before anything else looks at them.

    ``tokens`` None: nobody needs one. ``origins`` are the web pages, besides those of this machine, whose scripts may
    change the server's state: ``https://host[:port]``.
    """

    def __init__(self, tokens: Sequence[Token] | None = None, origins: Sequence[str] = ()) -> None:
        self._tokens = None if tokens is None else tuple(tokens)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def replace(self, tokens: Sequence[Token] | None) -> None:
        """Have other tokens in the place of all, from the next request on."""
        self._tokens = None if tokens is None else tuple(tokens)

    @property
    def tokens(self) -> tuple[Token, ...] | None:
        """The tokens that let somebody in; None where nobody needs one."""
        return self._tokens

    @property
    def open(self) -> bool:
        """Whether nobody needs a token."""
        return self._tokens is None

    def identify(self, authorization: str | None) -> Identity:
        """Return who sends an ``Authorization`` header.

        Every token is compared, in a time that does not depend on how much of one is right.

        Raises:
            UnauthorizedError: a token is needed, and this is none of them.
        """
        if self._tokens is None:
            return EVERYBODY
        found = None
        if authorization is not None and authorization[: len(_SCHEME)].lower() == _SCHEME:
            secret = authorization[len(_SCHEME) :].strip()
            digest = sha256(secret.encode("utf-8", "surrogateescape")).digest()
            for token in self._tokens:
                if hmac.compare_digest(token.digest, digest):
                    found = token.identity
        if found is None:
            raise UnauthorizedError("got no valid token, expected the header Authorization: Bearer TOKEN")
        return found

    def check_origin(self, origin: str | None) -> None:
        """Refuse a request that a web page of somebody else makes in its visitor's name.

        Browsers send ``Origin`` with whatever may change a state; programs do not. A page that was served under another
        name for this machine (DNS rebinding) has that name as its origin.

        Raises:
            ForbiddenError: an origin that is neither of this machine nor among those allowed.
        """
        if origin is None or origin.lower().rstrip("/") in self._origins:
            return
        try:
            host = urlsplit(origin).hostname
        except ValueError:
            host = None
        if host not in _LOOPBACK:
            raise ForbiddenError(
                f"got a request of a web page from origin {shown(origin)}, expected one from this machine, or from "
                "an origin that the server allows (--origin)"
            )


def check_class(identity: Identity, slo_class: str) -> None:
    """Refuse a job of a class that a token is not bound to.

    Raises:
        ForbiddenError: such a class.
    """
    if identity.classes is not None and slo_class not in identity.classes:
        raise ForbiddenError(f"this token may not send jobs of class {slo_class!r}")


def check_admin(identity: Identity) -> None:
    """Refuse whoever may not change the server's state.

    Raises:
        ForbiddenError: such an identity.
    """
    if not identity.admin:
        raise ForbiddenError("this token may not change the server's state")
