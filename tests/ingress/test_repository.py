"""The repository's routes: what is too long for them is not read. The rest is tested with a server that reloads."""

import asyncio
from typing import Any

import grpc
import pytest

from poise.errors import TooLargeError
from poise.ingress.gate import Gates
from poise.ingress.grpc_methods import SERVICE, GrpcMethods
from poise.ingress.grpc_server import start_grpc
from poise.ingress.guard import EVERYBODY, Guard
from poise.ingress.http_app import HttpApp
from poise.ingress.limits import Limits
from poise.ingress.repository import (
    MAX_REQUEST_BYTES,
    ModelState,
    Reloaded,
    add_repository_routes,
)
from poise.ingress.routes import HttpRequest, Reply
from poise.protocol import inference_pb2 as pb

MANY = MAX_REQUEST_BYTES + 1


class FakeRepository:
    """Has one service, which is loaded when ``go`` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.loading = asyncio.Event()

    def index(self) -> tuple[ModelState, ...]:
        return (ModelState("tiny", "READY"),)

    async def load(self, name: str) -> None:
        self.loading.set()
        await self.go.wait()

    async def unload(self, name: str) -> None:
        await self.load(name)

    async def reload(self) -> Reloaded:
        return Reloaded({}, 0.0)


def test_an_index_is_asked_for_in_few_words() -> None:
    app = HttpApp(Gates({}), Guard(None, ()), Limits())
    add_repository_routes(app, FakeRepository())

    def ask(length: int) -> Reply:
        request = HttpRequest("POST", b"/v2/repository/index", {})
        request.body = b'{"ready":true}'.ljust(length)
        methods, request.parameters = app.routes.find(request.target)
        reply = methods["POST"].handler(request)
        assert isinstance(reply, Reply)
        return reply

    assert ask(MAX_REQUEST_BYTES).status == 200
    with pytest.raises(TooLargeError, match=f"got a request of {MANY} bytes, expected at most"):
        ask(MANY)


def test_a_service_is_loaded_in_few_words() -> None:
    app = HttpApp(Gates({}), Guard(None, ()), Limits())
    add_repository_routes(app, FakeRepository())
    for what in ("load", "unload"):
        request = HttpRequest("POST", f"/v2/repository/models/tiny/{what}".encode(), {})
        request.body = b"{}".ljust(MANY)
        methods, request.parameters = app.routes.find(request.target)
        with pytest.raises(TooLargeError):
            methods["POST"].handler(request)


def test_messages_without_tensors_are_short() -> None:
    async def run() -> None:
        table = GrpcMethods(Gates({}), Limits(), (), FakeRepository()).table()
        assert len(table) == 11
        # an unknown field, which a parser would keep
        long = b"\xfa\x3f" + bytes([0x80 | MANY & 0x7F, 0x80 | MANY >> 7 & 0x7F, MANY >> 14]) + bytes(MANY)
        for name, method in table.items():
            if name != "ModelInfer":
                with pytest.raises(TooLargeError, match=f"got a request of {len(long)} bytes"):
                    await method(EVERYBODY, long, None)
        short = b"\xfa\x3f\x7f" + bytes(127)
        live = await (await table["ServerLive"](EVERYBODY, short, None))
        assert pb.ServerLiveResponse.FromString(live).live

    asyncio.run(run())


def test_calls_whose_message_is_there_are_waited_for_and_no_others() -> None:
    async def run() -> None:
        repository = FakeRepository()
        server = await start_grpc(Gates({}), Guard(None, ()), Limits(), "127.0.0.1:0", repository=repository)
        message = pb.RepositoryModelLoadRequest(model_name="tiny").SerializeToString()
        async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            silent: Any = channel.stream_unary(f"/{SERVICE}/ServerLive")  # whose message never comes
            silent = silent()
            await server.replied()
            load: Any = channel.unary_unary(f"/{SERVICE}/RepositoryModelLoad")
            loading = load(message)
            await repository.loading.wait()
            waiting = asyncio.create_task(server.replied())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            repository.go.set()
            await loading
            await waiting
            silent.cancel()
        await server.stop(0)

    asyncio.run(run())
