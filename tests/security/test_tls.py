"""Connections that are encrypted. Named in ``guards.py``."""

import functools
import socket
import ssl

import pytest
import trustme
from tests.security.target import ANSWER_S, Client, StubGate, attacked, infer, request, wave

from poise.ingress.routes import Reply


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
        gone = 0
        for client in silent:
            client.socket.settimeout(0.2)
            gone += client.closed()
        assert gone >= 7
        client = encrypted(target.address)
        client.send(request())
        assert client.reply()[0] == 200
        client.socket.close()


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
