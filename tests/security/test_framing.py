"""Where a request ends: what two servers could read in two ways is refused. Named in ``guards.py``."""

import json

import pytest
from tests.security.target import INFER, StubGate, attacked, in_chunks, infer, request, wave

BODY = json.dumps(wave()).encode()
HIDDEN = request("POST", INFER, BODY)


def post(*headers: str, version: str = "HTTP/1.1") -> bytes:
    lines = [f"POST {INFER} {version}", "Host: 127.0.0.1", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        post("Content-Length: 0", "Transfer-Encoding: chunked"),
        post("Transfer-Encoding: chunked", "Content-Length: 0"),
        post("Content-Length: 0", "Content-Length: 300"),
        post("Content-Length: 0", "Content-Length: 0"),
        post("Content-Length: 0, 300"),
        post("Content-Length: +0"),
        post("Content-Length: 0x0"),
        post("Content-Length: -1"),
        post("Content-Length: "),
        post("Content-Length : 0"),
        post(" Content-Length: 0"),
        post("X: 1", " Content-Length: 0"),
        post("X: 1\n\nContent-Length: 0"),
        post("X: 1\rContent-Length: 0"),
        post("X: 1\x00"),
        post("Content-Length: 18446744073709551616"),
        post("Content-Length: 99999999999999999999999999"),
        post("Transfer-Encoding: chunked, identity"),
        post("Transfer-Encoding: identity"),
        post("Transfer-Encoding: gzip, chunked"),
        post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        post("Transfer-Encoding: \x0bchunked"),
        post("Transfer-Encoding: xchunked"),
        post("Transfer-Encoding : chunked"),
        post("Transfer-Encoding: chunked", version="HTTP/1.0"),
        post("Content-Length: 0", version="HTTP/0.9"),
        post("Content-Length: 0", version="HTTP/2.0"),
        post("Content-Length: 0", version="HTTP/1.1 "),
        post("Content-Length: 0", version="http/1.1"),
        post("Host: elsewhere", "Content-Length: 0"),
        post("Content-Encoding: identity", "Content-Encoding: gzip", "Content-Length: 0"),
        post("Origin: http://localhost", "Origin: http://localhost", "Content-Length: 0"),
        post("Inference-Header-Content-Length: 1", "Inference-Header-Content-Length: 2", "Content-Length: 0"),
    ],
)
def test_a_request_whose_end_is_in_doubt_is_refused_and_nothing_after_it_read(head):
    with attacked() as target:
        for body in (b"", b"0\r\n\r\n"):
            client = target.connect()
            client.send(head + body + HIDDEN)
            assert client.reply()[0] == 400
            assert client.closed()
        assert target.gate.requests == []


def test_http_1_1_wants_a_host():
    with attacked() as target:
        client = target.connect()
        client.send(b"GET /v2 HTTP/1.1\r\n\r\n" + HIDDEN)
        assert client.reply()[0] == 400
        assert client.closed()
        assert target.ask(b"GET /v2 HTTP/1.0\r\n\r\n")[0] == 200
        assert target.ask(b"GET /v2 HTTP/1.1\r\nHost:\r\n\r\n")[0] == 200


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "RTSP/1.0", "ICE/1.0"])
def test_another_version_is_refused(version):
    with attacked() as target:
        assert target.ask(request().replace(b"HTTP/1.1", version.encode()))[0] == 400
        assert target.ask(request().replace(b"HTTP/1.1", b"HTTP/1.0"))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: 1\nY: 2\r\n\r\n",
    ],
)
def test_chunks_whose_end_is_in_doubt_are_refused_and_nothing_after_them_read(body):
    with attacked() as target:
        client = target.connect()
        client.send(post("Transfer-Encoding: chunked") + body + HIDDEN)
        assert client.reply()[0] == 400
        assert client.closed()
        assert target.gate.requests == []


def test_trailers_change_nothing():
    with attacked() as target:
        trailers = b"Content-Encoding: gzip\r\nInference-Header-Content-Length: 1\r\n"
        assert target.ask(in_chunks(BODY, trailers=trailers))[0] == 200


def test_what_follows_the_last_chunk_is_a_request_of_its_own():
    with attacked() as target:
        client = target.connect()
        client.send(in_chunks(BODY[:7], BODY[7:]) + request() + in_chunks(BODY) + request("GET", "/nowhere"))
        assert [client.reply()[0] for _ in range(4)] == [200, 200, 200, 404]


def test_a_body_is_never_taken_for_a_request():
    with attacked(body_bytes=1000) as target:
        client = target.connect()
        client.send(request("POST", "/nowhere", HIDDEN) + request())
        assert [client.reply()[0] for _ in range(2)] == [404, 200]
        client.send(request("POST", INFER, HIDDEN) + request())
        assert [client.reply()[0] for _ in range(2)] == [400, 200]
        assert target.gate.requests == []


def test_an_upgrade_is_not_offered():
    with attacked() as target:
        for upgrade in ("h2c", "websocket"):
            headers = ["Connection: Upgrade", f"Upgrade: {upgrade}"]
            assert target.ask(request(headers=headers))[0] == 200
            assert target.ask(infer(BODY, *headers))[0] == 200
            body = in_chunks(BODY).replace(
                b"Host", f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\nHost".encode()
            )
            assert target.ask(body)[0] == 200


def test_replies_keep_the_order_of_their_requests():
    with attacked(gate=StubGate(holds=True)) as target:
        client = target.connect()
        client.send(infer(BODY) + request())
        target.until(lambda: len(target.gate.requests) == 1)
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        assert len(target.gate.requests) == 1
