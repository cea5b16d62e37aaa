"""``poise reload``: have a server read its files anew, while it answers."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from poise.cli.connecting import Ca, Cert, Key, TokenFile, tls_with, token_of
from poise.cli.console import out, print_json
from poise.client.address import Endpoint, parse_url, tls_of
from poise.errors import ConfigError
from poise.ingress.repository import RELOAD_PATH, Reloaded

NOT_CHANGED = "the server goes on as it was"


class _Problem(msgspec.Struct):
    error: str


def reload(
    server: Annotated[
        str, typer.Argument(help="A server: its URL, or the number of its process on this machine.")
    ] = "http://127.0.0.1:8000",
    *,
    token_file: TokenFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    timeout_s: Annotated[float, typer.Option(help="How long to wait for the answer.", min=0.1)] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Have a server read its service files, tokens and certificates anew; no job is lost.

    What is wrong is refused as a whole, with the reason, and the server goes on as it was. A process is only told
    (SIGHUP): its log says what came of it.
    """
    if server.isdigit():
        _hang_up(int(server))
        if as_json:
            print_json({"pid": int(server), "told": True})
        else:
            out.print(f"process {server} was told; its log says what came of it", highlight=False)
        return
    reloaded = _ask(_whole_server(server), token_of(token_file), tls_with(ca, cert, key), timeout_s)
    if as_json:
        print_json(reloaded)
        return
    for name, changes in reloaded.services.items():
        out.print(f"{name}: {', '.join(changes)}", highlight=False)
    if reloaded.server:
        out.print(f"the server: {', '.join(reloaded.server)}", highlight=False)
    if reloaded.next_start:
        later = ", ".join(reloaded.next_start)
        out.print(f"from the next start: {later}", highlight=False)
    same = not (reloaded.services or reloaded.server or reloaded.next_start)
    changed = "reloaded; the files are as they were" if same else "reloaded"
    out.print(f"{changed} ({reloaded.took_s:.1f} s)", highlight=False)


def _whole_server(url: str) -> Endpoint:
    """Return where a server is; a path, such as one of its services has, is not of a whole server.

    Raises:
        ConfigError: no such URL.
    """
    endpoint = parse_url(url)
    if endpoint.root:
        raise ConfigError(f"got URL {url!r} with a path", expected="http://HOST:PORT of a server")
    return endpoint


def _hang_up(pid: int) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"serve" not in command:
            raise ConfigError(f"process {pid} is no server of poise", expected="a process of poise serve")
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise ConfigError(f"process {pid}: {error.strerror}", expected="a process of poise serve") from None


def _ask(endpoint: Endpoint, token: str | None, given: ssl.SSLContext | None, timeout_s: float) -> Reloaded:
    tls = tls_of(endpoint, given)
    try:
        connection = (
            http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
            if tls is None
            else http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=timeout_s, context=tls)
        )
        with contextlib.closing(connection):
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            connection.request("POST", RELOAD_PATH, b"", headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
            reason = "what came back is not HTTP/1.1"
        raise ConfigError(f"{endpoint.url} did not answer: {reason}", expected="a running server") from None
    try:
        if status == http.client.OK:
            return msgspec.json.decode(body, type=Reloaded)
        problem = msgspec.json.decode(body, type=_Problem).error
    except msgspec.DecodeError:
        raise ConfigError(f"{endpoint.url} answered as no server of poise does (status {status})") from None
    if status == http.client.NOT_FOUND:
        raise ConfigError(
            f"refused: {problem}; a server that other machines reach and that asks for no token (--insecure) "
            f"takes SIGHUP only, which poise reload PID sends; {NOT_CHANGED}"
        )
    raise ConfigError(f"refused: {problem}; {NOT_CHANGED}")
