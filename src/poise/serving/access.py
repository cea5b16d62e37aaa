"""Who may ask a server: tokens and certificates, read at its start and at every reload."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from poise.errors import ConfigError
from poise.ingress.guard import Guard, Token
from poise.ingress.tls import Tls
from poise.serving.changes import ServerChanges


class Told(msgspec.Struct, frozen=True):
    """What the server file says now: the tokens that let clients in, and which fields hold from the next start only.

    ``tokens`` None: nobody needs one.
    """

    tokens: tuple[Token, ...] | None = None
    next_start: tuple[str, ...] = ()


ReadTokens = Callable[[], Told]
"""Reads the tokens that let clients in."""


class Access(msgspec.Struct, frozen=True):
    """Who may ask, and how that is read anew. ``outside``: other machines can reach the server."""

    guard: Guard
    read_tokens: ReadTokens
    tls: Tls | None
    outside: bool = False

    def renewed(self) -> Callable[[], ServerChanges]:
        """Read tokens and certificates again; what is returned puts them into use, and says what is new.

        Raises:
            ConfigError: one that cannot be used, or no tokens any more where other machines can reach the server.
        """
        told = self.read_tokens()
        if told.tokens is None and self.outside and not self.guard.open:
            raise ConfigError(
                "got none any more, and other machines can reach the server",
                field="tokens",
                expected="tokens, or a new start with --insecure",
            )
        renewal = None if self.tls is None else self.tls.renewed()

        def apply() -> ServerChanges:
            taken: tuple[str, ...] = ("tokens",) if told.tokens != self.guard.tokens else ()
            self.guard.replace(told.tokens)
            if renewal is not None:
                taken += ("certificates",) if renewal.changes else ()
                renewal.apply()
            return ServerChanges(taken, told.next_start)

        return apply
