"""Files of tokens: secrets, one a line."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from poise.errors import ConfigError
from poise.files.regular import read_regular
from poise.ingress.guard import Identity, Token

MAX_FILE_BYTES = 2**20
SHORTEST = 16
"""A shorter secret can be found by trying."""

log = logging.getLogger(__name__)


def read_token_file(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file: one a line, ``TOKEN`` or ``NAME: TOKEN``; lines that begin with # say nothing.

    Each may send jobs of all classes, and change the server's state.

    Raises:
        ConfigError: no such file, one without tokens, a token that is too short or cannot be sent, or a name twice.
    """
    tokens: dict[str, Token] = {}
    for number, line in _lines(path):
        name, colon, secret = line.partition(":")
        name, secret = (name.strip(), secret.strip()) if colon else (f"token {number}", line)
        _check(secret, path, number)
        if name in tokens:
            raise ConfigError(f"got name {name!r} twice", file=path.name, line=number, expected="each once")
        tokens[name] = Token.of(secret, Identity(name))
    if not tokens:
        raise ConfigError("got no token", file=path.name, expected="one a line")
    return tuple(tokens.values())


def read_secret(path: Path) -> str:
    """Return the one token of a file.

    Raises:
        ConfigError: no such file, another number of lines, or a token that is too short or cannot be sent.
    """
    lines = _lines(path)
    if len(lines) != 1:
        raise ConfigError(f"got {len(lines)} lines", file=path.name, expected="one, the token")
    number, secret = lines[0]
    _check(secret, path, number)
    return secret


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that say something, with their numbers."""
    try:
        mode = path.stat().st_mode
        text = read_regular(path, MAX_FILE_BYTES).decode("ascii")
    except OSError as error:
        raise ConfigError(
            f"no token file at {str(path)!r}: {error.strerror}", expected="one token a line"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("got letters beyond ASCII", file=path.name, expected="tokens in ASCII") from None
    if mode & stat.S_IROTH:
        log.warning("every user of this machine may read the tokens in %s: chmod o-r", path)
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _check(secret: str, path: Path, number: int) -> None:
    if len(secret) < SHORTEST:
        raise ConfigError(
            f"got a token of {len(secret)} characters",
            file=path.name,
            line=number,
            expected=f"at least {SHORTEST}, by chance: openssl rand -hex 32",
        )
    if not secret.isprintable() or " " in secret:
        raise ConfigError(
            "got a token with blanks or control characters", file=path.name, line=number, expected="none"
        )
