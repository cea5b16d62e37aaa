"""Connections that are encrypted. Named in ``guards.py``."""

import asyncio
import contextlib
import functools
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tests.security.target as target_module
import trustme
from tests.security.target import ANSWER_S, Client, StubGate, attacked, infer, request, wave

from poise.client import AsyncClient, NoAnswerError
from poise.client import Client as PoiseClient
from poise.ingress.grpc_methods import SERVICE
from poise.ingress.routes import Reply
from poise.ingress.tls import Tls


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and one of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def encrypted(address: tuple[str, int]) -> Client:
    plain = socket.create_connection(address, ANSWER_S)
    return Client(address, contexts()[1].wrap_socket(plain, server_hostname="127.0.0.1"))


def test_a_request_is_answered_and_one_in_plain_text_is_not():
    with attacked(tls=contexts()[0]) as target:
        client = encrypted(target.address)
        client.send(infer(wave()) + request())
        assert [client.reply()[0] for _ in range(2)] == [200, 200]
        client.socket.close()
        plain = target.connect()
        plain.send(request())
        with pytest.raises(AssertionError):
            plain.reply()
        assert len(target.gate.requests) == 1


def test_a_handshake_that_does_not_come_is_not_waited_for():
    with attacked(tls=contexts()[0]) as target:
        client = target.connect()
        target.until(lambda: target.server.connections == 1)
        target.pass_time(11)
        target.until(lambda: target.server.connections == 0)
        assert client.closed()


def test_handshakes_are_connections_too():
    with attacked(tls=contexts()[0], connections=3) as target:
        silent = [target.connect() for _ in range(10)]
        target.until(lambda: target.server.connections == 3)
        gone: set[int] = set()
        end_s = time.monotonic() + target_module.ANSWER_S
        while len(gone) < 7 and time.monotonic() < end_s:
            for number, client in enumerate(silent):
                client.socket.settimeout(0.05)
                if client.closed():
                    gone.add(number)
        assert len(gone) >= 7
        client = encrypted(target.address)
        client.send(request())
        assert client.reply()[0] == 200
        client.socket.close()


def test_a_connection_takes_the_place_of_its_handshake():
    with attacked(tls=contexts()[0], connections=1) as target:
        client = encrypted(target.address)
        for _ in range(2):
            client.send(request())
            assert client.reply()[0] == 200
        assert target.do(lambda: target.server.connections) == 1
        client.socket.close()


def test_who_leaves_while_nothing_is_read_is_noticed():
    with attacked(tls=contexts()[0], gate=StubGate(holds=True)) as target:
        client = encrypted(target.address)
        client.send(infer(wave()) + b"x" * 500_000)
        target.until(lambda: any(not each._reading for each in target.connections))
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()  # a reset
        target.until(lambda: target.server.connections == 0)
        assert target.gate.cancelled == 1


def test_a_client_that_is_gone_is_struck_off():
    with attacked(tls=contexts()[0], gate=StubGate(holds=True)) as target:
        client = encrypted(target.address)
        client.send(infer(wave()))
        target.until(lambda: len(target.gate.requests) == 1)
        client.socket.close()
        target.until(lambda: target.server.connections == 0)
        assert target.gate.cancelled == 1


def test_who_does_not_read_is_not_read_from():
    with attacked(tls=contexts()[0], take_s=30) as target:
        target.app.routes.add("GET", "/metrics", lambda _: Reply(200, (b"x" * 100_000,)))
        client = encrypted(target.address)
        client.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            for _ in range(100):
                client.send(request(path="/metrics") * 1000)
        assert target.do(lambda: sum(len(each._held) for each in target.connections)) < 1_000_000
        assert target.do(lambda: all(each._paused for each in target.connections))
        target.pass_time(31)
        target.until(lambda: target.server.connections == 0)
        client.socket.close()


class Strict:
    """Settings of TLS by which clients must show a certificate, and clients that have one or none."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        mine, theirs = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("a@example.org")
        self.ca, self.theirs = authority.cert_pem.bytes(), theirs
        ca, certificate, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        ca.write_bytes(self.ca)
        certificate.write_bytes(mine.cert_chain_pems[0].bytes())
        key.write_bytes(mine.private_key_pem.bytes())
        self.tls = Tls(certificate, key, ca)
        self.without = ssl.create_default_context(cadata=self.ca.decode())
        self.with_one = ssl.create_default_context(cadata=self.ca.decode())
        theirs.configure_cert(self.with_one)

    @contextlib.contextmanager
    def encrypted(self, address: tuple[str, int], context: ssl.SSLContext) -> Iterator[Client]:
        plain = socket.create_connection(address, target_module.ANSWER_S)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as connected:
            yield Client(address, connected)


def test_who_has_to_show_a_certificate_is_not_answered_without(tmp_path):
    strict = Strict(tmp_path)
    with attacked(tls=strict.tls.http) as target:
        with strict.encrypted(target.address, strict.without) as client:
            client.send(infer(wave()))
            with pytest.raises(ssl.SSLError, match="certificate required"):
                client.reply()
        assert target.gate.requests == []
        with strict.encrypted(target.address, strict.with_one) as client:
            client.send(infer(wave()))
            assert client.reply()[0] == 200


def test_a_certificate_of_someone_else_is_none(tmp_path):
    strict = Strict(tmp_path)
    trustme.CA().issue_cert("a@example.org").configure_cert(strict.without)
    with attacked(tls=strict.tls.http) as target, strict.encrypted(target.address, strict.without) as client:
        client.send(request())
        with pytest.raises(ssl.SSLError, match="unknown ca"):
            client.reply()


def test_over_grpc_who_has_to_show_a_certificate_is_not_answered_without(tmp_path):
    strict = Strict(tmp_path)
    key, chain = strict.theirs.private_key_pem.bytes(), strict.theirs.cert_chain_pems[0].bytes()
    shown = grpc.ssl_channel_credentials(strict.ca, key, chain)
    with attacked(grpc=True, grpc_more={"credentials": strict.tls.grpc_credentials()}) as target:
        assert target.grpc is not None
        address = f"127.0.0.1:{target.grpc.port}"

        def live(credentials: grpc.ChannelCredentials) -> Any:
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(address, credentials, options) as channel:
                ask: Any = channel.unary_unary(f"/{SERVICE}/ServerLive")
                return ask(b"", timeout=target_module.ANSWER_S)

        with pytest.raises(grpc.RpcError) as refused:
            live(grpc.ssl_channel_credentials(strict.ca))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert live(shown)


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path):
    """Even where the system's own settings would let it pass."""
    strict = Strict(tmp_path)
    for context in (strict.tls.http, strict.with_one):
        context.set_ciphers("ALL:@SECLEVEL=0")
    strict.with_one.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with attacked(tls=strict.tls.http) as target:
        with pytest.warns(DeprecationWarning):
            strict.with_one.maximum_version = ssl.TLSVersion.TLSv1_1
        refused = pytest.raises(ssl.SSLError, match="protocol version")
        with refused, strict.encrypted(target.address, strict.with_one):
            pass
        strict.with_one.maximum_version = ssl.TLSVersion.TLSv1_2
        with strict.encrypted(target.address, strict.with_one) as client:
            client.send(request())
            assert client.reply()[0] == 200


def test_who_is_refused_is_told_why_and_not_listened_to_for_long(tmp_path):
    strict = Strict(tmp_path)
    with attacked(tls=strict.tls.http) as target, strict.encrypted(target.address, strict.without) as client:
        client.send(b"x" * 1000)
        with pytest.raises(ssl.SSLError, match="certificate required"):
            client.reply()
        assert target.do(lambda: target.server.connections) == 1, "it goes on being one"
        target.pass_time(11)
        target.until(lambda: target.server.connections == 0)


def test_what_follows_a_refusal_is_bounded(tmp_path):
    strict = Strict(tmp_path)
    with attacked(tls=strict.tls.http) as target:
        cut_off = pytest.raises(OSError, match=r"EOF|reset|Broken pipe")
        with strict.encrypted(target.address, strict.without) as client, cut_off:
            for _ in range(64):
                client.send(b"x" * 2**20)
        target.until(lambda: target.server.connections == 0)


def test_our_clients_say_what_may_be_the_matter(tmp_path):
    strict = Strict(tmp_path)
    with attacked(tls=strict.tls.http) as target:
        host, port = target.address

        def told(scheme: str, tls: ssl.SSLContext | None) -> list[str]:
            url = f"{scheme}://{host}:{port}"

            async def live() -> bool:
                async with AsyncClient(url, tls=tls) as client:
                    return await client.live()

            with pytest.raises(NoAnswerError) as first, PoiseClient(url, tls=tls) as blocking:
                blocking.live()
            with pytest.raises(NoAnswerError) as second:
                asyncio.run(live())
            return [str(each.value) for each in (first, second)]

        for words in told("https", strict.without):
            assert "certificate required" in words
            assert words.endswith("; does it ask for a certificate (--cert, --key)?")
        for words in told("http", None):
            assert words.endswith("the connection was closed; does it speak TLS (https)?")


def test_an_end_without_a_word_may_be_for_want_of_a_certificate():
    """As servers end it that do not wait until their alert is read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=shaken_and_closed, args=(listener,))
        serving.start()
        client = PoiseClient(f"https://127.0.0.1:{listener.getsockname()[1]}", tls=contexts()[1])
        with client, pytest.raises(NoAnswerError, match=r"does it ask for a certificate \(--cert, --key\)\?"):
            client.live()
        serving.join(ANSWER_S)


def shaken_and_closed(listener: socket.socket) -> None:
    """Shake hands with a client, read what it asks, and close."""
    plain, _ = listener.accept()
    with contexts()[0].wrap_socket(plain, server_side=True) as connection:
        connection.recv(1000)
