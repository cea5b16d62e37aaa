"""``poise serve``: answer requests until told to stop."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec.structs import replace

from poise.cli.adapted import forecaster_of
from poise.cli.allocate_rates import rates_of
from poise.cli.console import err, error_line, out
from poise.cli.notify import tell_manager
from poise.errors import ConfigError
from poise.files import open_service
from poise.files.history import history_path
from poise.forecasting.base import RateHistory
from poise.telemetry.logs import Level, configure_logging

if TYPE_CHECKING:
    from poise.serving.access import Told
    from poise.serving.adaptation import AdapterCore
    from poise.serving.deployment import Adapting, Configuration, Opened
    from poise.serving.server import Listening

log = logging.getLogger(__name__)

MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}
"""Keeps the C library from giving every request's memory back and faulting it in again."""

_PROGRAMS = ("poise", "main.py", "__main__.py")


SECURITY = "Who may ask"
FILES = "Files and memory"
LOG = "Log and traces"


def serve(
    services: Annotated[
        list[Path], typer.Argument(help="A service's folder, or its file; several share one budget.")
    ],
    *,
    config: Annotated[Path | None, typer.Option(help="The server file; flags beat what it says.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port: 8000; 0 takes a free one.", min=0, max=65535)
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            help="The port for gRPC, if not the one after HTTP's; 0 takes a free one.", min=0, max=65535
        ),
    ] = None,
    grpc: Annotated[
        bool | None, typer.Option("--grpc/--no-grpc", help="Whether to serve over gRPC too: yes.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="The scheduler's policy, instead of the service file's.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="The adapter's policy, instead of the service file's.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="The budget's cores, instead of the first service file's.", min=1)
    ] = None,
    grace_s: Annotated[
        float | None,
        typer.Option(help="Seconds that accepted jobs have to be answered after SIGTERM: 30.", min=0),
    ] = None,
    max_body_mb: Annotated[
        float | None, typer.Option(help="The largest request body, in MB: 64.", min=0.001, max=1e5)
    ] = None,
    ingress: Annotated[
        int | None,
        typer.Option(help="Take HTTP connections in so many processes of their own: 0.", min=0, max=64),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="Ask clients for a token: one a line, or NAME: TOKEN.", rich_help_panel=SECURITY),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure",
            help="Let in whoever reaches an address that other machines can reach, without tokens.",
            rich_help_panel=SECURITY,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The certificate, in PEM: TLS.", rich_help_panel=SECURITY)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The certificate's key.", rich_help_panel=SECURITY)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="Clients must show a certificate signed by one here.", rich_help_panel=SECURITY),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="A web page's origin whose scripts may ask too.", rich_help_panel=SECURITY),
    ] = None,
    repository: Annotated[
        bool | None,
        typer.Option("--repository", help="Let clients load and unload services.", rich_help_panel=SECURITY),
    ] = None,
    feedback: Annotated[
        bool | None,
        typer.Option("--feedback", help="Let clients send true labels.", rich_help_panel=SECURITY),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="Keep the adapter's history here, not beside the service file.", rich_help_panel=FILES
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Keep here what lets a service start sooner, not beside its profile.", rich_help_panel=FILES
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the scheduler's log to this file.", rich_help_panel=FILES)
    ] = None,
    arena_mb: Annotated[
        float | None,
        typer.Option(
            help="Shared memory for the tensors of waiting jobs, in MB: 512.",
            min=0.001,
            max=1e6,
            rich_help_panel=FILES,
        ),
    ] = None,
    log_level: Annotated[
        Level | None, typer.Option(help="The least that is logged: info.", rich_help_panel=LOG)
    ] = None,
    log_json: Annotated[
        bool | None,
        typer.Option("--log-json", help="Log one JSON object a line.", rich_help_panel=LOG),
    ] = None,
    otel_endpoint: Annotated[
        str | None,
        typer.Option(
            help="Send spans of requests to this OTLP collector: http://HOST:4318.",
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            rich_help_panel=LOG,
        ),
    ] = None,
    sample_frac: Annotated[
        float | None,
        typer.Option(
            help="The share of requests that is traced, unless their clients say: 1.",
            min=0,
            max=1,
            rich_help_panel=LOG,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one line of JSON: url, grpc, pid, service.")
    ] = False,
) -> None:
    """Serve one service or more over the Open Inference Protocol until SIGTERM or Ctrl-C, then drain."""
    _with_malloc_settings()
    # gRPC's library writes what any client says, as it is, into the log, and says nothing that poise does not
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from poise.cli.server_settings import (
        Flags,
        classes_without_a_service,
        flags_without_effect,
        server_file_of,
        settings_of,
        told_now,
    )
    from poise.serving.deployment import CellSettings, Configuration
    from poise.serving.server import run_server

    flags = Flags(
        config=config,
        host=host,
        port=port,
        grpc_port=grpc_port,
        grpc=grpc,
        token_file=token_file,
        insecure=insecure,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        origins=None if origin is None else tuple(origin),
        cache=None if cache is None else str(cache),
        history=None if history is None else str(history),
        grace_s=grace_s,
        max_body_mb=max_body_mb,
        arena_mb=arena_mb,
        repository=repository,
        feedback=feedback,
        ingress=ingress,
        log_json=log_json,
        log_level=log_level,
        otel_endpoint=otel_endpoint,
        sample_frac=sample_frac,
    )
    file = server_file_of(flags)
    configure_logging(file.telemetry.log_level, as_json=file.telemetry.log_json)
    settings = settings_of(file, CellSettings(policy=policy, record=record))
    kept = None if file.history is None else Path(file.history)
    names: list[str] = []
    told: list[Told] = []

    def tell() -> Told:
        told[:] = [told_now(flags, file)]
        return told[0]

    def configure(closed: Collection[str]) -> Configuration:
        opened = tuple(opened_services(services))
        starting = not names
        names[:] = [each.name for each in opened]
        for words in classes_without_a_service(told[-1].tokens, [each.folder.service for each in opened]):
            log.warning("%s", words)
        adapting = adapting_of(opened, adapter, cores, kept, closed=closed, cache=settings.cells.cache)
        if starting:
            for words in flags_without_effect(flags, file, adapted=adapting is not None):
                log.warning("%s", words)
        return Configuration(opened, adapting, frozenset(closed))

    status = run_server(
        configure,
        settings,
        lambda listening: _tell(listening, names, as_json=as_json),
        tell,
    )
    if file.telemetry.log_json:  # then every line on stderr is JSON
        if status:
            log.error("stopped before every accepted job was answered")
        else:
            log.info("stopped; every accepted job was answered")
    elif status:
        error_line("stopped before every accepted job was answered")
    elif not as_json:
        err.print("stopped; every accepted job was answered", highlight=False)
    raise typer.Exit(status)


def _tell(listening: Listening, names: Sequence[str], *, as_json: bool) -> None:
    """Say that the server takes jobs, and where."""
    tell_manager("READY=1")
    if as_json:
        line = {
            "url": listening.url,
            "grpc": listening.grpc,
            "pid": os.getpid(),
            "service": names[0],
            "services": names,
        }
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()
        return
    where = listening.url if listening.grpc is None else f"{listening.url} and grpc://{listening.grpc}"
    said = f"{' and '.join(names)} served at {where} (Ctrl-C drains and stops)"
    out.print(said, highlight=False, soft_wrap=True)


def opened_services(paths: Sequence[Path]) -> list[Opened]:
    """Open services and all that they name, as they are now.

    Raises:
        ConfigError: one that cannot be served.
    """
    from poise.serving.deployment import Opened

    found = []
    for folder in map(open_service, paths):
        folder.check_model_files()
        profile = folder.load_profile()
        hashes = folder.file_hashes()
        for reason in folder.stale_reasons(profile, hashes):
            log.warning("the profile is stale: %s; run: poise profile %s", reason, folder.file)
        found.append(Opened(folder, profile, hashes))
    return found


def adapting_of(
    opened: Sequence[Opened],
    policy: str | None,
    cores: int | None,
    history: Path | None,
    *,
    closed: Collection[str] = (),
    cache: Path | None = None,
) -> Adapting | None:
    """Return how some services are adapted; None where their allocations are kept as they stand.

    Settings and budget are the first service's, also if it is among those closed, which are not adapted. Real workers
    get no more cores than there are here.

    Raises:
        ConfigError: no such policy or forecaster, or one that does not go with these services.
    """
    from poise.adapting.policies import Served, check_policy, first_workers, make_adapter
    from poise.serving.deployment import Adapting

    first = opened[0].folder
    settings = first.service.adapter
    policy = policy or settings.policy
    check_policy(policy, len(opened))
    if policy == "static":
        if cores is not None:
            raise ConfigError(
                f"got {cores}",
                field="--cores",
                expected="an adapter: static keeps the allocation as it stands",
            )
        return None
    given = _cores(opened, cores or first.service.budget.cores)
    served = [
        Served(
            replace(each.folder.service, budget=replace(each.folder.service.budget, cores=given)),
            each.profile,
            rates_of(each.folder, cache, log.warning) if policy == "poise" else None,
        )
        for each in opened
        if each.name not in closed
    ]
    if not served:
        return None
    several = len(served) > 1
    forecasters = {each.service.service if several else "": forecaster_of(first) for each in served}

    def make(past: Mapping[str, RateHistory]) -> AdapterCore:
        return make_adapter(served, policy, forecasters, cores=given, past=past)

    retrains = settings.forecaster.kind == "seasonal"
    kept = history or history_path(first.file)
    return Adapting(make, first_workers(served, policy, given), kept, retrains)


def _cores(opened: Sequence[Opened], budget: int) -> int:
    """Return how many cores there are to give: the budget's where all is emulated, those of this machine at most."""
    from poise.runtimes.cores import usable_cores

    variants = [v for each in opened for v in each.folder.service.variants.values()]
    here = len(usable_cores())
    if budget <= here or all(variant.runtime == "emulated" for variant in variants):
        return budget
    log.warning("the budget has %d cores, there are %d here", budget, here)
    return here


def _with_malloc_settings() -> None:
    """Start this program again with the C library's settings, which are only read as a process begins."""
    if any(name in os.environ for name in MALLOC) or Path(sys.argv[0]).name not in _PROGRAMS:
        return
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **MALLOC})
