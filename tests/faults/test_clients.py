"""Clients that leave in the middle of what they send, or of what they wait for: nothing of theirs is kept."""

import contextlib
import json
import socket
from pathlib import Path

import psutil
import pytest
from tests.faults.servers import (
    CODES,
    item,
    json_process_of,
    large_item,
    serving_with,
    workers_of,
    write_faulty,
)
from tests.servers import Server

LARGE = large_item(2_000_000)
PATIENT = (
    "import poise.ingress.decoding as d; d.GIVEN_UP_S = 60.0; d.LargeJson.__init__.__defaults__ = (32, 60.0)"
)
HEAD = b"POST /v2/models/faulty/infer HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    service = write_faulty(tmp_path_factory.mktemp("faulty") / "faulty")
    with serving_with(service, before=PATIENT) as running:
        assert running.post(LARGE)[0] == 200  # the JSON process is there
        yield running


@contextlib.contextmanager
def connected(server: Server):
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as client:
        yield client


def held(server: Server) -> tuple[int, float]:
    """What clients may leave behind: open files, and jobs that wait."""
    return psutil.Process(server.process.pid).num_fds(), server.metric("poise_queue_jobs")


def left(server: Server, before: tuple[int, float]) -> bool:
    """Whether nothing more is left behind than before. What was still being closed then may be gone now."""
    fds, jobs = held(server)
    return fds <= before[0] and jobs == before[1]


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v2/mod",
        HEAD + b"content-length: 500\r\n\r\n" + b"{" * 100,
        HEAD + b"content-length: %d\r\n\r\n" % len(LARGE) + LARGE[:1_000_000],
        HEAD + b"content-length: %d\r\ncontent-encoding: gzip\r\n\r\n" % len(LARGE) + LARGE[:500_000],
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(LARGE[:100_000]) + b"ffff\r\nhalf of",
    ],
    ids=["head", "body", "large", "compressed", "chunk"],
)
def test_a_client_that_leaves_in_mid_body(server: Server, sent: bytes) -> None:
    before = held(server)
    for _ in range(5):
        with connected(server) as client:
            client.sendall(sent)
    server.wait_until(lambda: left(server, before))
    assert server.post(item(1.0))[0] == 200
    assert server.post(LARGE)[0] == 200


def test_a_client_that_leaves_while_its_json_is_read(server: Server) -> None:
    before = held(server)
    process = json_process_of(server)
    assert process is not None
    cancelled = 'poise_refused_jobs_total{reason="cancelled"}'
    count = server.metric(cancelled)
    process.suspend()
    with connected(server) as client:
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(LARGE) + LARGE)
        # The room that its body was received into is a file more than the connection.
        server.wait_until(lambda: held(server)[0] > before[0] + 1)
    process.resume()
    server.wait_until(lambda: left(server, before))
    assert server.metric(cancelled) == count  # it never was a job
    assert server.post(LARGE)[0] == 200
    again = json_process_of(server)
    assert again is not None
    assert again.pid == process.pid


def test_a_client_that_leaves_in_mid_wait(server: Server) -> None:
    before = held(server)
    (worker,) = workers_of(server)
    cancelled = 'poise_refused_jobs_total{reason="cancelled"}'
    count = server.metric(cancelled)
    worker.suspend()
    body = json.dumps(item(1.0)).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(connected(server))
            client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 20)
    server.wait_until(lambda: server.metric("poise_queue_jobs") <= 1)  # one may be with the worker
    worker.resume()
    server.wait_until(lambda: left(server, before))
    assert server.metric(cancelled) == count + 20


def test_a_client_that_reads_nothing_of_its_answer(tmp_path: Path) -> None:
    service = write_faulty(tmp_path / "faulty")
    with serving_with(service) as server, connected(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(LARGE) + LARGE)
        server.wait_until(lambda: server.metric('poise_jobs_total{outcome="answered",slo_class="only"}') == 1)
        assert server.post(item(2.0))[0] == 200
        assert server.post(item(float(CODES["raises"])))[0] == 500
        assert server.terminate() == 0  # it is not waited for beyond a few seconds
