"""A server takes up changed files while it answers: as a whole, or not at all, and no job is lost."""

import concurrent.futures
import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from tests.faults.servers import serving_with
from tests.servers import DATATYPES, POISE, Server, copy_endless, copy_tiny, json_request, serving
from tests.serving.test_adapted_server import emulated_service, reader
from tests.serving.test_server import resume, stopped, triton_inputs
from tritonclient.utils import InferenceServerException

from poise.errors import ConfigError

STATIC = "budget: {cores: 2, memory: 2GB}\n"


@pytest.fixture(scope="module")
def patient(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for the rest of a body for as long as a reload takes, on however busy a machine."""
    config = tmp_path_factory.mktemp("patient") / "server.yaml"
    config.write_text("format: 1\nlimits: {body_s: 100}\n")
    with serving(tiny, "--config", str(config)) as running:
        yield running


def edit(service: Path, old: str, new: str) -> None:
    file = service / "service.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def reload(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*POISE, "reload", server.url, *options], capture_output=True, text=True, timeout=100, check=False
    )


def posted(server: Server, path: str, body: dict | None = None) -> tuple[int, dict]:
    status, _, answer = server.request("POST", path, b"" if body is None else json.dumps(body).encode())
    return status, json.loads(answer) if answer else {}


@contextlib.contextmanager
def hammered(server: Server, arrays) -> Iterator[list[object]]:
    """Clients that ask without a pause; what they got is all there at the end."""
    over = threading.Event()

    def ask() -> list[object]:
        got: list[object] = []
        with contextlib.closing(triton.InferenceServerClient(server.address)) as client:
            inputs = triton_inputs(arrays, DATATYPES, slice(1))
            while not over.is_set():
                try:
                    client.infer(server.service, inputs)
                    got.append(200)
                except Exception as error:
                    got.append(error)
        return got

    answers: list[object] = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            yield answers
        finally:
            over.set()
            for each in asking:
                answers += each.result()


def test_five_reloads_under_load_lose_no_job(tmp_path, arrays):
    service = emulated_service(tmp_path / "tiny", STATIC)
    with serving(service) as server:
        (before,) = server.workers()
        with hammered(server, arrays) as answers:
            edit(service, "latency_slo_ms: 60000", "latency_slo_ms: 70000")
            done = reload(server)
            assert done.returncode == 0, done.stderr
            assert "tiny: classes" in done.stdout
            for _ in range(3):
                assert posted(server, "/v2/poise/reload") == (
                    200,
                    {"services": {}, "took_s": pytest.approx(0, abs=60), "server": [], "next_start": []},
                )
            server.process.send_signal(signal.SIGHUP)
            server.wait_until(lambda: server.log().count("reloaded; changed:") == 5)
        assert len(answers) > 50
        assert set(answers) == {200}
        server.wait_until(lambda: len(server.workers()) == 1)
        assert server.workers()[0].pid != before.pid
        assert server.terminate() == 0
    assert "ERROR" not in server.log()


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapter", ["", "adapter: {policy: poise, interval_s: 1, forecaster: {kind: last-max}}\n"]
)
def test_nor_do_reloads_of_real_workers(tmp_path, arrays, adapter):
    service = copy_tiny(tmp_path / "tiny")
    file = service / "service.yaml"
    file.write_text(file.read_text() + adapter)
    with serving(service) as server:
        with hammered(server, arrays) as answers:
            for slo_ms in (600_001, 600_002, 600_003):
                file.write_text(re.sub(r"latency_slo_ms: \d+", f"latency_slo_ms: {slo_ms}", file.read_text()))
                assert posted(server, "/v2/poise/reload")[1]["services"] == {"tiny": ["classes"]}
        assert len(answers) > 50
        assert set(answers) == {200}
        assert server.terminate() == 0
    assert "ERROR" not in server.log()


def test_what_was_replaced_leaves_no_memory_behind(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    with serving(service) as server:
        for _ in range(3):
            assert server.post(json_request(arrays, tuple(DATATYPES)))[0] == 200
            assert posted(server, "/v2/poise/reload")[0] == 200
        model = service / "late" / "head.onnx"
        model.write_bytes(b"no model")
        for _ in range(3):
            assert posted(server, "/v2/poise/reload")[0] == 409
        server.wait_until(lambda: arenas(server) == 1)


def arenas(server: Server) -> int:
    maps = psutil.Process(server.process.pid).memory_maps(grouped=False)
    return sum("poise-arena" in each.path for each in maps)


def test_a_job_in_flight_is_answered_by_the_workers_that_have_it(tmp_path, arrays):
    request = json_request(arrays, tuple(DATATYPES))
    patient = "import poise.serving.batches as b; b.HUNG_AFTER_S = 600.0"
    with serving_with(copy_tiny(tmp_path / "tiny", workers=1), "--grace-s", "2", before=patient) as server:
        old = server.workers()
        with stopped(old), concurrent.futures.ThreadPoolExecutor() as pool:
            first = pool.submit(server.post, request)
            server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
            assert reload(server).returncode == 0
            assert server.post(request)[0] == 200  # by the new worker
            # there are two deployments at most, and the old one waits for as long as its job does
            again = reload(server)
            assert again.returncode == 2
            assert "what was served before the last change still has jobs to answer" in again.stderr
            assert not first.done()
            resume(old)
            assert first.result()[0] == 200
        server.wait_until(lambda: len(server.workers()) == 1)
        assert server.workers()[0].pid != old[0].pid
        assert server.terminate() == 0


@pytest.mark.parametrize(
    "path", ["/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer", "/v2/models/t%69ny/infer"]
)
def test_a_request_that_comes_while_all_is_changed_is_answered_by_what_is_there_then(patient, arrays, path):
    before = patient.workers()
    body = json.dumps(json_request(arrays, tuple(DATATYPES))).encode()
    host, _, port = patient.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:10])
        assert reload(patient).returncode == 0
        patient.wait_until(lambda: not any(worker.is_running() for worker in before))
        connection.sendall(body[10:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_what_is_wrong_is_refused_and_changes_nothing(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    request = json_request(arrays, tuple(DATATYPES))
    good = (service / "service.yaml").read_text()
    model = (service / "late/head.onnx").read_bytes()
    with serving(service) as server:
        before = server.workers()
        edit(service, "service: tiny", "service: tiny\nunknown: 1")
        refused = reload(server)
        assert refused.returncode == 2
        assert "service.yaml:" in refused.stderr
        assert "unknown field 'unknown'" in refused.stderr
        (service / "service.yaml").write_text(good)
        (service / "late/head.onnx").write_bytes(b"not a model")
        status, answer = posted(server, "/v2/poise/reload")
        assert status == 409
        assert "a worker cannot start: late/head.onnx" in answer["error"]
        assert "ONNX Runtime" not in answer["error"]
        assert "ONNX Runtime" in server.log()
        assert [worker.pid for worker in server.workers()] == [worker.pid for worker in before]
        assert server.post(request)[0] == 200
        (service / "late/head.onnx").write_bytes(model)
        edit(service, "interactive:", "urgent: {latency_slo_ms: 600000}\n  interactive:")
        assert reload(server, "--json").returncode == 0
        assert server.post({**request, "parameters": {"poise_class": "urgent"}})[0] == 200
        assert server.log().count("refused, and everything stays as it is") == 2


def test_what_a_connection_sends_again_is_held_against_what_is_there_by_then(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1)
    urgent = "urgent: {latency_slo_ms: 600000}\n  interactive:"
    edit(service, "interactive:", urgent)
    with (
        serving(service) as server,
        contextlib.closing(triton.InferenceServerClient(server.address)) as client,
    ):
        inputs = triton_inputs(arrays, DATATYPES, slice(1))
        for _ in range(3):
            client.infer("tiny", inputs, parameters={"poise_class": "urgent"})
        edit(service, urgent, "interactive:")
        assert reload(server).returncode == 0
        with pytest.raises(InferenceServerException, match=r"poise_class: got .urgent."):
            client.infer("tiny", inputs, parameters={"poise_class": "urgent"})


def test_a_server_that_is_to_end_gives_its_reload_up(tmp_path, arrays):
    service = copy_endless(tmp_path / "tiny")
    profile = service / "emulated_profile.json"
    with serving(service) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(server.post, json_request(arrays, tuple(DATATYPES)))
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
        loads = json.loads(profile.read_text())
        for variant in loads["variants"]:
            variant["load_time_s"] = 1000.0
        profile.write_text(json.dumps(loads))
        coming = pool.submit(reload, server)
        server.wait_until(lambda: len(server.workers()) == 2)
        server.process.terminate()
        assert coming.result().returncode == 2
        assert "the server is draining" in coming.result().stderr
        assert server.process.poll() is None  # it still has a job to answer
        server.process.terminate()
        assert server.process.wait(60) == 1
        assert first.result()[0] == 503


def test_an_adapted_service_is_reloaded_and_its_history_goes_on(tmp_path, arrays):
    service = emulated_service(tmp_path / "tiny")

    def started() -> int:
        try:
            with reader(service) as kept:
                return [each.decision.reason for each in kept.decisions(1000)].count("start")
        except ConfigError:  # its writer has not begun it yet
            return 0

    with serving(service) as server:
        server.wait_until(lambda: started() == 1)
        edit(service, "cores: 12", "cores: 6")
        with hammered(server, arrays) as answers:
            assert posted(server, "/v2/poise/reload")[1]["services"] == {"tiny": ["budget"]}
        assert set(answers) == {200}
        server.wait_until(lambda: 0 < server.metric("poise_cores_in_use") <= 6)
        server.wait_until(lambda: len(server.workers()) == 1)

        server.wait_until(lambda: started() == 2)
        assert server.terminate() == 0
    with reader(service) as kept:
        seconds = [(second.at_s, second.slo_class) for second in kept.seconds(1000)]
        assert len(seconds) == len(set(seconds))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[tuple[Server, Path, Path]]:
    folder = tmp_path_factory.mktemp("two")
    one, other = (emulated_service(folder / name, STATIC, name) for name in ("one", "two"))
    with serving(one, str(other), "--repository") as server:
        yield server, one, other


def test_clients_of_triton_unload_and_load_over_http(two, arrays):
    server, _, _ = two
    with contextlib.closing(triton.InferenceServerClient(server.address, network_timeout=60)) as client:
        assert "model_repository" in client.get_server_metadata()["extensions"]
        ready = {"state": "READY", "version": "1"}
        assert client.get_model_repository_index() == [{"name": "one", **ready}, {"name": "two", **ready}]
        kept = {child.pid for child in server.workers()}
        client.unload_model("two")
        server.wait_until(lambda: client.get_model_repository_index()[1]["state"] == "UNAVAILABLE")
        assert client.get_model_repository_index()[1]["reason"] == "unloaded"
        assert [each["name"] for each in posted_index(server)] == ["one"]
        server.wait_until(lambda: len(server.workers()) == 1)
        assert len({child.pid for child in server.workers()} & kept) == 1
        assert not client.is_model_ready("two")
        assert client.is_model_ready("one")
        assert client.is_server_ready()
        client.unload_model("one")
        server.wait_until(lambda: posted_index(server) == [])
        assert not client.is_server_ready()
        assert server.request("GET", "/v2/health/ready")[0] == 503
        server.wait_until(lambda: b"no service is loaded" in server.request("GET", "/v2/health/ready")[2])
        with contextlib.closing(triton_grpc.InferenceServerClient(server.grpc_address)) as grpc_client:
            assert not grpc_client.is_server_ready()
            client.load_model("one")
            assert grpc_client.is_server_ready()
        assert json.loads(server.request("GET", "/v2/health/ready")[2]) == {"ready": True}
        assert json.loads(server.request("GET", "/v2/models/one/ready")[2]) == {"name": "one", "ready": True}
        server.service = "two"
        status, answer = server.post(json_request(arrays, tuple(DATATYPES)))
        assert (status, answer["error"]) == (404, "no model 'two', expected one")
        client.load_model("two")
        assert client.is_model_ready("two")
        assert server.post(json_request(arrays, tuple(DATATYPES)))[0] == 200
        with pytest.raises(triton.InferenceServerException, match="no model 'three'"):
            client.load_model("three")


def posted_index(server: Server) -> list[dict]:
    status, _, answer = server.request("POST", "/v2/repository/index", b'{"ready": true}')
    assert status == 200
    return json.loads(answer)


def test_clients_of_triton_unload_and_load_over_grpc(two):
    server, _, _ = two
    with contextlib.closing(triton_grpc.InferenceServerClient(server.grpc_address)) as client:
        client.unload_model("one")
        assert not client.is_model_ready("one")
        client.load_model("one")
        assert client.is_model_ready("one")
        assert [model.state for model in client.get_model_repository_index().models] == ["READY", "READY"]


def test_one_service_is_loaded_anew_beside_another_that_stays(two):
    server, one, other = two
    before = {child.pid for child in server.workers()}
    assert len(before) == 2
    edit(one, "latency_slo_ms: 60000", "latency_slo_ms: 5000")
    edit(other, "latency_slo_ms: 60000", "latency_slo_ms: 5000")
    assert server.request("POST", "/v2/repository/models/one/load")[0] == 200
    server.wait_until(lambda: len(server.workers()) == 2)
    assert len(before & {child.pid for child in server.workers()}) == 1
    # the other is as it was until it is asked for
    assert posted(server, "/v2/poise/reload")[1]["services"] == {"two": ["classes"]}


def test_repository_requests_that_are_none(two):
    server, _, _ = two
    status, _, answer = server.request("POST", "/v2/repository/index", b"nonsense")
    assert status == 400
    assert json.loads(answer)["error"] == "the request is not JSON: invalid character (byte 4)"
    status, _, answer = server.request("POST", "/v2/repository/models/one/load", b"[1]")
    assert status == 400
    assert json.loads(answer)["error"] == (
        "the request is not as the protocol says: Expected `object`, got `array`"
    )
    assert server.request("GET", "/v2/repository/index")[0] == 405
    assert server.request("POST", "/v2/repository/models/nix/unload")[0] == 404


def test_an_unloaded_service_stays_so_when_all_is_reloaded(two, arrays):
    server, _, _ = two
    assert server.request("POST", "/v2/repository/models/two/unload")[0] == 200
    assert posted(server, "/v2/poise/reload")[0] == 200
    assert [each["name"] for each in posted_index(server)] == ["one"]
    assert server.request("POST", "/v2/repository/models/two/load")[0] == 200
    assert [each["name"] for each in posted_index(server)] == ["one", "two"]


def test_services_of_one_budget_go_and_come(tmp_path, arrays):
    more = "budget: {cores: 6, memory: 2GB}\nadapter: {policy: poise, interval_s: 5, forecaster: {kind: last-max}}\n"
    one, other = (emulated_service(tmp_path / name, more, name) for name in ("one", "two"))
    with serving(one, str(other), "--repository") as server:
        with hammered(server, arrays) as answers:
            assert server.request("POST", "/v2/repository/models/two/unload")[0] == 200
            server.wait_until(lambda: len(server.workers()) == 1)
            assert server.request("POST", "/v2/repository/models/two/load")[0] == 200
        assert set(answers) == {200}
        assert [each["name"] for each in posted_index(server)] == ["one", "two"]
        assert server.metric('poise_adapter_faults_total{service="one"}') == 0
        server.service = "two"
        assert server.post(json_request(arrays, tuple(DATATYPES)))[0] == 200

        def kept_of() -> set[str]:
            with reader(one) as kept:
                return {second.service for second in kept.seconds(1000)}

        server.wait_until(lambda: kept_of() == {"one", "two"})
        assert server.terminate() == 0


def test_a_server_that_is_none_is_one_clear_line(tmp_path):
    asked = subprocess.run(
        [*POISE, "reload", "http://127.0.0.1:9"], capture_output=True, text=True, timeout=60, check=False
    )
    assert asked.returncode == 2
    assert "did not answer: Connection refused" in asked.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v2/models/tiny", "127.0.0.1:9/v2"])
def test_a_path_is_not_a_servers(url):
    asked = subprocess.run([*POISE, "reload", url], capture_output=True, text=True, timeout=60, check=False)
    assert asked.returncode == 2
    assert f"got URL '{url}' with a path, expected http://HOST:PORT" in asked.stderr
