"""TLS of both protocols, from files of PEM; they can be read anew while connections are open."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import msgspec

from poise.errors import ConfigError

DROPPED_BYTES = 2**20
"""So much may a client send on after its handshake has failed."""


class _Pems(msgspec.Struct, frozen=True):
    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Tls:
    """A certificate with its key, for HTTP and gRPC. ``client_ca``: clients must show one signed by it.

    Raises:
        ConfigError: a file that is missing, or holds nothing that will do; a key that is not the certificate's.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._pems = self._read()
        self.http = self._context(_Context(ssl.PROTOCOL_TLS_SERVER))

    def renewed(self) -> Renewal:
        """Read the files again, and check them; nothing changes before ``Renewal.apply``.

        Raises:
            ConfigError: as when they were read first.
        """
        pems = self._read()
        self._context(_Context(ssl.PROTOCOL_TLS_SERVER))
        return Renewal(self, pems)

    def shows(self, pems: _Pems) -> bool:
        """Say whether these are the files that are shown already."""
        return pems == self._pems

    def apply(self, pems: _Pems) -> None:
        """Show the new certificate from now on: to connections that are still to come."""
        self._pems = pems
        self._context(self.http)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server."""
        return grpc.dynamic_ssl_server_credentials(
            self._grpc_configuration(),
            self._grpc_configuration,
            require_client_authentication=self._client_ca is not None,
        )

    def _grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        pems = self._pems
        return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], pems.client_ca)

    def _read(self) -> _Pems:
        ca = None if self._client_ca is None else _bytes_of(self._client_ca)
        return _Pems(_bytes_of(self._certificate), _bytes_of(self._key), ca)

    def _context(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Give a context the files, TLS 1.2 as the least, and HTTP/1.1 as all that is spoken."""
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigError(
                f"cannot be used with key {self._key.name}: {_reason(error)}",
                file=str(self._certificate),
                expected="a certificate and its key, in PEM, the key without a password",
            ) from None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(
                    f"cannot be used: {_reason(error)}",
                    file=str(self._client_ca),
                    expected="certificates, in PEM",
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class _Handshake(ssl.SSLObject):
    """The server's end of a connection, which tells its client why there will be none.

    An event loop closes at once where a handshake fails, before the alert that says why is sent; and as the client's
    first request may be under way by then, the kernel would reset the connection, and the alert might be lost. So the
    failure is kept back until the client has closed, or has sent too much, or the handshake's time is up; what comes
    meanwhile is dropped.
    """

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    _failure: ssl.SSLError | None = None
    _dropped_bytes = 0

    def do_handshake(self) -> None:
        """Go on with the handshake, or wait for the end of one that has failed."""
        if self._failure is None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                if not self.outgoing.pending:  # there is nothing to tell: it may be no TLS at all
                    raise
                self._failure = error
            else:
                return
        self._dropped_bytes += len(self.incoming.read())
        if self._dropped_bytes > DROPPED_BYTES:
            raise self._failure
        raise ssl.SSLWantReadError  # has the event loop send what is to be sent, and read on


class _Context(ssl.SSLContext):
    """How TLS is spoken over HTTP."""

    sslobject_class = _Handshake

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **more: Any
    ) -> _Handshake:
        """Return a server's end of a connection; an event loop calls this."""
        made = super().wrap_bio(incoming, outgoing, *args, **more)
        assert isinstance(made, _Handshake)
        made.incoming, made.outgoing = incoming, outgoing
        return made


class Renewal(msgspec.Struct, frozen=True):
    """New files that were found good."""

    tls: Tls
    pems: _Pems

    @property
    def changes(self) -> bool:
        """Whether they differ from those in use."""
        return not self.tls.shows(self.pems)

    def apply(self) -> None:
        """Use them."""
        self.tls.apply(self.pems)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", file=str(path), expected="a file of PEM"
        ) from None


def _no_password() -> str:
    raise ValueError("the key is locked by a password")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
