"""The server file: what is the server's and not the services' — addresses, TLS, tokens, limits, paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from poise.domain.decoding import decode_yaml
from poise.domain.file_struct import FileStruct
from poise.domain.quantities import parse_bytes, require_fraction, require_not_negative
from poise.errors import ConfigError
from poise.files.regular import read_regular
from poise.ingress.limits import Limits

MAX_FILE_BYTES = 2**20
MAX_INGRESS = 64
MAX_PORT = 65535
LOOPBACK = "127.0.0.1"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,64}\Z")

LogLevel = Literal["debug", "info", "warning", "error"]


def _check_address(host: str | None, port: int) -> None:
    """Check an address of this machine.

    Raises:
        ValueError: no such port, or an empty host.
    """
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"got port {port}, expected 0 to {MAX_PORT}")
    if host == "":
        raise ValueError("got an empty host, expected an address or a name of this machine")


class Address(FileStruct, frozen=True, kw_only=True):
    """Where HTTP is spoken; port 0 takes a free one."""

    host: str | None = None
    port: int = 8000

    def __post_init__(self) -> None:
        _check_address(self.host, self.port)


class GrpcAddress(FileStruct, frozen=True, kw_only=True):
    """Where gRPC is spoken: without a host at that of HTTP, without a port at the one after HTTP's."""

    host: str | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        _check_address(self.host, self.port or 0)


class TlsFiles(FileStruct, frozen=True, kw_only=True):
    """Files of PEM. ``client_ca``: clients must show a certificate that one of these has signed."""

    certificate: str
    key: str
    client_ca: str | None = None


class TokenEntry(FileStruct, frozen=True, kw_only=True):
    """One token: the SHA-256 of its secret in hex, or a file that holds the secret in its one line.

    ``classes`` are those whose jobs it may send (None: all); ``admin``: it may reload, load and unload.
    """

    name: str
    sha256: str | None = None
    file: str | None = None
    classes: tuple[str, ...] | None = None
    admin: bool = False

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"name: got {self.name!r}, expected 1 to 64 of a-z A-Z 0-9 . _ -")
        if (self.sha256 is None) == (self.file is None):
            raise ValueError(f"got token {self.name!r} with neither or both, expected sha256 or file")
        if self.sha256 is not None and not _DIGEST.match(self.sha256):
            raise ValueError(f"sha256: got {self.sha256!r}, expected 64 of 0-9 a-f")


class Telemetry(FileStruct, frozen=True, kw_only=True):
    """What is told of the server, besides its metrics. ``sample_frac``: the share of requests that are traced."""

    log_json: bool = False
    log_level: LogLevel = "info"
    otel_endpoint: str | None = None
    sample_frac: float = 1.0

    def __post_init__(self) -> None:
        require_fraction(self.sample_frac, "sample_frac")


class ServerFile(FileStruct, frozen=True, kw_only=True):
    """A server as its file declares it. Paths are relative to the file's folder; they may be anywhere.

    ``grpc`` None: HTTP only. ``cache``: the folder of what is kept to start sooner; without one it is kept beside each
    profile. ``history`` is a file. ``ingress``: so many processes take HTTP connections; 0: the server's own does.
    """

    format: Literal[1]
    http: Address = Address()
    grpc: GrpcAddress | None = GrpcAddress()
    insecure: bool = False
    tls: TlsFiles | None = None
    tokens: tuple[TokenEntry, ...] | None = None
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    history: str | None = None
    cache: str | None = None
    telemetry: Telemetry = Telemetry()
    repository: bool = False
    feedback: bool = False
    ingress: int = 0
    grace_s: float = 30.0
    arena: str | int = "512MiB"

    def __post_init__(self) -> None:
        _check_named("grace_s", lambda: require_not_negative(self.grace_s, "grace_s"))
        if not 0 <= self.ingress <= MAX_INGRESS:
            raise ValueError(f"ingress: got {self.ingress}, expected 0 to {MAX_INGRESS}")
        _check_named("arena", lambda: self.arena_bytes)
        self._check_together()
        names = [token.name for token in self.tokens or ()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tokens: got name {name!r} twice, expected each once")
        for origin in self.origins:
            if not re.match(r"https?://[^/]+/?\Z", origin):
                raise ValueError(f"origins: got {origin!r}, expected https://HOST or https://HOST:PORT")

    def _check_together(self) -> None:
        """Raise ValueError unless the addresses differ and one body fits into what all bodies may take."""
        limits, grpc = self.limits, self.grpc
        if limits.bodies_bytes < limits.body_bytes:
            raise ValueError(
                f"limits.bodies_bytes: got {limits.bodies_bytes}, "
                f"expected at least the {limits.body_bytes} of body_bytes"
            )
        if grpc is None or grpc.port == 0 or grpc.port != self.http.port:
            return
        host = self.http.host or LOOPBACK
        if host == (grpc.host or host):
            raise ValueError(f"grpc: got port {grpc.port}, which is HTTP's, expected another")

    @property
    def grpc_port(self) -> int | None:
        """The port for gRPC; None: HTTP only. After the last port for HTTP it is one that there is not."""
        if self.grpc is None:
            return None
        after = self.http.port + 1 if self.http.port else 0
        return after if self.grpc.port is None else self.grpc.port

    @property
    def arena_bytes(self) -> int:
        """The shared memory for the tensors of waiting jobs. Units: bytes."""
        return parse_bytes(self.arena, "arena")


def _check_named(field: str, check: Callable[[], object]) -> None:
    """Check a field, and begin what is wrong with the field's name, by which its line is found.

    Raises:
        ValueError: what the check says.
    """
    try:
        check()
    except ValueError as error:
        raise ValueError(f"{field}: {str(error).replace(f'got {field} ', 'got ', 1)}") from None


def open_server_file(path: Path) -> ServerFile:
    """Read a server file; its paths are then those of this process.

    Raises:
        ConfigError: no such file, or one that does not decode.
    """
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigError(
            f"no server file at {str(path)!r}: {error.strerror}", expected="a YAML file with format: 1"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start})", file=path.name) from None
    return _placed(decode_yaml(text, ServerFile, path.name), path.absolute().parent)


def _placed(file: ServerFile, folder: Path) -> ServerFile:
    """Return a server file with its paths put below its folder, where they do not begin at the root."""

    def place(path: str | None) -> str | None:
        return None if path is None else str(folder / path)

    tls = file.tls
    if tls is not None:
        tls = TlsFiles(
            certificate=str(folder / tls.certificate),
            key=str(folder / tls.key),
            client_ca=place(tls.client_ca),
        )
    tokens = file.tokens
    if tokens is not None:
        tokens = tuple(msgspec.structs.replace(token, file=place(token.file)) for token in tokens)
    return msgspec.structs.replace(
        file, tls=tls, tokens=tokens, history=place(file.history), cache=place(file.cache)
    )
