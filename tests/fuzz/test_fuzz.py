"""A few thousand damaged requests; ``make fuzz`` sends a million."""

from collections.abc import Iterator

import numpy as np
import pytest
from tests.fuzz.damage import Damage
from tests.fuzz.verdict import State, fuzzed, problems_of
from tests.security.target import WIRE
from tests.servers import Server, serving, tiny

from poise.errors import RequestError
from poise.ingress.http_chunks import ChunkedBody
from poise.ingress.http_head import Head, parse_head
from poise.ingress.limits import Limits
from poise.ingress.routes import Reply
from poise.protocol.codec import decode_infer

__all__ = ["tiny"]


@pytest.fixture(scope="module")
def server(tiny) -> Iterator[Server]:
    with serving(tiny) as running:
        yield running


def test_a_server_takes_no_harm_from_damaged_requests(server):
    fuzzed(server, 400, 1)
    states = [State.of(server)]
    statuses = fuzzed(server, 2400, 2)
    states.append(State.of(server))
    assert problems_of(states, server.log()) == []
    assert {200, 400, 404, "OK", "INVALID_ARGUMENT"} <= set(statuses)


def test_damaged_bodies_are_requests_or_the_clients_errors():
    damage = Damage(np.random.default_rng(3))
    taken = 0
    for _ in range(3000):
        body, length = damage.infer_body()
        try:
            taken += decode_infer(damage.damaged(body), length, WIRE).items > 0
        except RequestError as error:
            assert error.message
    assert taken > 50


def test_damaged_heads_are_heads_or_refused():
    damage = Damage(np.random.default_rng(4))
    heads = 0
    for _ in range(5000):
        head = damage.damaged(damage.framed("POST", "/v2", b"x")).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        found = parse_head(memoryview(head), Limits())
        assert isinstance(found, Head) or (found.close and found.status in (400, 431))
        heads += not isinstance(found, Reply)
    assert heads > 500


def test_chunks_are_the_same_however_they_are_split():
    damage = Damage(np.random.default_rng(5))
    for _ in range(1000):
        pieces = [damage.some_bytes(40) + b"x" for _ in range(int(damage.rng.integers(5)))]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\nnext"
        data = body if damage.chance(0.3) else damage.damaged(body)
        assert read(data, [len(data)]) == read(
            data, [*sorted(damage.rng.integers(0, len(data) + 1, 6).tolist()), len(data)]
        )


def read(data: bytes, ends: list[int]) -> tuple[bytes, bool, int] | str:
    """What chunks hold that come in pieces that end so, whether they are complete, and where they end."""
    chunks = ChunkedBody(10_000)
    at = 0
    try:
        for end in ends:
            while at < end and not chunks.complete:
                at = chunks.feed(data, at, end)
    except RequestError as error:
        return error.message
    return bytes(chunks.content), chunks.complete, at
