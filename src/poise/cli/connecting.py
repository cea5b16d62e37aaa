"""How a command reaches a server and shows who it is: TLS and the token, with the same flags everywhere."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Annotated

import typer

from poise.client.address import checked_token
from poise.errors import ConfigError
from poise.ingress.tokens import read_secret

TOKEN = "POISE_TOKEN"
PANEL = "How the server is reached"

TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help=f"A file with the server's token (default: that in {TOKEN}, if any).",
        rich_help_panel=PANEL,
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        help="Who signed the server's certificate, in PEM, if not a public one.",
        rich_help_panel=PANEL,
    ),
]
Cert = Annotated[
    Path | None,
    typer.Option(
        "--cert", help="A certificate to show, in PEM, where the server asks for one.", rich_help_panel=PANEL
    ),
]
Key = Annotated[Path | None, typer.Option("--key", help="The key of --cert, in PEM.", rich_help_panel=PANEL)]


def token_of(file: Path | None) -> str | None:
    """Return the token to send: that of a file, else that of the environment, if any.

    Raises:
        ConfigError: a file that cannot be read or holds no single token, or a token that cannot be sent.
    """
    if file is not None:
        return read_secret(file)
    told = os.environ.get(TOKEN)
    return checked_token(told) if told else None


def tls_with(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return how to speak TLS by the flags; None where none was given.

    Raises:
        ConfigError: one of ``cert`` and ``key``, or a file that cannot be used; it is named.
    """
    if (cert is None) != (key is None):
        raise ConfigError("got one of --cert and --key", expected="both")
    if ca is None and cert is None:
        return None
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError as error:
            raise ConfigError(
                f"cannot be used: {_reason(error)}", file=str(ca), expected="--ca, certificates in PEM"
            ) from None
    if cert is not None and key is not None:
        for file in (cert, key):
            _check_readable(file)
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot be used with key {str(key)!r}: {_reason(error)}",
                file=str(cert),
                expected="a certificate and its key, in PEM, the key without a password",
            ) from None
    return context


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb"):
            return
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", file=str(file), expected="a file of PEM"
        ) from None


def _no_password() -> str:
    raise ValueError("the key is locked by a password")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
