"""What ``poise serve`` is told on the command line and in the server file, put together; a flag beats the file."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from poise.domain.service import Service
from poise.errors import ConfigError
from poise.ingress.guard import Identity, Token
from poise.ingress.tokens import read_secret, read_token_file
from poise.serving.access import Told
from poise.serving.deployment import CellSettings
from poise.serving.server import ServerSettings
from poise.serving.server_file import (
    LOOPBACK,
    MAX_PORT,
    Address,
    GrpcAddress,
    ServerFile,
    Telemetry,
    TlsFiles,
    TokenEntry,
    open_server_file,
)
from poise.telemetry.logs import Level
from poise.telemetry.tracing import Tracing

log = logging.getLogger(__name__)


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """The flags that stand for something of the server file; None where they were not given."""

    config: Path | None = None
    host: str | None = None
    port: int | None = None
    grpc_port: int | None = None
    grpc: bool | None = None
    token_file: Path | None = None
    insecure: bool | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    origins: tuple[str, ...] | None = None
    cache: str | None = None
    history: str | None = None
    grace_s: float | None = None
    max_body_mb: float | None = None
    arena_mb: float | None = None
    repository: bool | None = None
    feedback: bool | None = None
    ingress: int | None = None
    log_json: bool | None = None
    log_level: Level | None = None
    otel_endpoint: str | None = None
    sample_frac: float | None = None


def server_file_of(flags: Flags) -> ServerFile:
    """Return the server file as the flags change it.

    Raises:
        ConfigError: a file that cannot be used, or flags that do not go together.
    """
    file = ServerFile(format=1) if flags.config is None else open_server_file(flags.config)
    try:
        file = _with_flags(file, flags)
    except ValueError as error:  # what the server file's own checks say of a flag
        raise ConfigError(f"the flags do not do: {error}") from None
    if (file.grpc_port or 0) > MAX_PORT:  # not said of the file alone: a flag may help
        raise ConfigError(
            f"got no port for gRPC, as HTTP has {file.http.port} and there is none after it",
            expected="--grpc-port PORT or --no-grpc (in the server file: grpc.port, or grpc: null)",
        )
    return file


def _with_flags(file: ServerFile, flags: Flags) -> ServerFile:
    """Return a server file as the flags change it.

    Raises:
        ValueError: a value that the server file may not have.
        ConfigError: flags that do not go together.
    """
    given = {
        name: value
        for name in (
            "insecure",
            "origins",
            "cache",
            "history",
            "grace_s",
            "repository",
            "feedback",
            "ingress",
        )
        if (value := getattr(flags, name)) is not None
    }
    limits = file.limits
    if flags.max_body_mb is not None:
        body_bytes = round(flags.max_body_mb * 2**20)
        limits = replace(limits, body_bytes=body_bytes, bodies_bytes=max(limits.bodies_bytes, body_bytes))
    file = replace(
        file,
        **given,
        limits=limits,
        http=_http(flags, file.http),
        grpc=_grpc(flags, file),
        tls=_tls(flags, file),
        telemetry=_telemetry(flags, file.telemetry),
    )
    if flags.arena_mb is not None:
        file = replace(file, arena=round(flags.arena_mb * 2**20))
    return file


def settings_of(file: ServerFile, cells: CellSettings) -> ServerSettings:
    """Return how a server is started; ``cells`` says what the server file does not.

    Raises:
        ConfigError: a cache folder that is none.
    """
    host = file.http.host or LOOPBACK
    cache = None if file.cache is None else Path(file.cache)
    if cache is not None and not cache.is_dir():
        raise ConfigError(f"got {str(cache)!r}", field="cache", expected="a folder that is there")
    return ServerSettings(
        host=host,
        port=file.http.port,
        grpc_host=host if file.grpc is None or file.grpc.host is None else file.grpc.host,
        grpc_port=file.grpc_port,
        grace_s=file.grace_s,
        limits=file.limits,
        insecure=file.insecure,
        origins=file.origins,
        tls=file.tls,
        repository=file.repository,
        feedback=file.feedback,
        ingress=file.ingress,
        tracing=_tracing(file.telemetry),
        cells=replace(cells, arena_bytes=file.arena_bytes, cache=cache),
    )


def tokens_of(file: ServerFile, token_file: Path | None) -> tuple[Token, ...] | None:
    """Return the tokens that let clients in, read anew; None where none is asked for.

    Raises:
        ConfigError: a file that cannot be used, or a name twice.
    """
    if file.tokens is None and token_file is None:
        return None
    tokens = [_token(entry) for entry in file.tokens or ()]
    if token_file is not None:
        tokens += read_token_file(token_file)
    names = [token.identity.name for token in tokens]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"got name {name!r} twice", field="tokens", expected="each once")
    held: dict[bytes, str] = {}
    for token in tokens:
        other = held.setdefault(token.digest, token.identity.name)
        if other != token.identity.name:
            raise ConfigError(
                f"got the secret of {other!r} for {token.identity.name!r} too",
                field="tokens",
                expected="a secret for each",
            )
    return tuple(tokens)


def told_now(flags: Flags, begun: ServerFile) -> Told:
    """Return the tokens as the files are now; warn of what else the server file says now than when it was begun with.

    Raises:
        ConfigError: a file that cannot be used.
    """
    file = server_file_of(flags)
    differing = tuple(
        name
        for name in ServerFile.__struct_fields__
        if name != "tokens" and getattr(file, name) != getattr(begun, name)
    )
    if differing:
        log.warning("what the server file says of %s holds from the next start", ", ".join(differing))
    return Told(tokens_of(file, flags.token_file), differing)


def classes_without_a_service(tokens: Sequence[Token] | None, services: Collection[Service]) -> list[str]:
    """Return, in words, which classes tokens name that none of some services has."""
    known = {name for service in services for name in service.classes}
    return [
        f"token {token.identity.name} may send jobs of class {name}, which no service here has"
        for token in tokens or ()
        for name in sorted((token.identity.classes or frozenset()) - known)
    ]


def flags_without_effect(flags: Flags, file: ServerFile, *, adapted: bool) -> list[str]:
    """Return, in words, which flags change nothing, beside the others, the server file and the services."""
    words = []
    if flags.history is not None and not adapted:
        words.append("--history has no effect: no adapter is there to keep one (policy static)")
    if flags.sample_frac is not None and not file.telemetry.otel_endpoint:
        words.append("--sample-frac has no effect: no collector takes spans (--otel-endpoint)")
    return words


def _token(entry: TokenEntry) -> Token:
    classes = None if entry.classes is None else frozenset(entry.classes)
    identity = Identity(entry.name, classes, entry.admin)
    if entry.sha256 is not None:
        return Token(bytes.fromhex(entry.sha256), identity)
    assert entry.file is not None
    return Token.of(read_secret(Path(entry.file)), identity)


def _http(flags: Flags, address: Address) -> Address:
    return Address(
        host=address.host if flags.host is None else flags.host,
        port=address.port if flags.port is None else flags.port,
    )


def _grpc(flags: Flags, file: ServerFile) -> GrpcAddress | None:
    """Return where gRPC is spoken: as the file says, unless a flag moves it, or HTTP and so gRPC with it."""
    if flags.grpc is False:
        if flags.grpc_port is not None:
            raise ConfigError("got --no-grpc and --grpc-port", expected="one of them")
        return None
    address = file.grpc or GrpcAddress()
    if flags.grpc_port is not None:
        return replace(address, port=flags.grpc_port)
    if file.grpc is None and not flags.grpc:
        return None
    return address if flags.port is None else replace(address, port=None)


def _telemetry(flags: Flags, telemetry: Telemetry) -> Telemetry:
    given = {
        name: value
        for name in ("log_json", "log_level", "otel_endpoint", "sample_frac")
        if (value := getattr(flags, name)) is not None
    }
    return replace(telemetry, **given)


def _tracing(telemetry: Telemetry) -> Tracing | None:
    """Return how requests are traced; None without an endpoint.

    Raises:
        ConfigError: an endpoint that is no URL.
    """
    endpoint = telemetry.otel_endpoint
    if not endpoint:
        return None
    if not _is_collector(endpoint):
        raise ConfigError(
            f"got {endpoint!r}", field="otel_endpoint", expected="http://HOST:PORT of a collector"
        )
    return Tracing(endpoint=endpoint, sample_frac=telemetry.sample_frac)


def _is_collector(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return False


def _tls(flags: Flags, file: ServerFile) -> TlsFiles | None:
    if (flags.tls_cert is None) != (flags.tls_key is None):
        raise ConfigError("got one of --tls-cert and --tls-key", expected="both")
    if flags.tls_cert is not None and flags.tls_key is not None:
        return TlsFiles(
            certificate=str(flags.tls_cert), key=str(flags.tls_key), client_ca=_text(flags.tls_client_ca)
        )
    if flags.tls_client_ca is not None:
        if file.tls is None:
            raise ConfigError("got --tls-client-ca alone", expected="--tls-cert and --tls-key beside it")
        return replace(file.tls, client_ca=str(flags.tls_client_ca))
    return file.tls


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
