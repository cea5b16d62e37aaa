"""An HTTP front end to be attacked: a real one on a real socket, in this process, before a service that knows nothing.

Its clock is the event loop's plus what a test adds to it.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import uvloop
from tests.tiny import TINY

from poise.domain.job import Job
from poise.files import open_service
from poise.ingress.gate import Answered, Gates, PendingJob, Refused
from poise.ingress.grpc_server import GrpcServer, start_grpc
from poise.ingress.guard import Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.http_connection import HttpConnection
from poise.ingress.http_server import HttpServer
from poise.ingress.limits import Limits
from poise.protocol.codec import InferRequest
from poise.protocol.model_config import ModelConfig, model_config
from poise.protocol.statistics import ModelStatistics
from poise.protocol.wire import wire_of
from poise.scheduling.commands import Answer, AnswerPart

SERVICE = open_service(TINY).service
WIRE = wire_of(SERVICE, max_items=100)
ANSWER_S = 20.0
"""A client that waits longer waits in vain."""
START_S = 60.0

lifted: dict[str, Any] = {}
"""Limits that are not held while their guard is taken away."""


class StubGate:
    """Answers each job with zeros, at once or, where it ``holds``, never; keeps the requests."""

    def __init__(self, *, holds: bool = False) -> None:
        self.wire = WIRE
        self.ready = True
        self.draining = False
        self.holds = holds
        self.requests: list[InferRequest] = []
        self.cancelled = 0

    def admit(self, request: InferRequest) -> PendingJob | Refused:
        self.requests.append(request)
        job = Job(
            id=len(self.requests),
            slo_class=request.slo_class,
            items=request.items,
            arrival_s=0.0,
            deadline_s=request.deadline_s,
            accuracy_floor=request.accuracy_floor,
            available=request.available,
            priority=request.priority,
            bucket=0,
        )
        pending = PendingJob(job, 0)
        if not self.holds:
            part = AnswerPart(0, request.items, 1, "late")
            answer = Answer(job.id, (part,), 0.5, 0.0, 0.0, late=False, below_floor=False)
            outputs = {
                name: np.zeros((request.items, *spec.shape), spec.dtype)
                for name, spec in WIRE.outputs.items()
            }
            pending.outcome = Answered(answer, outputs)
        return pending

    async def admit_in_slices(self, request: InferRequest) -> PendingJob | Refused:
        return self.admit(request)

    def cancel(self, pending: PendingJob) -> None:
        self.cancelled += 1

    def label(self, mask: int) -> str:
        return "image"

    def config(self) -> ModelConfig:
        return model_config(WIRE, SERVICE, ())

    def statistics(self) -> ModelStatistics:
        return ModelStatistics("tiny")


class _Server(HttpServer):
    added_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.added_s


class Client:
    """One connection, as bytes."""

    def __init__(self, address: tuple[str, int], connected: socket.socket | None = None) -> None:
        self.socket = connected or socket.create_connection(address, ANSWER_S)
        self._read = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The next reply; an AssertionError where none comes."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = 0 if head_only else int(headers.get("content-length", "0"))
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return int(first.split()[1]), headers, body

    def closed(self) -> bool:
        """Whether the server ends its side, with nothing more before."""
        try:
            return self._read == b"" and self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def _more(self) -> None:
        try:
            data = self.socket.recv(2**16)
        except (TimeoutError, ConnectionError) as error:
            data = b""
            raise AssertionError(f"no reply: {error!r}") from None
        assert data, f"no reply, but the end, after {self._read[:200]!r}"
        self._read += data


class Target:
    """A front end that runs in a thread of its own."""

    def __init__(
        self,
        gate: StubGate,
        guard: Guard,
        limits: Limits,
        *,
        tls: ssl.SSLContext | None,
        grpc: bool,
        **grpc_more: Any,
    ) -> None:
        self.gate = gate
        self.tls = tls
        self.grpc: GrpcServer | None = None
        self._with_grpc = grpc
        self._grpc_more = grpc_more
        self.limits = limits
        self.loop = uvloop.new_event_loop()
        self.troubles: list[dict[str, Any]] = []
        self.loop.set_exception_handler(self._trouble)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        # what the kernel takes for the server says nothing of what the server takes
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        self.address: tuple[str, int] = self.listener.getsockname()
        self.guard = guard
        self._clients: list[Client] = []
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()

    def _trouble(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note what went wrong here.

        grpcio has one queue for all event loops of a process, which any of them empties: what is still in it for a
        server before this one, whose loop is closed, is no trouble of this one.
        """
        of_queue = "PollerCompletionQueue._handle_events" in context.get("message", "")
        if not (of_queue and str(context.get("exception")) == "Event loop is closed"):
            self.troubles.append(context)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._start())
        self._started.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self.server.stop(0.0))
        self.loop.run_until_complete(self.app.stop())
        if self.grpc is not None:
            self.loop.run_until_complete(self.grpc.stop(0.0))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    async def _start(self) -> None:
        gates = Gates({"tiny": self.gate})
        self.app = HttpApp(gates, self.guard, self.limits, lambda: b"# metrics\n")
        self.server = _Server(self.app, self.limits)
        await self.server.start(self.listener, self.tls)
        if self._with_grpc:
            self.grpc = await start_grpc(gates, self.guard, self.limits, "127.0.0.1:0", **self._grpc_more)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(START_S)

    def stop(self) -> None:
        for client in self._clients:
            client.socket.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(START_S)
        self.listener.close()

    def do(self, what: Callable[[], Any]) -> Any:
        """Have something done, or looked at, on the event loop."""

        async def doing() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(doing(), self.loop).result(ANSWER_S)

    def pass_time(self, seconds: float) -> None:
        """Let the server's clock go forward, and the server look at it."""

        def forward() -> None:
            self.server.added_s += seconds
            for connection in tuple(self.server._connections):
                if connection.deadline_s <= self.server.now_s():
                    connection.expire()

        self.do(forward)

    @property
    def connections(self) -> list[HttpConnection]:
        """The connections, handshakes apart; to be looked at on the event loop."""
        return [each for each in self.server._connections if isinstance(each, HttpConnection)]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds on the event loop; an AssertionError where it does not."""
        end_s = time.monotonic() + ANSWER_S
        while not self.do(holds):
            assert time.monotonic() < end_s, "waited for in vain"

    def connect(self) -> Client:
        client = Client(self.address)
        self._clients.append(client)
        return client

    def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send one request on a connection of its own."""
        client = self.connect()
        client.send(data)
        reply = client.reply(head_only=data.startswith(b"HEAD "))
        client.socket.close()
        return reply


@contextlib.contextmanager
def attacked(
    *,
    gate: StubGate | None = None,
    guard: Guard | None = None,
    tls: ssl.SSLContext | None = None,
    grpc: bool = False,
    grpc_more: Mapping[str, Any] = MappingProxyType({}),
    **limits: Any,
) -> Iterator[Target]:
    """Run a front end with some limits; nothing may go wrong on its event loop."""
    all_limits = Limits(**(limits | lifted))
    target = Target(gate or StubGate(), guard or Guard(), all_limits, tls=tls, grpc=grpc, **grpc_more)
    target.start()
    try:
        yield target
    finally:
        target.stop()
    assert target.troubles == [], target.troubles


def request(
    method: str = "GET", path: str = "/v2", body: bytes | None = None, headers: Sequence[str] = ()
) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


INFER = "/v2/models/tiny/infer"


def wave(items: int = 1, **more: Any) -> dict[str, Any]:
    """A request that the tiny service takes, with its sound only."""
    tensor = {"name": "wave", "datatype": "FP32", "shape": [items, 4], "data": [0.5] * 4 * items}
    return {"inputs": [tensor], **more}


def infer(body: Any, *headers: str) -> bytes:
    """The bytes of an inference request."""
    return request("POST", INFER, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


def in_chunks(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """An inference request's bytes, its body in chunks."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = f"POST {INFER} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + framed + b"0\r\n" + trailers + b"\r\n"
