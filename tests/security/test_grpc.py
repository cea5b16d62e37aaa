"""The same over gRPC. Named in ``guards.py``."""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tests.security.target as target_module
from tests.security.target import StubGate, Target, attacked
from tests.security.test_access import OTHER, SECRET, guarded

from poise.domain.datatypes import NUMPY_TYPE
from poise.ingress.grpc_methods import REPOSITORY_METHODS, SERVICE
from poise.ingress.repository import ModelState
from poise.protocol import inference_pb2 as pb

METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
WAIT_S = 20.0


@contextlib.contextmanager
def channel_to(target: Target) -> Iterator[Any]:
    """A channel whose messages are bytes."""
    assert target.grpc is not None
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{target.grpc.port}", options) as channel:
        yield channel


def call(
    target: Target, method: str = "ServerLive", message: bytes = b"", *metadata: tuple[str, str | bytes]
) -> grpc.StatusCode:
    """Return the status of one call."""
    path = method if method.startswith("/") else f"/{SERVICE}/{method}"
    with channel_to(target) as channel:
        try:
            channel.unary_unary(path)(message, metadata=metadata, timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def infer_message(items: int = 1, shape: list[int] | None = None, **more: object) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="wave", datatype="FP32", shape=shape or [items, 4])
    raw = np.zeros((items, 4), NUMPY_TYPE["FP32"]).tobytes()
    message = pb.ModelInferRequest(model_name="tiny", inputs=[tensor], raw_input_contents=[raw])
    for name, value in more.items():
        message.parameters[name].string_param = str(value)
    return message.SerializeToString()


def test_every_method_needs_a_token():
    unknown = ["Nothing", "ModelInferX", "/other.Service/Method", "/grpc.health.v1.Health/Check", "/"]
    with attacked(guard=guarded(), grpc=True) as target:
        for method in [*METHODS, *unknown]:
            assert call(target, method) is grpc.StatusCode.UNAUTHENTICATED, method
            wrong = ("authorization", f"Bearer {SECRET}x")
            assert call(target, method, b"", wrong) is grpc.StatusCode.UNAUTHENTICATED, method
        assert call(target, "ServerLive", b"", ("authorization", f"Bearer {SECRET}")) is grpc.StatusCode.OK
        assert target.gate.requests == []


def test_what_is_no_message_needs_a_token_too():
    with attacked(guard=guarded(), grpc=True) as target:
        assert call(target, "ModelInfer", b"\xff" * 100) is grpc.StatusCode.UNAUTHENTICATED


def test_a_web_page_of_others_changes_nothing():
    with attacked(grpc=True) as target:
        evil = ("origin", "https://evil.example")
        assert call(target, "ModelInfer", infer_message(), evil) is grpc.StatusCode.PERMISSION_DENIED
        assert target.gate.requests == []


def test_a_token_of_one_class_does_not_open_another():
    with attacked(guard=guarded(), grpc=True) as target:
        token = ("authorization", f"Bearer {OTHER}")
        denied = call(target, "ModelInfer", infer_message(poise_class="interactive"), token)
        assert denied is grpc.StatusCode.PERMISSION_DENIED
        assert target.gate.requests == []
        assert call(target, "ModelInfer", infer_message(poise_class="bulk"), token) is grpc.StatusCode.OK


class Served:
    """A repository that there is; who asks for it changes something."""

    changed = 0

    async def load(self, name: str) -> None:
        self.changed += 1

    unload = load

    def index(self) -> tuple[ModelState, ...]:
        self.changed += 1
        return ()


def test_without_tokens_nobody_changes_the_servers_state_from_outside():
    served = Served()
    with attacked(grpc=True, grpc_more={"repository": served, "outside": True}) as target:
        for method in REPOSITORY_METHODS:
            assert call(target, method) is grpc.StatusCode.UNIMPLEMENTED, method
        assert served.changed == 0
    token = ("authorization", f"Bearer {SECRET}")
    more = {"repository": served, "outside": True}
    with attacked(guard=guarded(), grpc=True, grpc_more=more) as target:
        for method in REPOSITORY_METHODS:
            assert call(target, method, b"", token) is grpc.StatusCode.OK, method
        assert served.changed == len(REPOSITORY_METHODS)


def test_a_message_over_the_cap_is_refused():
    with attacked(grpc=True, body_bytes=10_000) as target:
        assert call(target, "ModelInfer", bytes(10_001)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call(target, "ModelInfer", infer_message()) is grpc.StatusCode.OK


def test_a_message_over_the_cap_when_inflated_is_refused():
    with attacked(grpc=True, body_bytes=100_000) as target, channel_to(target) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            infer(bytes(10_000_000), timeout=WAIT_S, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert infer(infer_message(), timeout=WAIT_S, compression=grpc.Compression.Gzip)


def test_metadata_over_the_cap_is_refused():
    with attacked(grpc=True, head_bytes=4000) as target:
        assert call(target, "ServerLive", b"", ("x", "x" * 8000)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call(target, "ServerLive", b"", ("x", "x" * 1000)) is grpc.StatusCode.OK


def test_more_tensors_than_allowed_are_refused():
    inputs = [pb.ModelInferRequest.InferInputTensor(name=f"x{n}") for n in range(65)]
    message = pb.ModelInferRequest(model_name="tiny", inputs=inputs).SerializeToString()
    refused = pytest.raises(grpc.RpcError, match="expected at most 64")
    with attacked(grpc=True) as target, channel_to(target) as channel, refused:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(message, timeout=WAIT_S)


@pytest.mark.parametrize("shape", [[-1, 4], [-1, -4], [0, 4], [2**62, 4], [1, 2, 2], [4], [1] * 1000])
def test_shapes_that_overflow_or_are_none_are_refused(shape):
    with attacked(grpc=True) as target:
        code = call(target, "ModelInfer", infer_message(shape=shape))
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert target.gate.requests == []


def test_a_longer_deadline_than_the_classs_is_cut():
    with attacked(grpc=True) as target:
        assert call(target, "ModelInfer", infer_message(poise_class="interactive")) is grpc.StatusCode.OK
        assert target.gate.requests[0].deadline_s <= target.gate.wire.classes["interactive"].latency_slo_s


def test_who_connects_and_says_nothing_is_let_go():
    with attacked(grpc=True, head_s=0.5) as target:
        assert target.grpc is not None
        silent = [socket.create_connection(("127.0.0.1", target.grpc.port), WAIT_S) for _ in range(5)]
        try:
            end_s = time.monotonic() + target_module.ANSWER_S
            while not all(map(ended, silent)):
                assert time.monotonic() < end_s
        finally:
            for each in silent:
                each.close()


def ended(client: socket.socket) -> bool:
    """Whether the server has ended a connection; what it said before is read."""
    client.settimeout(0.01)
    try:
        while client.recv(1000):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_an_error_of_ours_says_nothing_of_it():
    class Broken(StubGate):
        def admit(self, request):
            raise RuntimeError("the password is swordfish")

    with attacked(grpc=True, gate=Broken()) as target, channel_to(target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{SERVICE}/ModelInfer")(infer_message(), timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "swordfish" not in str(caught.value)
