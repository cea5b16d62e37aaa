"""Front ends in processes of their own: what clients see is the same, also when one of them, or the cell, is killed."""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import psutil
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import DATATYPES, Server, copy_tiny, json_request, serving
from tests.serving.test_adapted_server import emulated_service
from tests.serving.test_reload import STATIC, edit, hammered, reload
from tests.serving.test_server import resume, stopped
from tests.serving.test_tokens import ALICE, BOB, written

import poise
from poise.domain.job import Job, RefusalReason
from poise.errors import InternalError
from poise.ingress.gate import Gates, PendingJob
from poise.ingress.guard import Guard
from poise.ingress.limits import Limits
from poise.ingress.routes import MODEL, Reply, Routes
from poise.serving.arena import SharedRows
from poise.serving.ingress_app import IngressApp
from poise.serving.ingress_child import HUNG_BEATS, START_BEATS, IngressProcess
from poise.serving.ingress_gate import RemoteGate
from poise.serving.ingress_link import IngressLink
from poise.serving.ingress_messages import (
    Drained,
    FromIngress,
    JobFailed,
    JobPlaced,
    JobRefused,
    Replied,
    RouteTold,
    ToIngress,
    Unpacker,
    packets,
)

MODULE = "poise.serving.ingress_process"


def ingresses(server: Server) -> list[psutil.Process]:
    """The ingress processes that are there; one that has just ended counts no more."""
    found = []
    for process in server.workers():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if MODULE in process.cmdline():
                found.append(process)
    return found


def answering(server: Server) -> list[psutil.Process]:
    """The workers themselves."""
    others = ingresses(server)
    return [process for process in server.workers() if process not in others]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two ingress processes, for tests that leave them as they were."""
    service = copy_tiny(tmp_path_factory.mktemp("services") / "tiny")
    with serving(service, "--ingress", "2", "--feedback") as running:
        yield running


def test_answers_are_those_of_the_models(two, arrays, expected):
    assert len(ingresses(two)) == 2

    def ask(items: int) -> None:
        given = {name: arrays[name][:items] for name in DATATYPES}
        with poise.Client(two.url) as client:
            for _ in range(10):
                whole = client.infer("tiny", given)
                np.testing.assert_allclose(
                    whole.outputs["logits"],
                    expected(given, ("image", "sound", "word")),
                    rtol=1e-4,
                    atol=1e-4,
                )
                part = client.infer("tiny", {"wave": given["wave"]}, floor=0.0)
                assert part.modalities == ("sound",) * items
                np.testing.assert_allclose(
                    part.outputs["logits"], expected(given, ("sound",)), rtol=1e-4, atol=1e-4
                )

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in [pool.submit(ask, 1 + n % 6) for n in range(12)]:
            done.result()
    two.wait_until(lambda: two.metric("poise_queue_items") == 0)


def test_both_take_connections(two):
    """The kernel spreads connections over the listening sockets by chance: of 40, one has none once in 10¹¹ runs."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(two.address.split(":")))

        def connected() -> list[int]:
            return [
                sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections())
                for process in ingresses(two)
            ]

        two.wait_until(lambda: min(connected()) > 0 and sum(connected()) >= 40)


def test_every_other_route_is_answered_by_the_server(two, arrays):
    with poise.Client(two.url) as client:
        assert client.live()
        assert client.ready("tiny")
        assert client.server().models == ("tiny",)
        assert client.config("tiny")["name"] == "tiny"
        assert client.metadata("tiny").inputs[0].name == "pixels"
        before = client.statistics("tiny")["model_stats"][0]["inference_count"]
        client.infer("tiny", {name: arrays[name][:2] for name in DATATYPES}, request_id="seven")
        assert client.statistics("tiny")["model_stats"][0]["inference_count"] == before + 2
        client.label("tiny", "seven", [1, 2])
        with pytest.raises(poise.RequestError, match="labelled before"):
            client.label("tiny", "seven", [1, 2])
        with pytest.raises(poise.NotFoundError, match="no route"):
            client.ask("GET", "/v2/nothing")
        with pytest.raises(poise.RequestError, match="405"):
            client.ask("DELETE", "/v2")
        with pytest.raises(poise.TooLargeError, match="for this route"):
            client.ask("POST", "/v2/models/tiny/labels", {"id": "x" * 5_000_000, "labels": []})
    assert two.request("HEAD", "/v2")[0] == 200
    assert two.request("POST", "/v2/poise/reload", Origin="http://evil.example")[0] == 403


def test_what_ingress_processes_count_is_in_the_metrics(two, arrays):
    route = 'poise_http_requests_total{code="400",route="/v2/models/{model}/infer"}'
    before = two.metric(route)
    assert two.post(b"{")[0] == 400
    two.wait_until(lambda: two.metric(route) == before + 1)
    assert two.metric("poise_http_connections_opened_total") > 0


def test_large_json_and_large_bodies(two, arrays, expected):
    items = 600
    many = {name: np.concatenate([arrays[name]] * 30)[:items] for name in DATATYPES}
    request = json_request(many, ("letters", "length", "wave", "pixels"), items)
    request["unknown"] = "x" * 300_000
    status, answer = two.post(request)
    assert status == 200, answer
    logits = np.array(answer["outputs"][0]["data"]).reshape(items, -1)
    np.testing.assert_allclose(logits, expected(many, ("image", "sound", "word")), rtol=1e-3, atol=1e-3)


def test_no_more_items_wait_than_the_service_may_queue(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1, queue_items=4)
    request = json_request(arrays, tuple(DATATYPES))
    with serving(service, "--ingress", "2") as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        with stopped(answering(server)):
            waiting = [pool.submit(server.post, request) for _ in range(4)]
            server.wait_until(lambda: server.metric("poise_queue_jobs") == 4)
            for _ in range(6):  # whichever process it comes to
                status, answer = server.post(request)
                assert (status, answer["reason"]) == (429, "queue_full")
        assert [each.result()[0] for each in waiting] == [200] * 4
        assert server.metric('poise_refused_jobs_total{reason="queue_full"}') == 6
        assert server.post(json_request(arrays, tuple(DATATYPES), 5))[0] == 413


def test_a_client_that_leaves_takes_its_job_along(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    given = {name: arrays[name][:1] for name in DATATYPES}
    with serving(service, "--ingress", "1") as server:
        with stopped(answering(server)):
            # one that the worker has, and one in the queue
            for _ in range(2):
                with (
                    poise.Client(server.url, timeout_s=3.0) as client,
                    pytest.raises(poise.NoAnswerError, match="in time"),
                ):
                    client.infer("tiny", given)
            server.wait_until(lambda: server.metric("poise_queue_jobs") <= 1)
        server.wait_until(lambda: server.metric("poise_queue_items") == 0)
        assert server.metric('poise_refused_jobs_total{reason="cancelled"}') == 2
        with poise.Client(server.url) as client:
            assert client.infer("tiny", given).items == 1


def test_one_that_is_killed_comes_back_when_no_batch_touches_its_rows(tmp_path, arrays, expected):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    given = {name: arrays[name][:2] for name in DATATYPES}
    with serving(service, "--ingress", "1") as server, concurrent.futures.ThreadPoolExecutor() as pool:
        (first,) = ingresses(server)
        workers = answering(server)

        def ask() -> poise.Answer:
            with poise.Client(server.url) as client:
                return client.infer("tiny", given)

        # one that ends soon after its start is started again a second later
        server.wait_until(lambda: time.time() - first.create_time() > 2.5)
        with stopped(workers):
            lost = pool.submit(ask)
            server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
            os.kill(first.pid, signal.SIGKILL)
            with pytest.raises(poise.NoAnswerError):
                lost.result()
            server.wait_until(lambda: "ingress process 1 ended" in server.log())
            with poise.Client(server.url, timeout_s=0.3) as client, pytest.raises(poise.NoAnswerError):
                client.live()
            waits = pool.submit(ask)  # its connection waits on the listening socket
            with subprocess.Popen(["sleep", "0"]) as process:
                resumed_s = psutil.Process(process.pid).create_time()
            resume(workers)
        np.testing.assert_allclose(
            waits.result().outputs["logits"],
            expected(given, ("image", "sound", "word")),
            rtol=1e-4,
            atol=1e-4,
        )
        (second,) = ingresses(server)
        assert second.create_time() >= resumed_s
        assert server.metric('poise_refused_jobs_total{reason="cancelled"}') == 1
        assert server.metric("poise_queue_items") == 0
        assert server.terminate() == 0


@pytest.mark.slow
def test_killed_again_and_again_under_load_only_its_own_clients_notice(tmp_path, arrays):
    service = emulated_service(tmp_path / "tiny", STATIC)
    given = {name: arrays[name][:1] for name in DATATYPES}
    over = threading.Event()
    lost: list[str] = []

    def ask() -> int:
        answered = 0
        with poise.Client(server.url) as client:
            while not over.is_set():
                try:
                    client.infer(server.service, given)
                    answered += 1
                except poise.NoAnswerError as error:
                    lost.append(str(error))
        return answered

    with serving(service, "--ingress", "2") as server, concurrent.futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for kills in range(1, 4):
                server.wait_until(lambda: len(ingresses(server)) == 2)
                os.kill(ingresses(server)[0].pid, signal.SIGKILL)
                server.wait_until(lambda kills=kills: server.log().count("ended with status -9") == kills)  # type: ignore[misc]
            server.wait_until(lambda: len(ingresses(server)) == 2)
        finally:
            over.set()
        assert all(each.result() > 0 for each in asking)
        assert len(lost) <= 3 * 4  # each had one job at most whenever one was killed
        server.wait_until(lambda: server.metric("poise_queue_items") == 0)
        assert server.terminate() == 0


def test_one_that_is_stopped_is_noticed_and_another_takes_its_place(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    given = {name: arrays[name][:1] for name in DATATYPES}
    with serving(service, "--ingress", "2") as server:
        first, second = ingresses(server)
        first.suspend()
        while "says nothing; it is ended" not in server.log():
            assert server.process.poll() is None
            time.sleep(0.05)
        assert psutil.wait_procs([first], timeout=60)[1] == []
        server.wait_until(lambda: len(ingresses(server)) == 2)
        assert second.is_running()
        for _ in range(20):  # whichever process it comes to
            with poise.Client(server.url) as client:
                assert client.infer("tiny", given).items == 1
        assert server.terminate() == 0


def test_accepted_jobs_are_answered_before_the_end(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    request = json_request(arrays, tuple(DATATYPES))
    with serving(service, "--ingress", "2") as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        children = server.workers()
        workers = answering(server)
        with stopped(workers):
            waiting = [pool.submit(server.post, request) for _ in range(6)]
            server.wait_until(lambda: server.metric("poise_queue_jobs") == 6)
            server.process.send_signal(signal.SIGTERM)
            server.wait_until(lambda: "draining" in server.log())
            status, answer = server.post(request)
            assert (status, answer["reason"]) == (503, "draining")
            resume(workers)
        assert [each.result()[0] for each in waiting] == [200] * 6
        assert server.process.wait(60) == 0
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert "ERROR" not in server.log()


@pytest.mark.slow
def test_reloads_under_load_lose_no_job(tmp_path, arrays):
    service = emulated_service(tmp_path / "tiny", STATIC)
    with serving(service, "--ingress", "2") as server:
        before = {process.pid for process in ingresses(server)}
        with hammered(server, arrays) as answers:
            edit(service, "latency_slo_ms: 60000", "latency_slo_ms: 70000")
            for _ in range(4):
                assert reload(server).returncode == 0
        assert len(answers) > 50
        assert set(answers) == {200}
        assert {process.pid for process in ingresses(server)} == before
        assert server.terminate() == 0
    assert "ERROR" not in server.log()


def test_a_service_that_is_unloaded_says_so_and_comes_back(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    request = json_request(arrays, tuple(DATATYPES))
    with serving(service, "--ingress", "1", "--repository") as server:
        assert server.request("POST", "/v2/repository/models/tiny/unload")[0] == 200
        assert server.post(request)[0] in (503, 404)  # it is gone once its last job is answered
        server.wait_until(lambda: not answering(server))
        server.wait_until(lambda: server.post(request)[0] == 404)
        os.kill(ingresses(server)[0].pid, signal.SIGKILL)
        server.wait_until(lambda: "ended with status -9" in server.log())
        assert server.post(request)[0] == 404  # by another process
        assert server.request("POST", "/v2/repository/models/tiny/load")[0] == 200
        assert server.post(request)[0] == 200


@pytest.mark.slow
def test_the_cells_process_is_killed_and_nothing_is_left(tmp_path):
    with serving(copy_tiny(tmp_path / "tiny"), "--ingress", "2") as server:
        children = server.workers()
        assert len(children) == 4
        server.process.kill()
        assert psutil.wait_procs(children, timeout=60)[1] == []


@pytest.mark.slow
def test_tokens_and_certificates_that_change(tmp_path, arrays):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    shown = authority.issue_cert("127.0.0.1")
    shown.private_key_pem.write_to_path(tmp_path / "key.pem")
    shown.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tokens = written(tmp_path / "tokens", f"{ALICE}\n")
    options = ["--ingress", "1", "--token-file", str(tokens)]
    options += ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]

    trusting = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    given = {name: arrays[name][:1] for name in DATATYPES}

    def items(token: str | None) -> int:
        with poise.Client(server.url, token=token, tls=trusting) as client:
            return client.infer("tiny", given).items

    with serving(copy_tiny(tmp_path / "tiny", workers=1), *options) as server:
        assert server.url.startswith("https://")
        assert items(ALICE) == 1
        for token in (None, BOB):
            with pytest.raises(poise.UnauthorizedError):
                items(token)
            with (
                pytest.raises(poise.UnauthorizedError),
                poise.Client(server.url, token=token, tls=trusting) as client,
            ):
                client.live()
        written(tokens, f"{BOB}\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_until(lambda: "reloaded" in server.log())

        def taken_up() -> bool:
            with contextlib.suppress(poise.UnauthorizedError):
                return items(BOB) == 1
            return False

        server.wait_until(taken_up)
        with pytest.raises(poise.UnauthorizedError):
            items(ALICE)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=40), st.data())
def test_no_more_rows_are_taken_than_one_share_has(taken, data):
    rows = SharedRows(3 * 8, 3)
    held: list[tuple[int, int]] = []
    for place, count in taken:
        used = sum(size for _, size in held)
        assert rows.used == used
        first = rows.take(count) if place == 0 else rows.count_in(rows.share_of(place)[0], count)
        if used + count > 8:
            assert first is None
        if first is not None:
            held.append((first, count))
        if held and data.draw(st.booleans()):
            rows.give_back(*held.pop(data.draw(st.integers(0, len(held) - 1))))
    for each in held:
        rows.give_back(*each)
    assert rows.used == 0
    assert rows.take(8) == 0


@given(st.lists(st.integers(0, 400_000), max_size=6))
def test_messages_of_any_length_come_whole_and_in_order(sizes):
    told: list[ToIngress] = [
        Replied(n, 200, ((b"a", b"b"),), bytes(size), False) for n, size in enumerate(sizes)
    ]
    told.append(JobRefused(7, RefusalReason.DRAINING, "so"))
    unpacker: Unpacker[ToIngress] = Unpacker(ToIngress)
    assert [message for packet in packets(told) for message in unpacker.take(packet)] == told


@given(st.binary(max_size=50))
def test_packets_that_are_none(data):
    unpacker: Unpacker[FromIngress] = Unpacker(FromIngress)
    with contextlib.suppress(InternalError):
        assert isinstance(unpacker.take(data), list)


@pytest.mark.parametrize(("listening", "beats"), [(True, HUNG_BEATS), (False, START_BEATS)])
def test_a_process_that_says_nothing_for_too_long_is_ended_once(listening, beats):
    kills: list[int] = []
    beat = 0
    process: Any = IngressProcess.__new__(IngressProcess)
    process.place = 1
    process._silent_beats = 0
    process.listening = SimpleNamespace(done=lambda: listening)
    process.kill = lambda: kills.append(beat)
    process._unpacker = Unpacker(FromIngress)
    for beat in range(2 * beats - 1):
        if beat == beats - 1:  # the last beat that it may be silent for
            (packet,) = packets([Drained()])
            process.replied = SimpleNamespace(done=lambda: True)
            process._packet(packet)
        process.beat()
    assert kills == [2 * beats - 2]
    for _ in range(2 * beats):
        process.beat()
    assert len(kills) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"first_row": 7}, "not its own"),
        ({"first_row": 15}, "not its own"),
        ({"items": 9}, "not its own"),
        ({"items": 0}, "not its own"),
        ({"slo_class": "gold"}, "cannot be"),
    ],
)
def test_an_ingress_that_reaches_beyond_its_rows_is_ended(fields, words):
    """What an ingress process says is not believed: ``_take_up`` raises, and ``ChildProcess`` ends who sent it."""
    cell = SimpleNamespace(rows=SharedRows(3 * 8, 3), wire=SimpleNamespace(classes={"bulk": None}))
    process = IngressProcess.__new__(IngressProcess)
    process.place = 1
    process._jobs = {}
    process._owner = SimpleNamespace(cell=lambda gate: cell)
    placed = {
        "number": 1,
        "gate": 1,
        "first_row": 8,
        "items": 2,
        "available": 1,
        "slo_class": "bulk",
        "arrival_s": 0.0,
        "deadline_s": 1.0,
        "accuracy_floor": 0.0,
        "priority": 0,
        "bucket": 0,
    }
    with pytest.raises(InternalError, match=words):
        process._take_up(JobPlaced(**{**placed, **fields}))


def test_whatever_way_a_path_is_written_inference_is_its_own():
    table = Routes()
    for pattern in (f"{MODEL}/infer", f"{MODEL}/ready"):
        table.add("POST", pattern, lambda _: Reply(200))
    told = [
        RouteTold(method, pattern, route.changes_state, route.admin)
        for pattern, methods in table
        for method, route in methods.items()
    ]

    async def whole() -> None:
        app = IngressApp(Gates({}), Guard(), Limits(), told, lambda message: None)
        for path in (b"/v2/models/a/infer", b"/v2/models/a/infer/", b"/v2/models/a/versions/%31/infer/"):
            route = app.routes.find(path)[0]["POST"]
            assert route.handler == app._infer_here
            assert route.pattern == f"{MODEL}/infer"
        assert app.routes.find(b"/v2/models/a/versions/1/ready")[0]["POST"].handler == app._pass_on
        await app.stop()

    asyncio.run(whole())


def test_a_message_that_cannot_be_taken_up_costs_no_other(caplog):
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    found: list[int] = []

    def take(message: ToIngress, files: object) -> None:
        assert isinstance(message, JobRefused)
        if message.number == 1:
            raise MemoryError
        found.append(message.number)

    async def whole() -> None:
        link = IngressLink(mine, take, lambda: None)
        (packet,) = packets([JobRefused(number, RefusalReason.DRAINING, "") for number in (1, 2, 3)])
        theirs.send(packet)
        while len(found) < 2:
            await asyncio.sleep(0)
        link._end()

    with mine, theirs:
        asyncio.run(whole())
    assert found == [2, 3]
    assert "JobRefused" in caplog.text


def test_an_answer_that_finds_no_memory_fails_its_own_job():
    class Full:
        def __getitem__(self, rows: slice) -> Any:
            raise MemoryError

    told = SimpleNamespace(gate=1, wire=None, rows=8, first_row=0)
    gate = RemoteGate(cast(Any, told), None, cast(Any, None), lambda message: None)
    gate._outputs = cast(Any, {"y": Full()})
    first = gate._rows.take(4)
    assert first is not None
    pending = PendingJob(Job(1, "only", 4, 0.0, 1.0, 0.0, 1), first)
    gate.answered(pending, cast(Any, None))
    assert isinstance(pending.outcome, InternalError)
    assert gate._rows.used == 0


def test_a_job_that_the_cell_cannot_take_up_fails_and_no_other(caplog):
    process = object.__new__(IngressProcess)
    told: list[ToIngress] = []

    def cell(gate: int) -> Any:
        if gate == 1:
            raise MemoryError

    process.place = 1
    process._jobs, process._silent_beats = {}, 0
    process._unpacker = Unpacker(FromIngress)
    process._owner = cast(Any, SimpleNamespace(cell=cell))
    process.tell = told.append
    placed = JobPlaced(
        number=1, gate=1, first_row=0, items=1, available=1, slo_class="a", arrival_s=0.0, deadline_s=1.0,
        accuracy_floor=0.0, priority=0, bucket=0,
    )  # fmt: skip
    (packet,) = packets([placed, msgspec.structs.replace(placed, number=2, gate=2)])
    process._packet(packet)
    assert told[0] == JobFailed(1)
    assert isinstance(told[1], JobRefused)
    assert told[1].number == 2
    assert "JobPlaced could not be taken up" in caplog.text
