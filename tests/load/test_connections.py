"""The client against servers of bytes: framing, and whatever can go wrong."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from poise.errors import ConfigError
from poise.load import Endpoint, parse_url
from poise.load.connections import ConnectionPool, Reply

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def replies(raw: Any, answers: Sequence[bytes | list[bytes]]) -> tuple[list[Reply], int]:
    """Send one request for each answer, one after the other; return replies and how often was connected.

    An answer in pieces is sent piece by piece; one that says close is followed by the end.
    """
    left = [answer if isinstance(answer, list) else [answer] for answer in answers]
    connected = 0

    async def handler(reader, writer):
        nonlocal connected
        connected += 1
        try:
            while left:
                await reader.readuntil(b"\r\n\r\n")
                answer = left.pop(0)
                for part in answer:
                    writer.write(part)
                    await writer.drain()
                if b"close" in b"".join(answer):
                    break
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass

    async def main() -> list[Reply]:
        async with raw(handler) as endpoint:
            pool = ConnectionPool(endpoint, limit=10)
            got = [await pool.request(REQUEST, timeout_s=60.0) for _ in answers]
            await pool.close()
            return got

    return asyncio.run(main()), connected


def test_two_answers_on_one_connection(raw):
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nInference-Header-Content-Length: 2\r\n\r\nabc",
        b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n",
    ]
    (first, second), connected = replies(raw, answers)
    assert (first.status, first.body, first.header_length, first.error) == (200, b"abc", 2, "")
    assert (second.status, second.body, second.header_length) == (429, b"", None)
    assert connected == 1


def test_chunks_and_headers_in_pieces(raw):
    answer = [
        b"HTTP/1.1 200 OK\r\nTransfer-Enc",
        b"oding: chunked\r\n\r\n2\r\nab\r\n",
        b"1\r\nc\r\n0\r\n\r\n",
    ]
    (reply,), _ = replies(raw, [answer])
    assert reply.body == b"abc"


def test_an_answer_that_ends_with_the_connection(raw):
    (reply,), _ = replies(raw, [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"])
    assert (reply.status, reply.body) == (200, b"abc")


def test_an_answer_cut_short(raw):
    (reply,), _ = replies(raw, [b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\nConnection: close\r\n\r\nabc"])
    assert (reply.status, reply.error) == (0, "closed")


def test_what_is_not_http(raw):
    (reply,), _ = replies(raw, [b"SSH-2.0-OpenSSH_9.2\r\n"])
    assert reply.error == "bad_http"


def test_a_connection_that_the_server_closes_is_not_used_again(raw):
    answers = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"] * 3
    got, connected = replies(raw, answers)
    assert [reply.body for reply in got] == [b"a"] * 3
    assert connected == 3


def test_no_answer_in_time(raw):
    async def silent(reader, writer):
        with suppress(ConnectionResetError):
            await reader.read()  # until the client gives up

    async def main() -> str:
        async with raw(silent) as endpoint:
            pool = ConnectionPool(endpoint, limit=1)
            assert await pool.resolve() == ""
            reply = await pool.request(REQUEST, timeout_s=0.01)
            await pool.close()
            return reply.error

    assert asyncio.run(main()) == "timeout"


def test_an_idle_connection_is_not_kept_for_ever(raw, monkeypatch):
    monkeypatch.setattr("poise.load.connections.MAX_IDLE_S", -1.0)
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] * 2
    got, connected = replies(raw, answers)
    assert [reply.status for reply in got] == [200, 200]
    assert connected == 2


def test_nobody_listens():
    async def main() -> tuple[str, str]:
        pool = ConnectionPool(Endpoint(host="127.0.0.1", port=9, tls=False, root=""), limit=1)
        first = await pool.request(REQUEST)
        second = await pool.request(REQUEST)
        await pool.close()
        return first.error, second.error

    assert asyncio.run(main()) == ("connect_refused", "connect_refused")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", Endpoint(host="localhost", port=8000, tls=False, root="")),
        ("http://localhost", Endpoint(host="localhost", port=80, tls=False, root="")),
        ("https://h/some/root/", Endpoint(host="h", port=443, tls=True, root="/some/root")),
        ("localhost:8000", Endpoint(host="localhost", port=8000, tls=False, root="")),
        ("http://[::1]:80", Endpoint(host="::1", port=80, tls=False, root="")),
    ],
)
def test_urls(url, expected):
    assert parse_url(url) == expected
    assert parse_url(expected.url) == expected


@pytest.mark.parametrize("url", ["", "ftp://h", "http://", "http://h:99999", "http://h?x=1", "http://h:x"])
def test_what_is_no_url(url):
    with pytest.raises(ConfigError, match="expected a URL"):
        parse_url(url)
