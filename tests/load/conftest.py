"""A small server of the Open Inference Protocol v2, written here, on a real socket.

How it treats a request is told by the request's SLO class, so that every outcome is known beforehand.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray

from poise.domain.service import Modality, Service, SLOClass, TensorSpec, Variant
from poise.files import LabelledItems
from poise.load import Endpoint

CLASSES = ("answers", "json", "refuses", "names", "hangs", "resets", "garbles", "breaks", "short")
ITEMS = 50


class Seen(msgspec.Struct):
    """One request as the server saw it."""

    header: dict[str, Any]
    inputs: dict[str, NDArray[np.generic]]
    authorization: str | None

    @property
    def slo_class(self) -> str:
        return str(self.header["parameters"]["poise_class"])


class TinyServer:
    """Answers the input `first` by logits whose largest element is at its value; notes what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.ready_status = 200

    async def ready(self, request: web.Request) -> web.Response:
        return web.json_response({"error": "still loading"}, status=self.ready_status)

    async def infer(self, request: web.Request) -> web.StreamResponse:
        seen = _read(await request.read(), int(request.headers["Inference-Header-Content-Length"]))
        seen.authorization = request.headers.get("Authorization")
        self.seen.append(seen)
        await self.gate.wait()
        match seen.slo_class:
            case "refuses":
                return web.json_response({"error": "cannot be met"}, status=504)
            case "names":
                body = {"error": "no way to the floor", "reason": "floor_unreachable"}
                return web.json_response(body, status=400)
            case "hangs":
                await asyncio.Event().wait()
            case "resets":
                assert request.transport is not None
                request.transport.abort()
            case "garbles":
                return web.Response(body=b"\x00nonsense")
            case "breaks":
                return web.json_response({"error": "internal error"}, status=500)
        return _answer(seen, as_json=seen.slo_class == "json", drop=seen.slo_class == "short")


def _read(body: bytes, length: int) -> Seen:
    header = msgspec.json.decode(body[:length])
    inputs, at = {}, length
    for tensor in header["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        dtype = {"FP32": "<f4", "INT32": "<i4"}[tensor["datatype"]]
        inputs[tensor["name"]] = np.frombuffer(body[at : at + size], dtype).reshape(tensor["shape"])
        at += size
    assert at == len(body)
    return Seen(header, inputs, None)


def _answer(seen: Seen, *, as_json: bool, drop: bool) -> web.Response:
    items = len(next(iter(seen.inputs.values()))) - drop
    values = seen.inputs["first"][:items, 0].astype(int) if "first" in seen.inputs else np.zeros(items, int)
    logits = np.eye(10, dtype="<f4")[values % 10]
    extra = np.zeros((items, 3), "<f4")
    label = "+".join(name for name in ("first", "second") if name in seen.inputs)
    parameters = {
        "poise_modalities": ",".join([label] * items),
        "poise_variant": "small",
        "poise_accuracy": 0.9,
        "poise_queue_us": 1500,
        "poise_compute_us": 2500,
    }
    named = [("extra", extra), ("logits", logits)]
    outputs: list[dict[str, Any]] = []
    for name, array in named:
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        output |= (
            {"data": array.ravel().tolist()}
            if as_json
            else {"parameters": {"binary_data_size": array.nbytes}}
        )
        outputs.append(output)
    header = msgspec.json.encode({"model_name": "tiny", "parameters": parameters, "outputs": outputs})
    if as_json:
        return web.Response(body=header, content_type="application/json")
    body = header + b"".join(array.tobytes() for _, array in named)
    return web.Response(body=body, headers={"Inference-Header-Content-Length": str(len(header))})


Serve = Callable[..., Any]


@pytest.fixture
def serve() -> Serve:
    """Return a context manager that runs a TinyServer below the path /root and yields it and its endpoint."""

    @asynccontextmanager
    async def run() -> AsyncIterator[tuple[TinyServer, Endpoint]]:
        tiny = TinyServer()
        application = web.Application(client_max_size=2**26)
        application.router.add_get("/root/v2/models/tiny/ready", tiny.ready)
        application.router.add_post("/root/v2/models/tiny/infer", tiny.infer)
        runner = web.AppRunner(application, shutdown_timeout=0.01, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield tiny, Endpoint(host="127.0.0.1", port=runner.addresses[0][1], tls=False, root="/root")
        finally:
            await runner.cleanup()

    return run


@pytest.fixture
def service() -> Service:
    """A service of two modalities; deadlines are long, but for the class whose requests hang."""
    return Service(
        format=1,
        service="tiny",
        modalities={
            "first": Modality(inputs={"first": TensorSpec(datatype="FP32", shape=(2,))}),
            "second": Modality(inputs={"second": TensorSpec(datatype="INT32", shape=(3,))}),
        },
        outputs={"logits": TensorSpec(datatype="FP32", shape=(10,))},
        variants={"small": Variant(runtime="emulated")},
        classes={
            name: SLOClass(latency_slo_ms=50 if name == "hangs" else 60_000, accuracy_floor=0.8)
            for name in CLASSES
        },
    )


@pytest.fixture
def items() -> LabelledItems:
    """Fifty items whose first input is their number; the labels of every fifth are wrong."""
    numbers = np.arange(ITEMS)
    return LabelledItems(
        inputs={
            "first": np.repeat(numbers[:, None], 2, axis=1).astype(np.float32),
            "second": np.repeat(-numbers[:, None], 3, axis=1).astype(np.int32),
        },
        label=np.where(numbers % 5 == 0, -1, numbers % 10),
    )


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[Endpoint]:
    """Run a handler of bytes on a real socket; at the end wait until every connection is closed."""
    running: set[asyncio.Task[None]] = set()

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        await handler(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handled, "127.0.0.1", 0)
    async with server:
        yield Endpoint(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls=False, root="")
        await asyncio.gather(*running)


@pytest.fixture
def raw() -> Callable[[Handler], Any]:
    return raw_server
