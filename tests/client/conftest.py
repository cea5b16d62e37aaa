"""A real server, a server of bytes that are written beforehand, and one way to call either client."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.client.scripts import Script
from tests.servers import arrays, expected, server, tiny

import poise

__all__ = ["arrays", "expected", "server", "tiny"]

Ask = Callable[..., Any]


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    """Start a server of bytes; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*answers: bytes, tls: ssl.SSLContext | None = None) -> Script:
            running = Script(answers, tls)
            stack.callback(running.close)
            return running

        yield start


def blocking(url: str, *calls: tuple[str, tuple, dict], **options: Any) -> list[Any]:
    with poise.Client(url, **options) as client:
        return [getattr(client, name)(*given, **named) for name, given, named in calls]


def asynchronous(url: str, *calls: tuple[str, tuple, dict], **options: Any) -> list[Any]:
    async def all_of_them() -> list[Any]:
        async with poise.AsyncClient(url, **options) as client:
            return [await getattr(client, name)(*given, **named) for name, given, named in calls]

    return asyncio.run(all_of_them())


@pytest.fixture(params=[blocking, asynchronous], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Make one call after another with one client, and return what they return."""
    return request.param
