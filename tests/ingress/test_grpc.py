"""The protocol over gRPC on real sockets, by clients that nobody here wrote."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.json_format import ParseDict
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from tests.servers import DATATYPES, MODALITY_INPUTS, Server, copy_endless, serving
from tests.serving.test_server import stopped
from tritonclient.grpc import model_config_pb2, service_pb2

from poise.errors import ConfigError
from poise.ingress.gate import Gates
from poise.ingress.grpc_methods import SERVICE
from poise.ingress.grpc_server import start_grpc
from poise.ingress.guard import Guard, Identity, Token
from poise.ingress.limits import Limits
from poise.ingress.repository import ModelState
from poise.protocol import inference_pb2 as pb

Arrays = dict[str, np.ndarray]


def inputs_of(arrays: Arrays, names: Any = tuple(DATATYPES), items: int = 1) -> list[triton.InferInput]:
    found = []
    for name in names:
        tensor = triton.InferInput(name, list(arrays[name][:items].shape), DATATYPES[name])
        tensor.set_data_from_numpy(arrays[name][:items])
        found.append(tensor)
    return found


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as made:
        yield made


def told(result: triton.InferResult) -> dict[str, Any]:
    parameters = result.get_response().parameters
    return {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in parameters.items()}


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("nix")
    about = client.get_server_metadata()
    assert about.name == "poise"
    assert "statistics" in about.extensions
    model = client.get_model_metadata("tiny", as_json=True)
    assert model["name"] == "tiny"
    assert model["inputs"][0] == {"name": "pixels", "datatype": "UINT8", "shape": ["-1", "2", "3"]}
    assert [output["name"] for output in model["outputs"]] == ["logits", "score"]


def test_answers_are_those_over_http(client, server, arrays, expected):
    result = client.infer("tiny", inputs_of(arrays, items=3), request_id="seven")
    np.testing.assert_allclose(
        result.as_numpy("logits"),
        expected({k: v[:3] for k, v in arrays.items()}, tuple(MODALITY_INPUTS)),
        rtol=1e-5,
    )
    assert result.get_response().id == "seven"
    assert told(result)["poise_modalities"] == ",".join(["image+sound+word"] * 3)
    only = client.infer("tiny", inputs_of(arrays), outputs=[triton.InferRequestedOutput("score")])
    assert [output.name for output in only.get_response().outputs] == ["score"]


def test_typed_contents(server, arrays, expected):
    request = pb.ModelInferRequest(model_name="tiny")
    for name, values in {"letters": arrays["letters"][:2], "length": arrays["length"][:2]}.items():
        tensor = request.inputs.add(name=name, datatype=DATATYPES[name], shape=values.shape)
        field = {"INT64": "int64_contents", "FP32": "fp32_contents"}[DATATYPES[name]]
        getattr(tensor.contents, field).extend(values.ravel().tolist())
    request.parameters["poise_accuracy_floor"].double_param = 0.1
    answer = pb.ModelInferResponse.FromString(
        call(server.grpc_address, "ModelInfer", request.SerializeToString())
    )
    logits = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, -1)
    np.testing.assert_allclose(logits, expected({k: v[:2] for k, v in arrays.items()}, ("word",)), rtol=1e-5)


def test_modalities_may_be_left_out_and_parameters_given(client, arrays, expected):
    result = client.infer(
        "tiny",
        inputs_of(arrays, ("wave",)),
        priority=1,
        timeout=60_000_000,
        parameters={"poise_class": "bulk", "poise_accuracy_floor": 0.1, "poise_deadline_ms": 60_000},
    )
    np.testing.assert_allclose(
        result.as_numpy("logits"), expected({k: v[:1] for k, v in arrays.items()}, ("sound",)), rtol=1e-5
    )
    answer = told(result)
    assert answer["poise_modalities"] == "sound"
    assert answer["poise_queue_us"] >= 0
    assert 0 < answer["poise_accuracy"] <= 1


def test_the_asyncio_client(server, arrays):
    async def talk() -> list[Any]:
        async with triton_aio.InferenceServerClient(server.grpc_address) as client:
            asked = [client.infer("tiny", inputs_of(arrays), request_id=str(i)) for i in range(20)]
            return [result.get_response().id for result in await asyncio.gather(*asked)]

    assert asyncio.run(talk()) == [str(i) for i in range(20)]


def test_compressed_messages(client, arrays):
    for algorithm in ("gzip", "deflate"):
        result = client.infer("tiny", inputs_of(arrays), compression_algorithm=algorithm)
        assert result.as_numpy("score").shape == (1, 1)


def test_statistics_and_configuration(client, server, arrays):
    before = client.get_inference_statistics("tiny").model_stats[0]
    for items in (1, 3, 3):
        client.infer("tiny", inputs_of(arrays, items=items))
    now = client.get_inference_statistics("tiny").model_stats[0]
    assert now.inference_count - before.inference_count == 7
    assert now.inference_stats.success.count - before.inference_stats.success.count == 3
    assert [each.name for each in client.get_inference_statistics().model_stats] == ["tiny"]
    config = client.get_model_config("tiny").config
    assert (config.backend, config.input[0].data_type, config.input[0].optional) == ("poise", 2, True)
    assert list(config.input[0].dims) == [2, 3]
    assert sum(group.count for group in config.instance_group) == 2
    assert config.dynamic_batching.default_queue_policy.allow_timeout_override


def test_both_protocols_say_the_same(client, server):
    for path, message, known in (
        ("config", client.get_model_config("tiny").config, model_config_pb2.ModelConfig),
        ("stats", client.get_inference_statistics("tiny"), service_pb2.ModelStatisticsResponse),
    ):
        status, _, body = server.request("GET", f"/v2/models/tiny/{path}")
        assert status == 200
        assert ParseDict(json.loads(body), known(), ignore_unknown_fields=True) == message
    assert server.request("GET", "/v2/models/stats")[2] == server.request("GET", "/v2/models/tiny/stats")[2]
    assert server.request("GET", "/v2/models/nix/stats")[0] == 404
    assert server.request("GET", "/v2/models/nix/config")[0] == 404


def call(address: str, method: str, message: bytes = b"", **options: Any) -> bytes:
    """Call a method with bare bytes."""
    with grpc.insecure_channel(address) as channel:
        path = method if method.startswith("/") else f"/{SERVICE}/{method}"
        method_of: Any = channel.unary_unary(path)
        return method_of(message, timeout=options.pop("timeout", 20), **options)


def refused(
    address: str, method: str, message: bytes = b"", **options: Any
) -> tuple[grpc.StatusCode, str, dict]:
    with pytest.raises(grpc.RpcError) as caught:
        call(address, method, message, **options)
    error: Any = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata() or ())


def infer_message(arrays: Arrays, names: Any = tuple(DATATYPES), model: str = "tiny", **fields: Any) -> bytes:
    request = pb.ModelInferRequest(model_name=model, **fields)
    for name in names:
        request.inputs.add(name=name, datatype=DATATYPES[name], shape=arrays[name][:1].shape)
        request.raw_input_contents.append(arrays[name][:1].tobytes())
    return request.SerializeToString()


def test_errors_have_the_codes_of_the_table(server, arrays):
    ask = server.grpc_address
    code = grpc.StatusCode
    assert refused(ask, "ModelInfer", infer_message(arrays, model="nix"))[:2] == (
        code.NOT_FOUND,
        "no model 'nix', expected tiny",
    )
    assert refused(ask, "ModelInfer", infer_message(arrays, model_version="2"))[0] == code.NOT_FOUND
    assert refused(ask, "ModelInfer", infer_message(arrays, ("letters",)))[0] == code.INVALID_ARGUMENT
    assert refused(ask, "ModelInfer", b"\xff")[0] == code.INVALID_ARGUMENT
    assert refused(ask, "ModelMetadata", b"\xff")[0] == code.INVALID_ARGUMENT
    assert (
        refused(ask, "ModelMetadata", pb.ModelMetadataRequest(name="nix").SerializeToString())[0]
        == code.NOT_FOUND
    )
    assert (
        refused(ask, "ModelConfig", pb.ModelConfigRequest(name="nix").SerializeToString())[0]
        == code.NOT_FOUND
    )
    for method in (
        "RepositoryIndex",
        "SystemSharedMemoryStatus",
        "TraceSetting",
        "Nix",
        "/other.Service/Nix",
    ):
        assert refused(ask, method)[0] == code.UNIMPLEMENTED


def serving_status(address: str, service: str = "") -> str:
    with grpc.insecure_channel(address) as channel:
        stub: Any = HealthStub(channel)
        answer = stub.Check(HealthCheckRequest(service=service), timeout=20)
    return HealthCheckResponse.ServingStatus.Name(answer.status)


def test_grpcs_own_health_check(server):
    for service in ("", SERVICE, "tiny"):
        assert serving_status(server.grpc_address, service) == "SERVING"
    with pytest.raises(grpc.RpcError) as caught:
        serving_status(server.grpc_address, "nix")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "expected tiny" in str(caught.value.details())
    with grpc.insecure_channel(server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
        stub: Any = HealthStub(channel)
        next(stub.Watch(HealthCheckRequest(), timeout=20))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED  # which clients take for healthy


def test_a_server_without_services_does_not_serve():
    assert in_process(serving_status) == "NOT_SERVING"
    assert in_process(lambda address: serving_status(address, SERVICE)) == "NOT_SERVING"


def test_streams_are_not_offered(server, arrays):
    with grpc.insecure_channel(server.grpc_address) as channel:
        stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as caught:
            list(stream(iter([infer_message(arrays)]), timeout=20))
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_refusal_says_its_reason(server, arrays):
    request = pb.ModelInferRequest.FromString(infer_message(arrays, ("length", "letters")))
    request.parameters["poise_accuracy_floor"].double_param = 0.8
    code, words, trailing = refused(server.grpc_address, "ModelInfer", request.SerializeToString())
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert trailing["poise-reason"] == "floor_unreachable"
    assert words


def test_a_class_that_is_full(tmp_path, arrays):
    with serving(copy_endless(tmp_path / "endless"), "--arena-mb", "0.001") as endless:
        asked: list[Any] = []
        with grpc.insecure_channel(endless.grpc_address) as channel:
            infer: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            message = infer_message(arrays, model=endless.service)

            def one_is_done() -> bool:
                asked.append(infer.future(message))
                return any(future.done() for future in asked)

            endless.wait_until(one_is_done)
            full = next(future for future in asked if future.done())
            assert full.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(full.trailing_metadata())["poise-reason"] == "queue_full"
            for future in asked:
                future.cancel()


def test_who_hangs_up_gives_the_job_up_and_so_does_a_deadline(tmp_path, arrays):
    with serving(copy_endless(tmp_path / "endless")) as endless:
        message = infer_message(arrays, model=endless.service)
        with grpc.insecure_channel(endless.grpc_address) as channel:
            infer: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            running = infer.future(message)
            endless.wait_until(lambda: endless.metric('poise_workers{state="busy"}') == 1)
            waiting = [infer.future(message) for _ in range(2)]
            endless.wait_until(lambda: endless.metric("poise_queue_jobs") == 3)
            waiting[0].cancel()
            endless.wait_until(lambda: endless.metric("poise_queue_jobs") == 2)
            assert endless.metric('poise_refused_jobs_total{reason="cancelled"}') == 1
            begin_s = time.monotonic()
            assert (
                refused(endless.grpc_address, "ModelInfer", message, timeout=1)[0]
                == grpc.StatusCode.DEADLINE_EXCEEDED
            )
            assert time.monotonic() - begin_s < 30
            endless.wait_until(lambda: endless.metric("poise_queue_jobs") == 2)
            assert not running.done()


CLIENT = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    channel.unary_unary(sys.argv[2])(sys.stdin.buffer.read())
"""


def test_a_client_that_dies_gives_its_job_up(tmp_path, arrays):
    with serving(copy_endless(tmp_path / "endless")) as endless:
        command = [sys.executable, "-c", CLIENT, endless.grpc_address, f"/{SERVICE}/ModelInfer"]
        # the first job is on the worker, and stays there
        clients: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            clients.append(client := subprocess.Popen(command, stdin=subprocess.PIPE))
            assert client.stdin is not None
            client.stdin.write(infer_message(arrays, model=endless.service))
            client.stdin.close()
            endless.wait_until(lambda: endless.metric("poise_queue_jobs") == len(clients))
        for client in reversed(clients):
            client.kill()
            client.wait()
            endless.wait_until(lambda: endless.metric("poise_queue_jobs") == 1)


def test_the_clients_deadline_is_the_jobs(tmp_path, arrays):
    """A batch takes ten minutes: a job that has a second is refused at once, not when the second is over."""
    with serving(copy_endless(tmp_path / "endless")) as endless:
        begin_s = time.monotonic()
        code, _, trailing = refused(
            endless.grpc_address, "ModelInfer", infer_message(arrays, model=endless.service), timeout=60
        )
        assert (code, trailing["poise-reason"]) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_unreachable")
        assert time.monotonic() - begin_s < 50


def test_sigterm_answers_what_was_accepted_over_grpc(tiny, arrays):
    with serving(tiny) as running, grpc.insecure_channel(running.grpc_address) as channel:
        infer: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        infer(infer_message(arrays), timeout=20)
        with stopped(running.workers()):
            asked = [infer.future(infer_message(arrays), timeout=60) for _ in range(50)]
            running.wait_until(lambda: running.metric("poise_queue_jobs") == 50)
            running.process.terminate()
            running.wait_until(lambda: "draining" in running.log())
            late = infer.future(infer_message(arrays), timeout=60)
            assert late.code() is grpc.StatusCode.UNAVAILABLE
        assert {future.code() for future in asked} == {grpc.StatusCode.OK}
        assert running.process.wait(60) == 0, running.log()
        assert running.log().count("Traceback") == 0


def test_http_only(tiny):
    with serving(tiny, "--no-grpc") as running:
        assert running.grpc_address == ""
        assert running.request("GET", "/v2/health/ready")[0] == 200


# A server in this process, with what a command line does not give

LIMITS = Limits(body_bytes=2**20, connections=4, idle_s=1.0)


@contextlib.asynccontextmanager
async def started(guard: Guard | None = None, limits: Limits = LIMITS, **more: Any) -> Any:
    server = await start_grpc(Gates({}), guard or Guard(), limits, "127.0.0.1:0", **more)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


def in_process(talk: Callable[[str], Any], **more: Any) -> Any:
    """Have a blocking client talk to a server in this process."""

    async def main() -> Any:
        async with started(**more) as address:
            return await asyncio.to_thread(talk, address)

    return asyncio.run(main())


GUARD = Guard([Token.of("open", Identity("a", None, admin=False)), Token.of("root", Identity("b"))])
METHODS = [method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]


@pytest.mark.parametrize("method", [*METHODS, "Nix", "/other.Service/Nix", "/grpc.health.v1.Health/Check"])
def test_no_method_is_answered_without_a_token(method):
    """Nor is it told whether there is such a method, nor is a message waited for."""

    def talk(address: str) -> None:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "open"),)):
            code, words, _ = refused(address, method, metadata=metadata)
            assert code == grpc.StatusCode.UNAUTHENTICATED
            assert "Bearer TOKEN" in words
        with grpc.insecure_channel(address) as channel:
            path = method if method.startswith("/") else f"/{SERVICE}/{method}"
            silent: Any = channel.stream_stream(path)(iter(lambda: time.sleep(30), None), timeout=20)
            assert silent.code() == grpc.StatusCode.UNAUTHENTICATED

    in_process(talk, guard=GUARD)


def test_a_token_lets_in():
    def talk(address: str) -> None:
        metadata = (("authorization", "Bearer open"),)
        assert call(address, "ServerLive", metadata=metadata) == b"\x08\x01"
        assert (
            refused(address, "ServerLive", metadata=(*metadata, ("origin", "https://evil.example")))[0]
            == grpc.StatusCode.PERMISSION_DENIED
        )

    in_process(talk, guard=GUARD)


class FakeRepository:
    def __init__(self) -> None:
        self.done: list[str] = []

    def index(self) -> tuple[ModelState, ...]:
        return (ModelState("a", "READY"), ModelState("b", "UNAVAILABLE", "unloaded"))

    async def load(self, name: str) -> None:
        self.done.append(f"load {name}")

    async def unload(self, name: str) -> None:
        self.done.append(f"unload {name}")

    async def reload(self) -> Any:
        raise NotImplementedError


def test_the_repository_is_for_whoever_may_change_the_server():
    repository = FakeRepository()
    load = pb.RepositoryModelLoadRequest(model_name="a").SerializeToString()
    unload = pb.RepositoryModelUnloadRequest(model_name="b").SerializeToString()
    ready = pb.RepositoryIndexRequest(ready=True).SerializeToString()

    def talk(address: str) -> None:
        root: dict[str, Any] = {"metadata": (("authorization", "Bearer root"),)}
        others: dict[str, Any] = {"metadata": (("authorization", "Bearer open"),)}
        for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
            assert refused(address, method, **others)[0] == grpc.StatusCode.PERMISSION_DENIED
        index = pb.RepositoryIndexResponse.FromString(call(address, "RepositoryIndex", **root))
        assert [(m.name, m.version, m.state, m.reason) for m in index.models] == [
            ("a", "1", "READY", ""),
            ("b", "1", "UNAVAILABLE", "unloaded"),
        ]
        index = pb.RepositoryIndexResponse.FromString(call(address, "RepositoryIndex", ready, **root))
        assert [m.name for m in index.models] == ["a"]
        assert call(address, "RepositoryModelLoad", load, **root) == b""
        assert call(address, "RepositoryModelUnload", unload, **root) == b""
        named = pb.RepositoryIndexRequest(repository_name="x").SerializeToString()
        assert refused(address, "RepositoryIndex", named, **root)[0] == grpc.StatusCode.INVALID_ARGUMENT

    in_process(talk, guard=GUARD, repository=repository)
    assert repository.done == ["load a", "unload b"]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_over_the_cap_is_refused_as_sent_and_as_inflated(compression):
    def talk(address: str) -> None:
        # 40 MB of zeros are 40 KB once they are compressed
        size = 2**20 + 1 if compression == grpc.Compression.NoCompression else 40 * 2**20
        code, _, _ = refused(address, "ServerLive", bytes(size), compression=compression)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED

    in_process(talk)


def test_metadata_over_the_cap_is_refused():
    def talk(address: str) -> None:
        call(address, "ServerLive", metadata=(("x", "a" * 100),))
        assert (
            refused(address, "ServerLive", metadata=(("x", "a" * 20_000),))[0]
            == grpc.StatusCode.RESOURCE_EXHAUSTED
        )

    in_process(talk)


def test_a_call_whose_message_does_not_come_is_ended():
    def talk(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            silent: Any = channel.stream_stream(f"/{SERVICE}/ModelInfer")(
                iter(lambda: time.sleep(60), None), timeout=60
            )
            assert silent.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "did not come" in silent.details()

    in_process(talk)


def test_no_more_calls_at_once_than_the_cap():
    def talk(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stream: Any = channel.stream_stream(f"/{SERVICE}/ModelInfer")
            calls = [stream(iter(lambda: time.sleep(60), None), timeout=60) for _ in range(8)]
            codes = [each.code() for each in calls]
            assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == LIMITS.connections
            assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 4

    in_process(talk, limits=Limits(connections=4, idle_s=5.0))


def test_a_port_in_use_is_named():
    async def main() -> None:
        async with started() as address:
            with pytest.raises(ConfigError, match=f"cannot listen on {address}"):
                await start_grpc(Gates({}), Guard(), LIMITS, address)

    asyncio.run(main())
