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
from numpy.typing import NDArray

from poise.domain.service import Modality, Service, SLOClass, TensorSpec, Variant
from poise.files import LabelledItems
from poise.load import Endpoint

CLASSES = ("answers", "json", "refuses", "names", "hangs", "resets", "garbles", "breaks", "short")
ITEMS = 50

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


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

    async def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """Answer a request; None where the connection is to be broken off."""
        if path == "/root/v2/models/tiny/ready":
            return _json({"error": "still loading"}, self.ready_status)
        if path != "/root/v2/models/tiny/infer":
            return _json({"error": "no such route"}, 404)
        seen = _read(body, int(headers["inference-header-content-length"]))
        seen.authorization = headers.get("authorization")
        self.seen.append(seen)
        await self.gate.wait()
        match seen.slo_class:
            case "refuses":
                return _json({"error": "cannot be met"}, 504)
            case "names":
                return _json({"error": "no way to the floor", "reason": "floor_unreachable"}, 400)
            case "hangs":
                await asyncio.Event().wait()
            case "resets":
                return None
            case "garbles":
                return 200, {}, b"\x00nonsense"
            case "breaks":
                return _json({"error": "internal error"}, 500)
        return _answer(seen, as_json=seen.slo_class == "json", drop=seen.slo_class == "short")

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after another, until the client closes it."""
        while head := await _head(reader):
            request, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            answer = await self.answer(request.split()[1], headers, body)
            if answer is None:
                writer.transport.abort()
                return
            status, more, content = answer
            more = {"Content-Length": str(len(content)), **more}
            lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in more.items())]
            writer.write("\r\n".join((*lines, "\r\n")).encode("latin-1") + content)
            await writer.drain()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request; empty where there is none."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _json(value: Any, status: int) -> Answer:
    return status, {"Content-Type": "application/json"}, msgspec.json.encode(value)


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


def _answer(seen: Seen, *, as_json: bool, drop: bool) -> Answer:
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
        return 200, {"Content-Type": "application/json"}, header
    body = header + b"".join(array.tobytes() for _, array in named)
    return 200, {"Inference-Header-Content-Length": str(len(header))}, body


Serve = Callable[..., Any]


@pytest.fixture
def serve() -> Serve:
    """Return a context manager that runs a TinyServer below the path /root and yields it and its endpoint."""

    @asynccontextmanager
    async def run() -> AsyncIterator[tuple[TinyServer, Endpoint]]:
        tiny = TinyServer()
        running: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def handled() -> None:
                try:
                    with suppress(ConnectionError):
                        await tiny.handle(reader, writer)
                finally:
                    writer.transport.abort()
                    with suppress(ConnectionError):
                        await writer.wait_closed()

            running.add(asyncio.create_task(handled()))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            yield tiny, Endpoint(host="127.0.0.1", port=port, tls=False, root="/root")
        finally:
            server.close()
            for task in running:
                task.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended), ended
            await server.wait_closed()

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
