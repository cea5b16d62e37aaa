"""What a client may take of the HTTP server: bytes, time, connections. Named in ``guards.py``."""

import functools
import gzip
import json
import socket
import struct
import time
import tracemalloc

import pytest
import tests.security.target as target_module
from tests.security.target import INFER, Client, StubGate, Target, attacked, in_chunks, infer, request, wave

from poise.ingress import http_chunks, routes
from poise.ingress.http_stream import HELD_BYTES, State
from poise.ingress.routes import Reply

BOMB = gzip.compress(b" " * 10_000_000)


def held(target: Target) -> int:
    """How many bytes the server keeps of what clients sent before their turn."""
    return sum(len(each._held) for each in target.connections)


def ended_or_filled(target: Target, size: int) -> bool:
    """Whether so much of a body is there on every connection that is not closed."""
    return all(each._state is State.CLOSED or each._filled == size for each in target.connections)


def holds(target: Target, size: int) -> bool:
    return held(target) == size


def padded(size: int) -> bytes:
    body = json.dumps(wave()).encode()
    return body + b" " * (size - len(body))


def test_a_body_over_the_cap_is_refused_by_its_length_alone():
    with attacked(body_bytes=1000) as target:
        head = request("POST", INFER, headers=["Content-Length: 1001"])
        code, headers, _ = target.ask(head)
        assert (code, headers["connection"]) == (413, "close")
        assert target.ask(infer(padded(1000)))[0] == 200


def test_a_body_in_chunks_over_the_cap_is_refused():
    with attacked(body_bytes=1000) as target:
        assert target.ask(in_chunks(padded(600), b" " * 401))[0] == 413
        assert target.ask(in_chunks(padded(600), b" " * 400))[0] == 200


def test_a_body_that_finds_no_memory_is_refused_and_holds_nothing(monkeypatch):
    def none(*_: object) -> memoryview:
        raise MemoryError

    class NoMemory(bytearray):
        def __iadd__(self, data: object) -> "NoMemory":
            raise MemoryError

    with attacked() as target:
        monkeypatch.setattr(target.app, "room_for", none)
        client = target.connect()
        for _ in range(2):  # the connection goes on once the body was thrown away
            head, _, body = infer(padded(400_000)).partition(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n")
            assert client.reply()[0] == 503
            client.send(body)
        monkeypatch.setattr(http_chunks, "bytearray", NoMemory, raising=False)
        assert target.ask(in_chunks(padded(600)))[0] == 503
        assert target.do(lambda: target.server.bodies_bytes) == 0


def test_a_chunk_over_the_cap_is_refused_by_its_size_alone():
    with attacked(body_bytes=1000) as target:
        client = target.connect()
        client.send(in_chunks(b"")[: -len(b"0\r\n\r\n0\r\n\r\n")] + b"3e9\r\n")
        assert client.reply()[0] == 413


def test_a_body_over_the_cap_when_inflated_is_refused():
    with attacked(body_bytes=100_000) as target:
        assert target.ask(infer(BOMB, "Content-Encoding: gzip"))[0] == 413
        small = gzip.compress(json.dumps(wave()).encode())
        assert target.ask(infer(small, "Content-Encoding: gzip"))[0] == 200


def test_no_more_than_the_cap_is_ever_inflated():
    tracemalloc.start()
    try:
        with attacked(body_bytes=100_000) as target:
            target.ask(infer(BOMB, "Content-Encoding: gzip"))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_all_bodies_together_are_bounded():
    with attacked(body_bytes=10_000, bodies_bytes=25_000) as target:
        begun = request("POST", INFER, headers=["Content-Length: 10000"]) + b"{"
        first, second = target.connect(), target.connect()
        first.send(begun)
        second.send(begun)
        target.until(lambda: target.server.bodies_bytes == 20_000)
        assert target.ask(begun)[0] == 429
        first.socket.close()
        target.until(lambda: target.server.bodies_bytes == 10_000)
        third = target.connect()
        third.send(begun)
        target.until(lambda: target.server.bodies_bytes == 20_000)


def test_more_headers_than_allowed_are_refused():
    with attacked(headers=20) as target:
        assert target.ask(request(headers=[f"X-{n}: 1" for n in range(20)]))[0] == 431
        assert target.ask(request(headers=["X: 1"] * 20))[0] == 431, "of one name too"
        assert target.ask(request(headers=["X: 1"] * 19))[0] == 200


def test_a_head_longer_than_allowed_is_refused():
    with attacked(head_bytes=2000) as target:
        assert target.ask(request(headers=["X: " + "x" * 2000]))[0] == 431
        assert target.ask(request(path="/v2?" + "x" * 2000))[0] == 431
        assert target.ask(request(headers=["X: " + "x" * 1900]))[0] == 200


def test_a_head_that_does_not_end_is_refused():
    with attacked(head_bytes=2000) as target:
        client = target.connect()
        client.send(b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 2000)
        assert client.reply()[0] == 431


def test_a_head_a_byte_at_a_time_has_its_time_once():
    with attacked(head_s=10) as target:
        client = target.connect()
        client.send(b"GET /v2 HTTP/1.1\r\n")
        for sent in range(1, 5):
            client.send(b"x")
            length = len(b"GET /v2 HTTP/1.1\r\n") + sent
            target.until(functools.partial(holds, target, length))
            target.pass_time(3)
        assert client.reply()[0] == 408
        assert client.closed()


def test_who_connects_and_says_nothing_is_let_go():
    with attacked(head_s=10, idle_s=75) as target:
        client = target.connect()
        target.until(lambda: target.server.connections == 1)
        target.pass_time(11)
        assert client.closed()


def test_who_is_idle_is_let_go():
    with attacked(head_s=10, idle_s=75) as target:
        client = target.connect()
        client.send(request())
        assert client.reply()[0] == 200
        target.pass_time(74)
        client.send(request())
        assert client.reply()[0] == 200
        target.pass_time(76)
        assert client.closed()


def test_a_body_that_does_not_come_is_not_waited_for():
    with attacked(body_s=10) as target:
        client = target.connect()
        client.send(request("POST", INFER, headers=["Content-Length: 60000000"]) + b"{")
        target.until(lambda: target.server.bodies_bytes > 0)
        target.pass_time(11)
        assert client.reply()[0] == 408
        target.until(lambda: target.server.bodies_bytes == 0)


def test_a_body_in_chunks_that_does_not_come_is_not_waited_for():
    with attacked(body_s=10) as target:
        client = target.connect()
        client.send(in_chunks(b"{" * 100)[:-5])
        target.until(lambda: target.server.bodies_bytes > 0)
        target.pass_time(11)
        assert client.reply()[0] == 408


def test_a_body_that_comes_slowly_and_steadily_is_taken():
    with attacked(body_s=10, body_bytes_per_s=100) as target:
        body = padded(4000)
        client = target.connect()
        client.send(request("POST", INFER, headers=["Content-Length: 4000"]) + body[:1000])
        for at in (1000, 2000, 3000):
            target.until(functools.partial(ended_or_filled, target, at))
            target.pass_time(9)
            client.send(body[at : at + 1000])
        assert client.reply()[0] == 200


def test_a_body_that_comes_by_drops_is_not():
    with attacked(body_s=10, body_bytes_per_s=100) as target:
        client = target.connect()
        client.send(request("POST", INFER, headers=["Content-Length: 4000"]) + b"{")
        for size in range(2, 8):
            client.send(b" ")
            target.until(functools.partial(ended_or_filled, target, size))
            target.pass_time(3)
        assert client.reply()[0] == 408


def test_connections_are_bounded():
    with attacked(connections=3, gate=StubGate(holds=True)) as target:
        waiting = [target.connect() for _ in range(3)]
        for client in waiting:
            client.send(infer(wave()))
        target.until(lambda: len(target.gate.requests) == 3)
        client = target.connect()
        assert client.reply()[0] == 503
        assert client.closed()


def test_who_asks_nothing_makes_room():
    with attacked(connections=3) as target:
        for _ in range(3):
            target.connect()
        target.until(lambda: target.server.connections == 3)
        assert target.ask(request())[0] == 200
        target.until(lambda: target.server.connections == 2)


def test_who_has_not_read_all_of_an_answer_makes_no_room():
    size = 60_000
    with attacked(connections=1) as target:
        target.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        target.app.routes.add("GET", "/metrics", lambda _: Reply(200, (b"x" * size,)))
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(target_module.ANSWER_S)
        plain.connect(target.address)
        client = Client(target.address, plain)
        client.send(request(path="/metrics"))
        target.until(lambda: any(each.idle and each.waiting for each in target.connections))
        assert target.connect().reply()[0] == 503
        assert len(client.reply()[2]) == size
        plain.close()


def test_who_leaves_while_nothing_is_read_is_noticed():
    with attacked(gate=StubGate(holds=True)) as target:
        client = target.connect()
        client.send(infer(wave()) + b"x" * 500_000)
        target.until(lambda: len(held_by(target)) == 1 and held_by(target)[0] > HELD_BYTES)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()  # a reset
        target.until(lambda: target.server.connections == 0)
        assert target.gate.cancelled == 1


def held_by(target: Target) -> list[int]:
    return [len(each._held) for each in target.connections]


def test_who_does_not_read_is_not_read_from():
    with attacked() as target:
        target.app.routes.add("GET", "/metrics", lambda _: big_reply())
        client = target.connect()
        client.socket.settimeout(1)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 5_000_000:
                client.send(request(path="/metrics") * 1000)
                sent += 1000 * len(request(path="/metrics"))
        assert target.do(lambda: held(target)) < 1_000_000


def big_reply() -> Reply:
    return Reply(200, (b"x" * 100_000,))


def test_who_does_not_read_is_let_go():
    with attacked(take_s=30) as target:
        target.app.routes.add("GET", "/metrics", lambda _: big_reply())
        client = target.connect()
        client.send(request(path="/metrics") * 500)
        target.until(lambda: any(each._paused for each in target.connections))
        target.pass_time(31)
        target.until(lambda: target.server.connections == 0)


def test_who_waits_for_a_reply_cannot_have_the_server_hold_more_and_more():
    with attacked(gate=StubGate(holds=True)) as target:
        client = target.connect()
        client.socket.settimeout(1)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        client.send(infer(wave()))
        with pytest.raises(TimeoutError):
            for _ in range(50):
                client.send(b"x" * 100_000)
        assert target.do(lambda: held(target)) < 1_000_000


def test_trailers_and_extensions_are_bounded():
    for flood in (b"0\r\nX: " + b"x" * 20_000, b"0\r\n" + b"X: 1\r\n" * 4000, b"5;" + b"x" * 1000):
        with attacked() as target:
            client = target.connect()
            client.send(in_chunks(b"{")[:-5] + flood)
            assert client.reply()[0] == 400


def test_tiny_chunks_take_no_more_memory_than_they_hold():
    with attacked() as target:
        tracemalloc.start()
        try:
            client = target.connect()
            client.send(in_chunks(*[b"  "] * 20_000)[:-5])
            target.until(lambda: target.server.bodies_bytes == 40_000)
            # each chunk kept by itself would be 1.1 MB
            assert tracemalloc.get_traced_memory()[0] < 600_000
        finally:
            tracemalloc.stop()


def test_many_requests_at_once_have_several_turns():
    with attacked() as target:
        at_once = []
        turn = 0

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            target.loop.call_soon(next_turn)

        def answer(_: object) -> Reply:
            at_once.append(turn)
            return Reply(200)

        target.app.routes.add("GET", "/turn", answer)
        target.do(next_turn)
        client = target.connect()
        client.send(b"GET /turn HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        for _ in range(500):
            client.reply()
        # a read and what was held may both have their turn in one round
        assert max(map(at_once.count, at_once)) <= 8


def test_dear_requests_at_once_have_a_turn_each():
    with attacked() as target:
        at_once = []
        turn = 0

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            target.loop.call_soon(next_turn)

        def answer(_: object) -> Reply:
            at_once.append(turn)
            time.sleep(0.002)
            return Reply(200)

        target.app.routes.add("GET", "/turn", answer)
        target.do(next_turn)
        client = target.connect()
        client.send(b"GET /turn HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        for _ in range(50):
            client.reply()
        assert max(map(at_once.count, at_once)) <= 2


@pytest.mark.parametrize("path", ["/a" * 4000, "/v2/models/" + "%41" * 1000, "/v2/models" + "/%41" * 7])
def test_a_path_that_is_too_long_is_not_taken_apart(path, monkeypatch):
    def unquote(part: str) -> str:
        raise AssertionError(part)

    monkeypatch.setattr(routes, "unquote", unquote)
    with attacked() as target:
        assert target.ask(request(path=path))[0] == 404


def test_routes_are_found_by_paths_in_per_cents_and_with_a_slash_at_the_end():
    with attacked() as target:
        for path in ("/v2/models/%74%69%6e%79", "/v2/models/tiny/versions/1/stats/", "/v2/"):
            assert target.ask(request(path=path))[0] == 200, path
