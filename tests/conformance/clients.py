"""The clients of a conversation: tritonclient's four, bare HTTP, and bare gRPC.

What each of them heard is a tree of dicts, lists, strings and numbers, so that two servers' answers can be held
against each other. Times, which no two servers share, are put as ``"a time"``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import inspect
import json
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from google.protobuf import json_format
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from tests.conformance.peers import Peer
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

Tree = Any
TIMEOUT_S = 60.0
FLAVOURS: dict[str, ModuleType] = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
TIMES = ("ns", "last_inference", "lastInference")


class Flavour:
    """One of tritonclient's clients; the asynchronous ones run on a loop of their own."""

    def __init__(self, name: str, peer: Peer) -> None:
        self.name = name
        self.over_grpc = name.startswith("grpc")
        self.module = FLAVOURS[name]
        self._runner = asyncio.Runner() if name.endswith("aio") else None
        address = peer.grpc if self.over_grpc else peer.http
        if self._runner is None:
            self._client = self.module.InferenceServerClient(address)
        else:
            self._client = self._runner.run(self._open(address))

    async def _open(self, address: str) -> Any:
        return self.module.InferenceServerClient(address)

    def close(self) -> None:
        self._do(self._client.close)
        if self._runner is not None:
            self._runner.close()

    def _do(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        if self._runner is None:
            return method(*args, **kwargs)

        async def run() -> Any:
            answer = method(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        return self._runner.run(run())

    def call(self, method: str, *args: Any, **kwargs: Any) -> Tree:
        """Call a method and return what it gave, or the status of its error."""
        bound = getattr(self._client, method)
        if self.over_grpc and "as_json" in inspect.signature(bound).parameters:
            kwargs["as_json"] = True
        try:
            answer = self._do(bound, *args, **kwargs)
        except InferenceServerException as error:
            assert error.message()
            return {"refused": error.status()}
        return {"value": timeless(self._plain(answer))}

    def _plain(self, answer: Any) -> Tree:
        if not hasattr(answer, "as_numpy"):
            return answer
        response = answer.get_response(as_json=True) if self.over_grpc else answer.get_response()
        names = [output["name"] for output in response["outputs"]]
        return {"response": response, "arrays": {name: array_tree(answer.as_numpy(name)) for name in names}}

    def tensor(
        self, name: str, datatype: str, array: np.ndarray, shape: Sequence[int] | None = None, **how: Any
    ) -> Any:
        """An input as this client sends it; ``binary_data=False`` (HTTP alone) sends JSON."""
        tensor = self.module.InferInput(name, list(array.shape if shape is None else shape), datatype)
        tensor.set_data_from_numpy(array, **({} if self.over_grpc else how))
        return tensor

    def output(self, name: str, **how: Any) -> Any:
        """A requested output; ``binary_data`` is HTTP's alone."""
        return self.module.InferRequestedOutput(name, **({} if self.over_grpc else how))


class Clients:
    """Everything that talks to one server."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.flavours = {name: Flavour(name, peer) for name in FLAVOURS}
        self._channel = grpc.insecure_channel(peer.grpc)

    def close(self) -> None:
        for flavour in self.flavours.values():
            flavour.close()
        self._channel.close()

    def http(self, method: str, path: str, body: bytes = b"", **headers: str) -> Tree:
        """One HTTP request; ``headers`` have underscores for dashes."""
        connection = http.client.HTTPConnection(self.peer.http, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return timeless(http_tree(response.status, dict(response.getheaders()), response.read()))

    def grpc(self, method: str, request: Any, **how: Any) -> Tree:
        """One call of the service's method of that name; ``request`` is its message, or bytes that may be none."""
        call: Any
        if isinstance(request, bytes):
            call = self._channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        else:
            call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(self._channel), method)
        try:
            answer = call(request, timeout=TIMEOUT_S, **how)
        except grpc.RpcError as error:
            return {"code": error.code().name, "error": error.details()}
        return timeless({"code": "OK", "message": json_format.MessageToDict(answer)})

    def health(self, service: str) -> Tree:
        """gRPC's own health check."""
        stub: Any = HealthStub(self._channel)
        try:
            answer = stub.Check(HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return {"code": error.code().name, "error": error.details()}
        return {"code": "OK", "message": json_format.MessageToDict(answer)}


def http_tree(status: int, headers: dict[str, str], body: bytes) -> Tree:
    """Return what matters of an HTTP answer."""
    named = {name.lower(): value for name, value in headers.items()}
    tree: dict[str, Tree] = {"status": status}
    for name in ("content-encoding", "accept-encoding", "allow"):
        if name in named:
            tree[name] = named[name]
    if body:
        tree["content-type"] = named.get("content-type", "").split(";")[0]
    match named.get("content-encoding"):
        case "gzip":
            body = gzip.decompress(body)
        case "deflate":
            body = zlib.decompress(body)
    length = named.get("inference-header-content-length")
    if length is not None:
        tree["binary"] = body[int(length) :].hex()
        body = body[: int(length)]
    try:
        tree["body"] = json.loads(body) if body else None
    except ValueError:
        tree["text"] = body.decode("latin-1")
    return tree


def array_tree(array: np.ndarray) -> Tree:
    """Return an array's type, shape and values; strings of either kind as Python writes them."""
    values = array.tolist()
    if array.dtype == np.object_:
        values = [repr(text) for text in array.ravel().tolist()]
    return {"dtype": str(array.dtype), "shape": list(array.shape), "values": values}


def timeless(tree: Tree) -> Tree:
    """Return a tree whose times are put as words, once they are seen to be whole numbers."""
    match tree:
        case dict():
            return {key: _a_time(value) if key in TIMES else timeless(value) for key, value in tree.items()}
        case list():
            return [timeless(value) for value in tree]
    return tree


def _a_time(value: Tree) -> str:
    assert int(value) >= 0
    return "a time"


__all__ = ["Clients", "Flavour", "Tree", "service_pb2"]
