"""Both clients over real sockets: against the server itself, and against bytes written beforehand."""

import asyncio
import json
import ssl
import threading
from typing import Any

import numpy as np
import pytest
import trustme
from tests.client.scripts import answer, call

import poise

BELOW = (b"GET /below/v2/models/a/ready", b"POST /below/v2/models/a/infer")
READY = answer(b'{"ready":true}')
OK = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}'
ANSWER = answer(OK + b"\0\0\0\0", header_length=len(OK))
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
ONE = {"x": np.zeros((1, 4), np.float32)}


def inputs(arrays: Any, *names: str, items: int = 3) -> dict[str, Any]:
    return {name: arrays[name][:items] for name in names}


def test_an_answer_of_the_server(ask, server, arrays, expected):
    given = inputs(arrays, "pixels", "wave", "letters", "length")
    (got,) = ask(
        server.url,
        call("infer", "tiny", given, slo_class="interactive", floor=0.8, request_id="q", outputs=["logits"]),
    )
    assert (got.service, got.id, got.items, list(got.outputs)) == ("tiny", "q", 3, ["logits"])
    assert set(got.modalities) == {"image+sound+word"}
    np.testing.assert_allclose(
        got.outputs["logits"], expected(given, ("image", "sound", "word")), rtol=1e-4, atol=1e-5
    )
    assert got.accuracy >= 0.8
    assert min(got.queue_s, got.compute_s) >= 0
    assert not got.late


def test_a_modality_is_left_out(ask, server, arrays, expected):
    given = inputs(arrays, "wave")
    (got,) = ask(server.url, call("infer", "tiny", given, floor=0.0))
    assert got.modalities == ("sound",) * 3
    np.testing.assert_allclose(got.outputs["logits"], expected(given, ("sound",)), rtol=1e-4, atol=1e-5)


def test_what_else_the_server_tells(ask, server):
    live, ready, both, itself, service, stats, config, ready_again = ask(
        server.url,
        call("live"),
        call("ready"),
        call("ready", "tiny"),
        call("server"),
        call("metadata", "tiny"),
        call("statistics", "tiny"),
        call("config", "tiny"),
        call("ask", "get", "/v2/models/tiny/ready"),
    )
    assert (live, ready, both) == (True, True, True)
    assert (itself.name, itself.version, itself.models) == ("poise", poise.__version__, ("tiny",))
    assert {tensor.name: tensor.modality for tensor in service.inputs} == {
        "pixels": "image",
        "wave": "sound",
        "letters": "word",
        "length": "word",
    }
    assert stats["model_stats"][0]["name"] == "tiny"
    assert config["name"] == "tiny"
    assert ready_again["ready"] is True


@pytest.mark.parametrize(
    ("error", "words", "asked"),
    [
        (poise.NotFoundError, "no model 'none'", call("infer", "none", ONE)),
        (poise.NotFoundError, "no route", call("ask", "GET", "/v3")),
        (
            poise.MalformedRequestError,
            "poise_class",
            call("infer", "tiny", {"wave": ONE["x"]}, slo_class="gold"),
        ),
        (poise.RequestError, "405", call("ask", "POST", "/v2", {})),
        (poise.RefusedError, "floor", call("infer", "tiny", {"wave": ONE["x"]}, floor=0.8)),
    ],
)
def test_errors_of_the_server(ask, server, error, words, asked):
    with pytest.raises(error, match=words):
        ask(server.url, asked)


def test_token_and_root_are_in_every_request(ask, script):
    running = script(READY, ANSWER)
    ask(running.url + "/below/", call("ready", "a"), call("infer", "a", ONE), token="s3cret")
    for (head, _), route in zip(running.requests, BELOW, strict=True):
        assert head.startswith(route + b" HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nAuthorization: Bearer s3cret\r\n" in head


def test_connections_are_used_again(ask, script):
    running = script(READY, ANSWER, READY)
    ask(running.url, call("ready"), call("infer", "a", ONE), call("ready"))
    assert running.connections == 1


@pytest.mark.parametrize("last", [answer(b"{}", more=b"Connection: close\r\n"), answer(b"{}") + b"and more"])
def test_connections_that_cannot_be_used_again_are_not(ask, script, last):
    running = script(last, READY)
    assert ask(running.url, call("ready"), call("ready")) == [True, True]
    assert running.connections == 2


def test_a_connection_that_was_closed_while_nobody_looked(script):
    running = script(answer(b"{}", more=b"X-Ends: here\r\n"), READY)
    with poise.Client(running.url) as client:
        assert client.ready()
        assert running.closed.acquire(timeout=60)
        assert client.ready()
    assert running.connections == 2


def test_a_connection_that_was_closed_while_the_loop_was_busy(script):
    running = script(answer(b"{}", more=b"X-Ends: here\r\n"), READY)

    async def twice() -> None:
        async with poise.AsyncClient(running.url) as client:
            assert await client.ready()
            assert running.closed.acquire(timeout=60)  # the loop stands still
            assert await client.ready()

    asyncio.run(twice())
    assert running.connections == 2


def test_not_ready_is_no_error(ask, script):
    running = script(answer(b'{"error":"draining"}', 503))
    assert ask(running.url, call("ready")) == [False]


@pytest.mark.parametrize(
    "data",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n", CUT],
)
def test_no_usable_answer_and_nothing_is_sent_twice(ask, script, data):
    running = script(data, READY)
    with pytest.raises(poise.NoAnswerError, match="no usable answer from http://127") as caught:
        ask(running.url, call("infer", "a", ONE))
    assert caught.value.sent
    assert len(running.requests) == 1


def test_no_answer_in_time(ask, script):
    running = script()
    with pytest.raises(poise.NoAnswerError, match="in time"):
        ask(running.url, call("infer", "a", ONE), timeout_s=1.0)
    assert running.hung_up.wait(60)


def test_nobody_listens(ask):
    with pytest.raises(poise.NoAnswerError, match="cannot connect to http") as caught:
        ask("http://127.0.0.1:9", call("live"))
    assert not caught.value.sent


def test_an_answer_that_comes_before_all_is_sent(ask, script):
    big = {"x": np.zeros(4 * 2**20, np.uint8)}
    running = script(answer(b'{"error":"too much"}', 413, more=b"Connection: close\r\n"))
    with pytest.raises(poise.TooLargeError, match="too much"):
        ask(running.url, call("infer", "a", big))


def test_a_call_that_is_cancelled_hangs_up(script):
    running = script()

    async def cancelled() -> None:
        async with poise.AsyncClient(running.url) as client:
            task = asyncio.create_task(client.infer("a", ONE))
            while not running.requests:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    assert running.hung_up.wait(60)


def test_many_calls_at_once(server, arrays, expected):
    given = [inputs(arrays, "wave", items=n % 5 + 1) for n in range(40)]

    async def all_at_once() -> list[poise.Answer]:
        async with poise.AsyncClient(server.url) as client:
            return await asyncio.gather(*(client.infer("tiny", each, floor=0.0) for each in given))

    for each, got in zip(given, asyncio.run(all_at_once()), strict=True):
        np.testing.assert_allclose(got.outputs["logits"], expected(each, ("sound",)), rtol=1e-4, atol=1e-5)


def test_threads_share_a_client(server, arrays, expected):
    wrong: list[object] = []

    def work(client: poise.Client, items: int) -> None:
        given = inputs(arrays, "wave", items=items)
        try:
            for _ in range(10):
                got = client.infer("tiny", given, floor=0.0).outputs["logits"]
                np.testing.assert_allclose(got, expected(given, ("sound",)), rtol=1e-4, atol=1e-5)
        except BaseException as error:
            wrong.append(error)

    with poise.Client(server.url) as client:
        threads = [threading.Thread(target=work, args=(client, n)) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_tls(ask, script):
    authority = trustme.CA()
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(of_server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    running = script(ANSWER, READY, tls=of_server)
    got, ready = ask(running.url, call("infer", "a", ONE), call("ready"), tls=trusting)
    assert got.outputs["y"].tolist() == [0.0]
    assert ready
    assert running.connections == 1
    assert json.loads(running.requests[0][1][: -ONE["x"].nbytes])["inputs"][0]["name"] == "x"


def test_a_certificate_of_nobody_known(ask, script):
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(of_server)
    running = script(READY, tls=of_server)
    with pytest.raises(poise.NoAnswerError, match=r"certificate verify failed"):
        ask(running.url, call("ready"))
    assert running.requests == []


@pytest.mark.parametrize("kind", [poise.Client, poise.AsyncClient])
@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("ftp://x", {}, "expected a URL"),
        ("http://x\r\nY: z", {}, "expected a URL"),
        ("http://x", {"token": "a\r\nb"}, "no header can carry"),
        ("http://x", {"token": ""}, "no header can carry"),
        ("http://x", {"token": b"abc"}, "no header can carry"),
        (None, {}, "got a URL of type NoneType, expected a URL"),
        ("http://127.0.0.1:0", {}, "expected a port that a server can have"),
        (f"http://{'x' * 64}", {}, "expected a URL"),
        ("http://a..b", {}, "expected a URL"),
        ("http://x", {"timeout_s": None}, "got timeout_s None, expected a number of seconds above 0"),
        ("http://x", {"timeout_s": float("nan")}, "got timeout_s nan"),
        ("http://x", {"timeout_s": 0}, "got timeout_s 0"),
        ("http://x", {"tls": ssl.create_default_context()}, "expected an https URL"),
    ],
)
def test_what_no_client_can_be_made_of(kind, url, options, words):
    with pytest.raises(poise.ConfigError, match=words):
        kind(url, **options)
