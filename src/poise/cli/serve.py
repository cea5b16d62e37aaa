"""``poise serve``: answer requests until told to stop."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from poise.cli.console import err, error_line, out, warning_line
from poise.files import open_service

MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}
"""Keeps the C library from giving every request's memory back and faulting it in again."""

_PROGRAMS = ("poise", "main.py", "__main__.py")


def serve(
    service: Annotated[Path, typer.Argument(help="A service's folder, or its file.")],
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)] = 8000,
    policy: Annotated[
        str | None, typer.Option(help="The scheduler's policy, instead of the service file's.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Write the scheduler's log to this file.")] = None,
    grace_s: Annotated[
        float, typer.Option(help="Seconds that accepted jobs have to be answered after SIGTERM.", min=0)
    ] = 30.0,
    max_body_mb: Annotated[
        float, typer.Option(help="The largest request body, in MB.", min=0.001, max=1e5)
    ] = 64.0,
    arena_mb: Annotated[
        float, typer.Option(help="Shared memory for the tensors of waiting jobs, in MB.", min=0.001, max=1e6)
    ] = 512.0,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on an address that other machines can reach.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one line of JSON: url, pid, service.")
    ] = False,
) -> None:
    """Serve a service over the Open Inference Protocol until SIGTERM or Ctrl-C, then drain."""
    _with_malloc_settings()
    from poise.serving.server import ServerSettings, run_server

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    folder = open_service(service)
    folder.check_model_files()
    profile = folder.load_profile()
    for reason in folder.stale_reasons(profile):
        warning_line(f"the profile is stale: {reason}; run: poise profile {service}")
    settings = ServerSettings(
        host=host,
        port=port,
        policy=policy,
        record=record,
        grace_s=grace_s,
        max_body_bytes=round(max_body_mb * 2**20),
        arena_bytes=round(arena_mb * 2**20),
        insecure=insecure,
    )

    def ready(url: str) -> None:
        if as_json:
            line = {"url": url, "pid": os.getpid(), "service": folder.service.service}
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            sys.stdout.flush()
        else:
            out.print(
                f"{folder.service.service} is served at {url} (Ctrl-C drains and stops)", highlight=False
            )

    status = run_server(folder, profile, settings, ready)
    if status:
        error_line("stopped before every accepted job was answered")
    elif not as_json:
        err.print("stopped; every accepted job was answered", highlight=False)
    raise typer.Exit(status)


def _with_malloc_settings() -> None:
    """Start this program again with the C library's settings, which are only read as a process begins."""
    if any(name in os.environ for name in MALLOC) or Path(sys.argv[0]).name not in _PROGRAMS:
        return
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **MALLOC})
