"""24 MB of JSON among small requests, and what becomes of them when the process that reads it does not live."""

import concurrent.futures
import json
from collections.abc import Iterator

import psutil
import pytest
from tests.faults.servers import Traffic, item, json_process_of, large_item, serving_with, write_faulty
from tests.servers import Server

SHORT_PATIENCE = "import poise.ingress.decoding as d; d.LargeJson.__init__.__defaults__ = (4, 8.0)"
# The front end itself may read no JSON that is large.
STRICT = """
import poise.protocol.codec as codec, poise.protocol.layouts as layouts, poise.ingress.http_infer as http_infer
inner = http_infer.decode_infer
def checked(body, *rest, **more):
    assert len(body) <= 256 * 1024, "large JSON was read on the event loop"
    return inner(body, *rest, **more)
http_infer.decode_infer = layouts.decode_infer = checked
"""
LARGE, MIDDLING = large_item(24_000_000), large_item(2_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    service = write_faulty(tmp_path_factory.mktemp("faulty") / "faulty")
    with serving_with(service, before=SHORT_PATIENCE + STRICT) as running:
        yield running


def small(server: Server) -> Traffic:
    return Traffic(server.url, "faulty", lambda number: json.dumps(item(number % 100)).encode())


def test_large_json_is_read_beside_the_event_loop(server: Server) -> None:
    assert json_process_of(server) is None  # it is started when it is first needed
    traffic = small(server)
    found: list[int] = []

    def send() -> None:
        found.extend(server.post(LARGE)[0] for _ in range(3))
        chunks = iter([LARGE[at : at + 1_000_000] for at in range(0, len(LARGE), 1_000_000)])
        found.append(server.request("POST", "/v2/models/faulty/infer", chunks)[0])

    traffic.run(100, 1, send)
    assert found == [200] * 4
    assert traffic.statuses == {"200": traffic.sent}
    assert json_process_of(server) is not None
    assert server.post(LARGE[:-2] + b"!}")[0] == 400


@pytest.mark.parametrize("stop", ["kill", pytest.param("suspend", marks=pytest.mark.slow)])
def test_a_json_process_that_dies_or_hangs_costs_what_it_had(server: Server, stop: str) -> None:
    assert server.post(LARGE)[0] == 200
    traffic = small(server)
    found: list[int] = []

    def harm() -> None:
        process = json_process_of(server)
        assert process is not None
        process.suspend()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            replies = [pool.submit(server.post, MIDDLING) for _ in range(2)]
            server.wait_until(lambda: received_bytes(server) >= 2 * len(MIDDLING))
            if stop == "kill":
                process.kill()
            found.extend(reply.result()[0] for reply in replies)

    traffic.run(50, 0.5, harm)
    assert sorted(found) == [200, 503]
    server.wait_until(lambda: received_bytes(server) == 0)  # nothing is held for the one that was lost
    assert traffic.statuses == {"200": traffic.sent}


def test_more_large_json_than_may_wait_is_refused_and_nothing_else(server: Server) -> None:
    assert server.post(LARGE)[0] == 200
    traffic = small(server)
    found: list[int] = []

    def crowd() -> None:
        process = json_process_of(server)
        assert process is not None
        process.suspend()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            replies = [pool.submit(server.post, large_item(2_000_000)) for _ in range(8)]
            done, _ = concurrent.futures.wait(replies, return_when=concurrent.futures.FIRST_COMPLETED)
            assert {reply.result()[0] for reply in done} == {429}
            process.resume()
            found.extend(reply.result()[0] for reply in replies)

    traffic.run(50, 0.5, crowd)
    assert set(found) == {200, 429}
    assert traffic.statuses == {"200": traffic.sent}


def received_bytes(server: Server) -> int:
    """What the server has received of large bodies that it still holds."""
    maps = psutil.Process(server.process.pid).memory_maps()
    return sum(each.rss for each in maps if "poise-json" in each.path)
