"""Connections that come all at once wait to be taken up; none is left to try again a second later."""

from __future__ import annotations

import selectors
import socket
import time

import psutil
import pytest
from tests.servers import serving
from tests.tiny import TINY

TOGETHER = 600
LIMIT_S = 20.0


@pytest.mark.parametrize("arguments", [(), ("--ingress", "1")])
def test_six_hundred_connections_at_once_are_all_there_though_nobody_takes_them_up(
    arguments: tuple[str, ...],
) -> None:
    with serving(TINY, *arguments) as server:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        process = psutil.Process(server.process.pid)
        stopped = [process, *process.children(recursive=True)]
        clients = [socket.socket() for _ in range(TOGETHER)]
        for each in stopped:
            each.suspend()
        try:
            with selectors.DefaultSelector() as waiting:
                for client in clients:
                    client.setblocking(False)
                    client.connect_ex(address)
                    waiting.register(client, selectors.EVENT_WRITE)
                end_s = time.monotonic() + LIMIT_S
                while waiting.get_map() and time.monotonic() < end_s:
                    for key, _ in waiting.select(1.0):
                        waiting.unregister(key.fileobj)
                assert not waiting.get_map(), "some connections are not there"
        finally:
            for client in clients:
                client.close()
            for each in stopped:
                each.resume()
