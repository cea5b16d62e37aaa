"""What a server is like after damaged requests, against before."""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import Any, Self

import msgspec
import psutil
from tests.fuzz.grpc import fuzz_grpc, fuzz_http2
from tests.fuzz.http import fuzz_http
from tests.servers import Server

SIDES = 4
"""So many clients at once."""
MOST_GROWTH_BYTES = 24 * 2**20
"""What the server's memory may move by; a leak of 100 bytes a request is four times that in a million."""
MOST_MORE_LINES = 400
"""What /metrics may have more: each metric that was still nothing, of each class, once."""


class State(msgspec.Struct, frozen=True):
    """A server as it is while nothing is asked of it."""

    rss_bytes: int
    descriptors: int
    workers: tuple[int, ...]
    lines: int

    @classmethod
    def of(cls, server: Server) -> Self:
        """Look at a server, once what clients left is cleared."""
        process = psutil.Process(server.process.pid)
        fronts = [process, *(child for child in server.workers() if FRONT_END in child.cmdline())]
        server.wait_until(lambda: all(len(each.net_connections("tcp")) <= LISTENING + 1 for each in fronts))
        return cls(
            sum(each.memory_info().rss for each in fronts),
            sum(each.num_fds() for each in fronts),
            tuple(sorted(child.pid for child in server.workers() if DECODER not in child.cmdline())),
            server.request("GET", "/metrics")[2].count(b"\n"),
        )

    def title(self) -> str:
        return f"{'RSS, MB':>8} {'fds':>4} {'workers':>7} {'metrics':>7}"

    def row(self) -> str:
        return f"{self.rss_bytes / 2**20:8.1f} {self.descriptors:4} {len(self.workers):7} {self.lines:7}"


LISTENING = 2
DECODER = "poise.ingress.decoding_process"
"""What decodes large JSON is started at the first need."""
FRONT_END = "poise.serving.ingress_process"
LOG_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+: ")


def fuzzed(server: Server, requests: int, seed: int) -> Counter[Any]:
    """Send damaged requests from several sides at once: over HTTP, and a tenth as many over gRPC."""
    host, _, port = server.address.rpartition(":")
    statuses: Counter[Any] = Counter()
    failures: list[BaseException] = []

    def side(number: int) -> None:
        try:
            statuses.update(fuzz_http((host, int(port)), requests // SIDES, seed * SIDES + number))
            statuses.update(fuzz_grpc(server.grpc_address, requests // SIDES // 10, seed * SIDES + number))
            fuzz_http2(server.grpc_address, requests // SIDES // 100, seed * SIDES + number)
        except BaseException as failure:  # told below, in the thread that asked
            failures.append(failure)

    threads = [threading.Thread(target=side, args=(number,)) for number in range(SIDES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure
    return statuses


def problems_of(states: list[State], log: str) -> list[str]:
    """Return what is not as it was before."""
    first, last = states[0], states[-1]
    found = []
    if "Traceback" in log:
        found.append(f"the log holds a traceback:\n{log[log.index('Traceback') :][:2000]}")
    strange = [line for line in log.splitlines() if not line.isprintable() or not LOG_LINE.match(line)]
    if strange:
        found.append(f"the log holds what the server does not say: {strange[0]!r}")
    if last.workers != first.workers:
        found.append(f"workers were {first.workers} and are {last.workers}")
    # the first half may still fill caches; what grows goes on growing
    middle = states[len(states) // 2]
    if last.rss_bytes - middle.rss_bytes > MOST_GROWTH_BYTES:
        found.append(f"memory grew from {middle.rss_bytes} to {last.rss_bytes} bytes")
    if last.descriptors > first.descriptors + SIDES:
        found.append(f"file descriptors grew from {first.descriptors} to {last.descriptors}")
    if last.lines > first.lines + MOST_MORE_LINES:
        found.append(f"/metrics grew from {first.lines} to {last.lines} lines")
    return found
