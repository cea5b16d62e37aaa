"""A real server, as a user starts one, and a client that nobody here wrote."""

import concurrent.futures
import json
import socket
import subprocess
from collections.abc import Iterable
from functools import partial

import numpy as np
import psutil
import pytest
import tritonclient.http as triton
from tests.servers import (
    DATATYPES,
    MODALITY_INPUTS,
    POISE,
    Server,
    copy_endless,
    copy_tiny,
    json_request,
    serving,
)

from poise.scheduling.commands import Answer
from poise.scheduling.events import JobArrived, WorkerLost
from poise.scheduling.log import decode_log


def triton_inputs(
    arrays: dict[str, np.ndarray], names: Iterable[str], items: slice = slice(3), *, binary: bool = True
) -> list[triton.InferInput]:
    inputs = []
    for name in names:
        array = arrays[name][items]
        tensor = triton.InferInput(name, list(array.shape), DATATYPES[name])
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return inputs


@pytest.fixture
def client(server):
    client = triton.InferenceServerClient(server.address, network_timeout=60, connection_timeout=60)
    yield client
    client.close()


def test_health_and_metadata(server, client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert client.get_server_metadata()["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "parameters",
        "schedule_policy",
        "statistics",
    ]
    metadata = client.get_model_metadata("tiny")
    assert {t["name"]: (t["datatype"], t["shape"]) for t in metadata["inputs"]} == {
        "pixels": ("UINT8", [-1, 2, 3]),
        "wave": ("FP32", [-1, 4]),
        "letters": ("INT64", [-1, 2]),
        "length": ("FP32", [-1, 1]),
    }
    assert metadata["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 5]}
    assert metadata == client.get_model_metadata("tiny", "1")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "modalities", [("image", "sound", "word"), ("sound",), ("image", "sound"), ("word", "image")]
)
def test_infer_with_modalities_left_out(client, arrays, expected, modalities, binary):
    names = [name for modality in modalities for name in MODALITY_INPUTS[modality]]
    result = client.infer(
        "tiny",
        triton_inputs(arrays, names, binary=binary),
        outputs=[triton.InferRequestedOutput("logits", binary_data=binary)],
        request_id="seven",
        parameters={"poise_accuracy_floor": 0.1},
    )
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("tiny", "1", "seven")
    parameters = response["parameters"]
    used = parameters["poise_modalities"].split(",")
    assert len(used) == 3
    assert all(set(label.split("+")) <= set(modalities) for label in used)
    assert set(parameters["poise_variant"].split(",")) <= {"late", "whole"}
    assert 0 < parameters["poise_accuracy"] <= 1
    assert parameters["poise_queue_us"] >= 0
    assert parameters["poise_compute_us"] > 0
    assert "poise_late" not in parameters
    logits = result.as_numpy("logits")
    for i, label in enumerate(used):
        given = {name: array[i : i + 1] for name, array in arrays.items()}
        np.testing.assert_allclose(
            logits[i : i + 1], expected(given, tuple(label.split("+"))), rtol=1e-4, atol=1e-4
        )


def test_all_outputs_where_none_is_named(client, arrays):
    result = client.infer("tiny", triton_inputs(arrays, DATATYPES))
    np.testing.assert_array_equal(result.as_numpy("score")[:, 0], result.as_numpy("logits").max(axis=1))


def test_a_job_of_many_items_spans_batches(client, arrays):
    many = {name: np.concatenate([array] * 4) for name, array in arrays.items()}
    result = client.infer(
        "tiny", triton_inputs(many, DATATYPES, slice(None)), parameters={"poise_class": "bulk"}
    )
    logits = result.as_numpy("logits")
    used = result.get_response()["parameters"]["poise_modalities"].split(",")
    assert logits.shape == (240, 5)
    assert len(used) == 240


def test_a_job_of_priority_and_timeout(client, arrays):
    assert client.infer("tiny", triton_inputs(arrays, DATATYPES), priority=1, timeout=50_000_000)


def test_many_clients_at_once(server, arrays, expected):
    def ask(i):
        given = {name: array[i : i + 1] for name, array in arrays.items()}
        status, answer = server.post(json_request(given, tuple(DATATYPES)))
        assert status == 200
        label = answer["parameters"]["poise_modalities"]
        np.testing.assert_allclose(
            [answer["outputs"][0]["data"]], expected(given, tuple(label.split("+"))), rtol=1e-4, atol=1e-4
        )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(60)))


ERRORS = [
    ("GET", "/nix", b"", 404, "no route '/nix'"),
    ("GET", "/v2/models/other", b"", 404, "no model 'other', expected tiny"),
    ("POST", "/v2/models/other/infer", b"{}", 404, "no model 'other', expected tiny"),
    ("GET", "/v2/models/tiny/versions/2", b"", 404, "no version '2', expected 1"),
    ("GET", "/v2/models/tiny/nothing", b"", 404, "no route"),
    ("POST", "/v2/repository/index", b"", 404, "no route"),
    ("GET", "/v2/models/tiny/infer", b"", 405, "got method 'GET', expected POST"),
    ("POST", "/v2/models/tiny", b"", 405, "got method 'POST', expected GET"),
    ("POST", "/v2/models/tiny/infer", b"", 400, "not JSON"),
    ("POST", "/v2/models/tiny/infer", b"\x00\xff" * 500, 400, "not JSON"),
    ("POST", "/v2/models/tiny/infer", b"[" * 200_000, 400, "Expected `object`"),
    ("POST", "/v2/models/tiny/versions/1/infer", b'{"inputs": []}', 400, "inputs: got none"),
]


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: f"{case[0]} {case[1]} {case[4]}")
def test_errors_are_json_and_name_the_thing(server, case):
    method, path, body, status, words = case
    got, headers, answer = server.request(method, path, body)
    error = json.loads(answer)
    assert (got, list(error)) == (status, ["error"])
    assert words in error["error"]
    assert headers["content-type"] == "application/json"
    assert "Traceback" not in error["error"]


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Inference_Header_Content_Length": "many"}, "got 'many', expected a number of bytes"),
        ({"Inference_Header_Content_Length": "-1"}, "expected a number of bytes"),
        ({"Inference_Header_Content_Length": "99999"}, "the length of the body"),
    ],
)
def test_broken_headers(server, arrays, headers, words):
    status, answer = server.post(json_request(arrays, ("wave",)), **headers)
    assert status == 400
    assert words in answer["error"]


def test_an_unknown_encoding_is_told_which_are_known(server, arrays):
    body = json.dumps(json_request(arrays, ("wave",))).encode()
    status, headers, answer = server.request("POST", "/v2/models/tiny/infer", body, Content_Encoding="br")
    assert (status, headers["accept-encoding"]) == (415, "gzip, deflate")
    assert json.loads(answer)["error"] == "Content-Encoding: got 'br', expected gzip, deflate or identity"


def test_a_floor_out_of_reach_is_the_clients_doing(server, arrays):
    request = json_request(arrays, ("letters", "length"), parameters={"poise_accuracy_floor": 0.8})
    status, answer = server.post(request)
    assert status == 400
    assert "floor 0.8 is not reachable" in answer["error"]


def test_a_deadline_that_cannot_be_met(server, arrays):
    request = json_request(arrays, tuple(DATATYPES), 60, parameters={"poise_deadline_ms": 0.001})
    status, answer = server.post(request)
    assert status == 504
    assert "deadline" in answer["error"]


def test_metrics_count_what_happened(server, arrays):
    answered = 'poise_jobs_total{outcome="answered",slo_class="bulk"}'
    before = server.metric(answered)
    request = json_request(arrays, tuple(DATATYPES), 3, parameters={"poise_class": "bulk"})
    assert server.post(request)[0] == 200
    assert server.metric(answered) == before + 1
    assert server.metric('poise_workers{state="idle"}') + server.metric('poise_workers{state="busy"}') == 2
    assert server.metric("poise_queue_jobs") == 0
    assert server.metric("poise_batch_items_count") > 0
    assert server.metric("poise_scheduler_decision_seconds_count") > 0


def test_bodies_over_the_cap_and_jobs_over_the_arena(tmp_path, arrays):
    service = copy_tiny(tmp_path / "tiny", workers=1, queue_items=30)
    with serving(service, "--max-body-mb", "0.02") as server:
        status, answer = server.post(b"x" * 30_000)
        assert status == 413
        assert "expected at most 20972" in answer["error"]
        chunked = iter([b"x" * 15_000, b"x" * 15_000])
        assert server.request("POST", "/v2/models/tiny/infer", chunked)[0] == 413
        status, answer = server.post(json_request(arrays, ("wave",), 31))
        assert status == 413
        assert "expected at most 30" in answer["error"]
        with stopped(server.workers()), concurrent.futures.ThreadPoolExecutor() as pool:
            first = pool.submit(server.post, json_request(arrays, tuple(DATATYPES), 25))
            server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
            status, answer = server.post(json_request(arrays, tuple(DATATYPES), 10))
            assert status == 429
            resume(server.workers())
            assert first.result()[0] == 200
        assert server.metric('poise_refused_jobs_total{reason="queue_full"}') == 1


class stopped:  # noqa: N801  (a context manager)
    """Workers that do not run until they are resumed: a batch sent to them stays with them."""

    def __init__(self, workers: list[psutil.Process]) -> None:
        self._workers = workers

    def __enter__(self) -> None:
        for worker in self._workers:
            worker.suspend()

    def __exit__(self, *_: object) -> None:
        resume(self._workers)


def resume(workers: list[psutil.Process]) -> None:
    for worker in workers:
        if worker.is_running():
            worker.resume()


def test_a_worker_killed_with_a_batch_costs_no_answer(one_worker, arrays, tmp_path):
    server: Server = one_worker
    (worker,) = server.workers()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        worker.suspend()
        answers = [pool.submit(server.post, json_request(arrays, tuple(DATATYPES))) for _ in range(3)]
        server.wait_until(
            lambda: (
                server.metric('poise_workers{state="busy"}') == 1 and server.metric("poise_queue_jobs") == 3
            )
        )
        worker.kill()
        assert [answer.result()[0] for answer in answers] == [200, 200, 200]
    (other,) = server.workers()
    assert other.pid != worker.pid
    assert server.terminate() == 0
    with (tmp_path / "log.jsonl").open("rb") as lines:
        header, entries = decode_log(lines)
        log = list(entries)
    assert header.policy == "poise"
    assert sum(isinstance(event, JobArrived) for event, _ in log) == 3
    assert sum(isinstance(event, WorkerLost) for event, _ in log) == 1
    assert sum(isinstance(command, Answer) for _, commands in log for command in commands) == 3


def lost_more_than(server: Server, count: int) -> bool:
    return server.metric("poise_workers_lost_total") > count


def test_a_job_that_kills_two_workers_is_refused_as_its_own_fault(tmp_path, arrays):
    with serving(copy_endless(tmp_path / "tiny")) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(server.post, json_request(arrays, tuple(DATATYPES)))
        for lost in range(2):
            server.wait_until(lambda: server.metric('poise_workers{state="busy"}') == 1)
            (worker,) = server.workers()
            worker.kill()
            server.wait_until(partial(lost_more_than, server, lost))
        status, body = answer.result()
        assert status == 500
        assert "own fault" in body["error"]
        assert server.metric('poise_refused_jobs_total{reason="worker_killer"}') == 1


def test_a_client_that_leaves_frees_its_rows(one_worker, arrays):
    server: Server = one_worker
    host, port = server.address.split(":")
    with stopped(server.workers()), concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(server.post, json_request(arrays, tuple(DATATYPES)))
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
        body = json.dumps(json_request(arrays, tuple(DATATYPES))).encode()
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(
                b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
                + body
            )
            server.wait_until(lambda: server.metric("poise_queue_jobs") == 2)
        server.wait_until(lambda: server.metric('poise_refused_jobs_total{reason="cancelled"}') == 1)
        assert server.metric("poise_queue_jobs") == 1
        resume(server.workers())
        assert first.result()[0] == 200


def test_sigterm_answers_all_that_was_accepted(one_worker, arrays):
    server: Server = one_worker
    with stopped(server.workers()), concurrent.futures.ThreadPoolExecutor(8) as pool:
        request = json_request(arrays, tuple(DATATYPES))
        answers = [pool.submit(server.post, request) for _ in range(6)]
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 6)
        server.process.terminate()
        server.wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 503)
        assert server.request("GET", "/v2/health/live")[0] == 200
        status, answer = server.post(request)
        assert status == 503
        assert "draining" in answer["error"]
        resume(server.workers())
        assert [answer.result()[0] for answer in answers] == [200] * 6
    assert server.process.wait(60) == 0


def test_a_second_sigterm_stops_at_once(one_worker, arrays):
    server: Server = one_worker
    with stopped(server.workers()), concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(server.post, json_request(arrays, tuple(DATATYPES)))
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
        server.process.terminate()
        server.wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 503)
        server.process.terminate()
        assert server.process.wait(60) == 1
        assert answer.result()[0] == 503


def test_grace_ends_with_jobs_unanswered(tmp_path, arrays):
    with (
        serving(copy_endless(tmp_path / "tiny"), "--grace-s", "0.1") as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(server.post, json_request(arrays, tuple(DATATYPES)))
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 1)
        assert server.terminate() == 1
        assert answer.result()[0] == 503


def test_workers_do_not_outlive_a_killed_server(one_worker):
    workers = one_worker.workers()
    one_worker.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def refused_start(*arguments: str) -> str:
    """The one line of a server that does not start."""
    ended = subprocess.run(
        [*POISE, "serve", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, ended.stderr
    return errors[0]


def test_a_port_in_use_is_one_clear_line(tiny):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in refused_start(
            str(tiny), "--port", str(port)
        )


def test_other_machines_are_not_let_in_by_default(tiny):
    assert "--insecure" in refused_start(str(tiny), "--host", "0.0.0.0", "--port", "0")


def test_an_address_of_another_machine(tiny):
    """192.0.2.0/24 is kept for documentation: nobody has it."""
    line = refused_start(str(tiny), "--host", "192.0.2.1", "--port", "0", "--insecure")
    assert "cannot listen on 192.0.2.1:0" in line
    assert "expected an address of this machine" in line


def test_a_broken_model_is_one_clear_line(tmp_path):
    service = copy_tiny(tmp_path / "tiny")
    (service / "late/head.onnx").write_bytes(b"not a model")
    line = refused_start(str(service), "--port", "0")
    assert "a worker cannot start" in line
    assert "late/head.onnx" in line


def test_a_recording_that_cannot_be_written(tiny, tmp_path):
    assert "cannot be written" in refused_start(
        str(tiny), "--port", "0", "--record", str(tmp_path / "no/log")
    )
