"""A server's end: every reply that is due is written first, and a second signal ends all waiting."""

import asyncio
import concurrent.futures
import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
from tests.faults.servers import item, serving_with, write_faulty
from tests.servers import Server

from poise.ingress.grpc_server import Context, GrpcServer
from poise.ingress.http_connection import HttpConnection
from poise.ingress.http_server import HttpServer
from poise.ingress.routes import HttpRequest
from poise.serving.ending import HURRIED_S, TAKE_LIMIT_S, Signals, answered, see_off
from poise.telemetry.traffic import Traffic

PATIENT = "import poise.ingress.decoding as d; d.LargeJson.__init__.__defaults__ = (32, 60.0)"
ITEMS = 2100
"""Their outputs in JSON are written by the JSON process."""


def answered_in_json() -> tuple[bytes, int]:
    """A request with binary inputs, which the event loop reads, and the length of its JSON."""
    inputs = [
        {
            "name": "x",
            "datatype": "FP32",
            "shape": [ITEMS, 4],
            "parameters": {"binary_data_size": ITEMS * 4 * 4},
        }
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + np.ones((ITEMS, 4), np.float32).tobytes(), len(head)


def json_process_of(server: Server) -> psutil.Process:
    """The JSON process, whichever process it serves."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    (found,) = (child for child in children if "poise.ingress.decoding_process" in child.cmdline())
    return found


@pytest.mark.parametrize("front", [(), ("--ingress", "1")], ids=["one process", "an ingress process"])
@pytest.mark.parametrize("resumed", [True, False])
def test_an_answer_that_waits_for_the_json_process_is_written_or_refused(
    tmp_path: Path, front: tuple[str, ...], resumed: bool
) -> None:
    done = 'poise_jobs_total{outcome="answered",slo_class="only"}'
    body, length = answered_in_json()

    def ask() -> tuple[int, dict]:
        return server.post(body, inference_header_content_length=str(length))

    service = write_faulty(tmp_path / "faulty")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(PATIENT)  # in whichever process the JSON process is one's own
    environment = {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with (
        serving_with(service, *front, environment=environment) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        assert ask()[0] == 200
        process = json_process_of(server)
        process.suspend()
        coming = pool.submit(ask)
        server.wait_until(lambda: server.metric(done) == 2)
        server.process.terminate()
        server.wait_until(lambda: "draining" in server.log())
        for _ in range(3):  # it ends for nobody but who waits
            assert server.request("GET", "/v2/health/ready")[0] == 503
        if resumed:
            process.resume()
        else:
            server.process.terminate()
        status, answer = coming.result()
        assert server.process.wait(60) == (0 if resumed else 1)
        assert status == (200 if resumed else 503), answer


class FakeFront:
    """Stops when it is told to stop at once, or when its clients have read all."""

    def __init__(self) -> None:
        self.limits_s: list[float] = []
        self.stopping = asyncio.Event()
        self.stopped = asyncio.Event()
        self.told = asyncio.Event()

    async def replied(self) -> None:
        await self.told.wait()

    async def stop(self, take_limit_s: float) -> None:
        self.limits_s.append(take_limit_s)
        self.stopping.set()
        if take_limit_s == HURRIED_S:
            self.stopped.set()
        await self.stopped.wait()


class FakeSignals:
    def __init__(self, *, second: bool) -> None:
        self.second: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if second:
            self.second.set_result(None)


class FakeJobs:
    async def drained(self) -> None:
        """There are none."""


def test_a_second_signal_hurries_those_who_read_their_answers() -> None:
    async def run() -> None:
        fronts, signals = [FakeFront(), FakeFront()], FakeSignals(second=False)
        ending = asyncio.create_task(see_off(fronts, cast(Signals, signals)))
        for front in fronts:
            await front.stopping.wait()
        assert not ending.done()
        signals.second.set_result(None)
        await ending
        assert [front.limits_s for front in fronts] == [[TAKE_LIMIT_S, HURRIED_S]] * 2

    asyncio.run(run())


def test_a_second_signal_that_was_there_before_leaves_them_little_time() -> None:
    async def run() -> None:
        fronts = [FakeFront()]
        await see_off(fronts, cast(Signals, FakeSignals(second=True)))
        assert fronts[0].limits_s == [HURRIED_S]

    asyncio.run(run())


def test_jobs_are_answered_once_the_last_reply_is_written() -> None:
    async def run() -> None:
        fronts = [FakeFront(), FakeFront()]
        ending = asyncio.create_task(answered(FakeJobs(), fronts))
        fronts[0].told.set()
        await asyncio.sleep(0.01)
        assert not ending.done()
        fronts[1].told.set()
        await ending

    asyncio.run(run())


class FakeConnection:
    def __init__(self, replying: HttpRequest | None) -> None:
        self.replying = replying


def request() -> HttpRequest:
    return HttpRequest("GET", b"/", {})


def test_only_requests_that_wait_already_are_waited_for() -> None:
    """Else whoever asks again and again, and is refused, could hold the server up for as long as it may be."""

    async def run() -> None:
        connections = [FakeConnection(request()), FakeConnection(None)]
        server = HttpServer.__new__(HttpServer)
        server._connections = {cast(HttpConnection, each) for each in connections}
        waiting = asyncio.create_task(server.replied())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        connections[1].replying = request()
        connections[0].replying = request()
        async with asyncio.timeout(60):
            await waiting

        calls = {cast(Context, "one")}
        grpc = GrpcServer(None, 0, Traffic("grpc"), calls)  # type: ignore[arg-type]
        waiting = asyncio.create_task(grpc.replied())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        calls.add(cast(Context, "two"))
        calls.discard(cast(Context, "one"))
        async with asyncio.timeout(60):
            await waiting

    asyncio.run(run())


def test_calls_that_are_on_their_way_are_taken_up_before_grpc_ends() -> None:
    """What grpcio has not handed over when it is stopped ends as CANCELLED, which clients do not try again."""
    log: list[str] = []

    def came() -> int:
        if len(log) < 5:
            log.append("a call")
        return len(log)

    class Stopped:
        async def stop(self, grace_s: float) -> None:
            log.append(f"stopped, {grace_s:g} s")

    async def run() -> None:
        await GrpcServer(cast(Any, Stopped()), 0, Traffic("grpc"), set(), came).stop(20.0)

    asyncio.run(run())
    assert log == ["a call"] * 5 + ["stopped, 20 s"]


SOLVES = """
import threading
from poise.planning.milp import Programme

def solve():
    programme = Programme()
    columns = [programme.column(50 + 37 * n % 51, upper=1, whole=True) for n in range(60)]
    for m in range(40):
        programme.row([(column, 10 + 7 * m * column % 91) for column in columns], upper=1200)
    while True:
        programme.solve(time_limit_s=0.01)

for _ in range(8):
    threading.Thread(target=solve, daemon=True).start()
"""
"""One of them comes back from HiGHS at any moment, also in the last."""


def test_a_solver_that_comes_back_as_the_server_ends_does_not_abort_it(tmp_path: Path) -> None:
    service = write_faulty(tmp_path / "faulty")
    with serving_with(service, before=SOLVES) as server:
        assert server.post(json.dumps(item(1.0)).encode())[0] == 200
        assert server.terminate() == 0
        assert "terminate called" not in server.log()


def test_a_history_that_no_disk_gives_back_keeps_a_server_neither_from_starting_nor_from_ending(
    tmp_path: Path,
) -> None:
    service = write_faulty(tmp_path / "faulty")
    with (service / "service.yaml").open("a") as file:
        file.write("adapter: {policy: poise, forecaster: {kind: last-max}}\n")
    hangs = (
        "import threading, poise.serving.deployment as d; d.PAST_LIMIT_S = 0.1\n"
        "d.past_rates = lambda *_: threading.Event().wait()"
    )
    with serving_with(service, before=hangs) as server:
        assert "takes too long to read" in server.log()
        assert server.terminate() == 0
