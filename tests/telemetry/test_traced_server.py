"""Spans of a real server, as a real collector gets them."""

import concurrent.futures
import gzip
import http.client
import json
import signal
import time
from itertools import pairwise
from typing import Any

import grpc
import pytest
from tests.servers import DATATYPES, copy_tiny, json_request, serving
from tests.telemetry.collector import Collector, Kept, collecting

from poise.protocol import inference_pb2 as pb

INFER = "/v2/models/tiny/infer"
ROOT = "POST /v2/models/{model}/infer"
GRPC_ROOT = "inference.GRPCInferenceService/ModelInfer"
SERVER_KIND, INTERNAL_KIND = 2, 1
UNSET, ERROR = 0, 2


def traceparent(number: int, flags: str = "01") -> tuple[str, str, str]:
    """A client's header, and its trace and span."""
    trace_id, span_id = f"{number:032x}", f"{number + 7:016x}"
    return f"00-{trace_id}-{span_id}-{flags}", trace_id, span_id


@pytest.fixture(scope="module")
def collector():
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(tmp_path_factory, collector):
    """A server that traces what its clients trace, and nothing else."""
    service = copy_tiny(tmp_path_factory.mktemp("services") / "tiny", workers=1)
    options = ("--otel-endpoint", collector.url, "--sample-frac", "0")
    with serving(service, *options) as server:
        yield server


def children(spans: list[Kept], parent: Kept) -> list[Kept]:
    return sorted((s for s in spans if s.parent_id == parent.span_id), key=lambda s: (s.begin_ns, s.end_ns))


def names(spans: list[Kept]) -> list[str]:
    return [span.name for span in spans]


def came(collector: Collector, trace_id: str, last: str = "answer") -> list[Kept]:
    """The spans of a trace, once the one that is sent last is there."""
    collector.wait_for(lambda: last in names(collector.of_trace(trace_id)))
    return collector.of_trace(trace_id)


def root_of(spans: list[Kept], client: str) -> Kept:
    """The one span that has the client's as its parent; all others are below it."""
    (root,) = (span for span in spans if span.parent_id == client)
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert all(span.parent_id in ids for span in spans if span is not root)
    return root


def check_times(spans: list[Kept]) -> None:
    """Children lie within their parents, and all in the last minutes."""
    by_id = {span.span_id: span for span in spans}
    now_ns = time.time_ns()
    for span in spans:
        assert now_ns - 600e9 < span.begin_ns <= span.end_ns <= now_ns
        parent = by_id.get(span.parent_id)
        if parent is not None:
            assert parent.begin_ns <= span.begin_ns, (parent, span)
            assert span.end_ns <= parent.end_ns, (parent, span)


def test_a_request_is_a_tree_below_its_clients_span(traced, collector, arrays):
    header, trace_id, client = traceparent(1)
    body = json_request(arrays, tuple(DATATYPES), 3, parameters={"poise_class": "bulk"})
    status, answer = traced.post(body, traceparent=header)
    assert status == 200
    spans = came(collector, trace_id)
    check_times(spans)
    root = root_of(spans, client)
    assert (root.name, root.kind, root.status) == (ROOT, SERVER_KIND, UNSET)
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "poise.service": "tiny",
        "poise.class": "bulk",
        "poise.items": 3,
        "poise.deadline_s": pytest.approx(600),
        "poise.accuracy_floor": 0.5,
        "poise.accuracy": pytest.approx(answer["parameters"]["poise_accuracy"]),
        "poise.late": False,
        "poise.below_floor": False,
    }
    assert root.resource["service.name"] == "poise"
    assert collector.paths == {"/v1/traces"}

    parts = children(spans, root)
    assert names(parts) == ["receive", "queue", "batch", "answer"]
    assert all(first.end_ns <= second.begin_ns for first, second in pairwise(parts))
    assert (parts[0].begin_ns, parts[-1].end_ns) == (root.begin_ns, root.end_ns)
    batch = parts[2]
    variant = answer["parameters"]["poise_variant"]
    assert batch.kind == INTERNAL_KIND
    assert batch.attributes == {
        "poise.batch": batch.attributes["poise.batch"],
        "poise.batch_items": 3,
        "poise.items": 3,
        "poise.worker": 1,
        "poise.variant": variant,
        "poise.modalities": ["image+sound+word"],
    }
    stages = children(spans, batch)
    wanted = ["image", "sound", "word", "head"] if variant == "late" else ["image+sound+word"]
    assert [span.attributes["poise.stage"] for span in stages] == wanted
    assert {span.name for span in stages} == {"stage"}
    assert len(spans) == 1 + len(parts) + len(stages)


def test_grpc_calls_are_traced_alike(traced, collector, arrays):
    header, trace_id, client = traceparent(2)
    request = pb.ModelInferRequest(model_name="tiny")
    for name, datatype in DATATYPES.items():
        shape = arrays[name][:2].shape
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(arrays[name][:2].tobytes())
    with grpc.insecure_channel(traced.grpc_address) as channel:
        infer: Any = channel.unary_unary(f"/{GRPC_ROOT}", None, pb.ModelInferResponse.FromString)
        infer(request.SerializeToString(), metadata=(("traceparent", header),))
        spans = came(collector, trace_id)
        _, other, other_client = traceparent(3)
        with pytest.raises(grpc.RpcError):
            damaged = (("traceparent", f"00-{other}-{other_client}-01"),)
            infer(pb.ModelInferRequest(model_name="tiny").SerializeToString(), metadata=damaged)
    check_times(spans)
    root = root_of(spans, client)
    assert (root.name, root.kind, root.status) == (GRPC_ROOT, SERVER_KIND, UNSET)
    assert root.attributes["rpc.system"] == "grpc"
    assert root.attributes["rpc.method"] == "ModelInfer"
    assert root.attributes["rpc.grpc.status_code"] == 0
    assert root.attributes["poise.items"] == 2
    assert names(children(spans, root)) == ["receive", "queue", "batch", "answer"]
    damaged_spans = came(collector, other, "receive")
    root = root_of(damaged_spans, other_client)
    assert root.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert root.status == UNSET  # the client's fault
    assert names(children(damaged_spans, root)) == ["receive"]
    count = 'poise_grpc_requests_total{code="%s",method="ModelInfer"}'
    assert traced.metric(count % "OK") == 1
    assert traced.metric(count % "INVALID_ARGUMENT") == 1


def test_refusals_and_faults_of_the_client(traced, collector, arrays):
    header, trace_id, client = traceparent(4)
    late = json_request(arrays, tuple(DATATYPES), 1, parameters={"poise_deadline_ms": 0.001})
    assert traced.post(late, traceparent=header)[0] == 504
    spans = came(collector, trace_id, "queue")
    check_times(spans)
    root = root_of(spans, client)
    assert names(children(spans, root)) == ["receive", "queue"]
    assert (root.status, root.attributes["poise.refusal"]) == (ERROR, "deadline_unreachable")

    header, trace_id, client = traceparent(5)
    assert traced.post({"inputs": []}, traceparent=header)[0] == 400
    spans = came(collector, trace_id, "receive")
    root = root_of(spans, client)
    assert names(children(spans, root)) == ["receive"]
    assert (root.status, root.attributes["http.response.status_code"]) == (UNSET, 400)


def test_a_batch_that_was_lost_is_there_and_the_one_in_its_stead(traced, collector, arrays):
    header, trace_id, client = traceparent(6)
    worker = traced.workers()[0]
    worker.send_signal(signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        body = json_request(arrays, tuple(DATATYPES), 1)
        waiting = pool.submit(traced.post, body, traceparent=header)
        traced.wait_until(lambda: traced.metric("poise_queue_jobs") == 1)
        worker.send_signal(signal.SIGKILL)
        assert waiting.result()[0] == 200
    spans = came(collector, trace_id)
    check_times(spans)
    parts = children(spans, root_of(spans, client))
    assert names(parts) == ["receive", "queue", "batch", "batch", "answer"]
    lost, again = parts[2:4]
    assert (lost.status, again.status) == (ERROR, UNSET)
    assert lost.attributes["poise.worker"] != again.attributes["poise.worker"]
    assert not children(spans, lost)
    assert children(spans, again)


def test_a_client_that_leaves_ends_its_trace(traced, collector, arrays):
    header, trace_id, client = traceparent(7)
    worker = traced.workers()[0]
    worker.send_signal(signal.SIGSTOP)
    body = json.dumps(json_request(arrays, tuple(DATATYPES), 1))
    connection = http.client.HTTPConnection(traced.address)
    connection.request("POST", INFER, body, {"traceparent": header})
    traced.wait_until(lambda: traced.metric("poise_queue_jobs") == 1)
    connection.close()
    spans = came(collector, trace_id, "queue")
    worker.send_signal(signal.SIGCONT)
    assert root_of(spans, client).attributes["http.response.status_code"] == 499


def test_what_clients_do_not_trace_is_not_traced(traced, collector, arrays):
    before = {span.trace_id for span in collector.spans}
    body = json_request(arrays, tuple(DATATYPES), 1)
    for headers in ({}, {"traceparent": traceparent(8, "00")[0]}, {"traceparent": "00-" + "0" * 32}):
        assert traced.post(body, **headers)[0] == 200
    header, _, _ = traceparent(9)
    assert traced.request("GET", "/v2/health/ready", traceparent=header)[0] == 200
    header, last, _ = traceparent(10)
    assert traced.post(body, traceparent=header)[0] == 200
    came(collector, last)
    assert {span.trace_id for span in collector.spans} - before == {last}


def test_bodies_that_come_compressed_are_traced(traced, collector, arrays):
    header, trace_id, client = traceparent(11)
    body = gzip.compress(json.dumps(json_request(arrays, tuple(DATATYPES), 2)).encode())
    headers = {"traceparent": header, "content_encoding": "gzip"}
    assert traced.post(body, **headers)[0] == 200
    spans = came(collector, trace_id)
    check_times(spans)
    assert names(children(spans, root_of(spans, client))) == ["receive", "queue", "batch", "answer"]


def test_the_last_spans_are_sent_as_the_server_ends_and_a_share_of_all_is_sampled(tmp_path, arrays):
    with collecting() as own:
        service = copy_tiny(tmp_path / "tiny", workers=1)
        with serving(service, "--otel-endpoint", own.url, "--sample-frac", "0.5", "--log-json") as server:
            body = json_request(arrays, tuple(DATATYPES), 1)
            for _ in range(60):
                assert server.post(body)[0] == 200
            assert server.terminate() == 0
        roots = [span for span in own.spans if span.name == ROOT]
        assert 8 < len(roots) < 52  # beyond that once in a thousand million
        assert all(span.parent_id == "" for span in roots)
        assert len({span.trace_id for span in roots}) == len(roots)
        assert {span.trace_id for span in own.spans if span.name == "answer"} == {s.trace_id for s in roots}


def test_a_service_that_was_reloaded_is_counted_and_traced_too(tmp_path, arrays):
    with collecting() as own:
        service = copy_tiny(tmp_path / "tiny", workers=1)
        with serving(service, "--otel-endpoint", own.url, "--sample-frac", "0") as server:
            body = json_request(arrays, tuple(DATATYPES), 1)
            assert server.post(body)[0] == 200
            file = service / "service.yaml"
            file.write_text(file.read_text().replace("max_batch: 8", "max_batch: 4"))
            assert server.request("POST", "/v2/poise/reload")[0] == 200
            header, trace_id, client = traceparent(12)
            assert server.post(body, traceparent=header)[0] == 200
            assert names(children(came(own, trace_id), root_of(own.of_trace(trace_id), client))) == [
                "receive",
                "queue",
                "batch",
                "answer",
            ]
            counted = 'poise_http_requests_total{code="200",route="/v2/models/{model}/infer"}'
            assert server.metric(counted) == 2
            assert server.metric('poise_jobs_total{outcome="answered",slo_class="interactive"}') == 1


@pytest.mark.slow
def test_a_collector_that_fails_or_is_away_costs_no_answer(tmp_path, arrays):
    with collecting() as own:
        own.status = 400
        service = copy_tiny(tmp_path / "tiny", workers=1)
        with serving(service, "--otel-endpoint", own.url, "--log-json") as server:
            body = json_request(arrays, tuple(DATATYPES), 1)
            assert all(server.post(body)[0] == 200 for _ in range(5))
            server.wait_until(lambda: "opentelemetry" in server.log())
            assert server.terminate() == 0
            for line in server.log().splitlines():
                json.loads(line)


def test_nothing_of_it_is_imported_where_nothing_is_traced(tmp_path, monkeypatch):
    script = tmp_path / "sitecustomize.py"
    script.write_text(
        "import os, sys\n"
        "leave = os._exit\n"
        "def told(status):\n"
        "    print(f'{os.getpid()} ended with modules {[*sys.modules]}', file=sys.stderr, flush=True)\n"
        "    leave(status)\n"
        "os._exit = told\n"
    )
    service = copy_tiny(tmp_path / "tiny", workers=1)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(service) as server:
        assert server.terminate() == 0
        assert (
            f"{server.process.pid} ended with modules ['sys'" in server.log()
        )  # with gRPC's thread, by os._exit
        assert "opentelemetry" not in server.log()
