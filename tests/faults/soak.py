"""Every fault at once, for as long as one wishes, under load: ``python -m tests.faults.soak --seconds 3600``.

Over HTTP comes an even load, over gRPC a call now and then; the service is reloaded under both. Ends with a table, and
with status 1 if a request got no reply or a wrong one, or if memory or files of the server grew.
"""

import argparse
import contextlib
import json
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from tests.faults.calls import CALLS_END, Calls
from tests.faults.servers import (
    CODES,
    Traffic,
    item,
    json_process_of,
    large_item,
    serving_with,
    workers_of,
    write_faulty,
    write_service,
)
from tests.servers import Server

RATE_RPS = 100.0
WORKERS = 2
BETWEEN_S = 1.0
"""A fault comes this often, on average; half of them end a worker or have it ended."""
BAD_EVERY = 97
LOST, RELOADED, REFUSED = "a worker was lost", "reloaded; changed: ", "refused, and everything stays as it is"
"""What the server's log says of what its metrics forget when the service is reloaded."""
LARGE_BYTES = 24 * 10**6
MIDDLING_BYTES = 600_000
WARM_S = 20.0
"""What a server holds is looked at from then on: it has met most of the faults once."""
MOST_FILES = 16
MOST_RSS_FRAC, MOST_RSS_BYTES = 0.1, 48 * 2**20
"""So much more than at first may the server hold at the end."""

IMPATIENT = """
import poise.serving.batches as batches
import poise.ingress.decoding as decoding
batches.HUNG_AFTER_S = 3.0
decoding.LargeJson.__init__.__defaults__ = (32, 2.0)
"""
MILD = ("raises", "is_not_a_number", "has_a_wrong_shape", "allocates")
"""Faults of a model that its worker survives; the load itself holds some of each."""
HEAD = b"POST /v2/models/faulty/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


class Held(msgspec.Struct, frozen=True):
    """What the server held at a time. Units: seconds since the beginning, bytes."""

    at_s: float
    rss_bytes: int


class Mayhem:
    """Does something bad to a server again and again, until told to stop."""

    def __init__(self, server: Server, service: Path, calls: Calls, seed: int) -> None:
        self._server = server
        self._service = service
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.large: Counter[int] = Counter()
        self._faults: dict[str, tuple[float, Callable[[], None]]] = {
            "worker killed": (4, self._kill_worker),
            "worker stopped": (1, self._stop_worker),
            "job that kills its workers": (1, lambda: self._post("kills_itself")),
            "job that takes all memory": (1, lambda: self._post("allocates_until_killed")),
            "job that never ends": (0.5, lambda: self._post("sleeps_for_ever")),
            "JSON process killed": (1, lambda: self._signal_json(signal.SIGKILL)),
            "JSON process stopped": (0.5, lambda: self._signal_json(signal.SIGSTOP)),
            "24 MB of JSON": (1, lambda: self._large(LARGE_BYTES)),
            "600 KB of JSON": (2, lambda: self._large(MIDDLING_BYTES)),
            "client gone in mid-body": (2, lambda: self._leave(0.5)),
            "client gone in mid-wait": (2, lambda: self._leave(1.0)),
            "call over gRPC": (2, calls.call),
            "call over gRPC, cancelled": (1, calls.cancel),
            "call over gRPC with 1 ms left": (1, calls.hurry),
            "service reloaded": (1, self._reload),
            "service file that is wrong": (0.5, lambda: self._reload(more="nonsense: 1\n")),
            "service whose model does not load": (0.5, lambda: self._reload(factory="nobody")),
        }

    def run(self, seconds: float) -> None:
        """Go on for so long: each fault once, then whichever comes."""
        names = list(self._faults)
        weights = [weight for weight, _ in self._faults.values()]
        first = self._random.sample(names, len(names))
        end_s = time.monotonic() + seconds
        threads: list[threading.Thread] = []
        while time.monotonic() < end_s:
            name = first.pop() if first else self._random.choices(names, weights)[0]
            # Those that wait for a reply do it beside the others.
            thread = threading.Thread(target=self._do, args=(name,))
            thread.start()
            threads = [each for each in threads if each.is_alive()] + [thread]
            time.sleep(self._random.expovariate(1 / BETWEEN_S))
        for thread in threads:
            thread.join()

    def _do(self, name: str) -> None:
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            self._faults[name][1]()
            self.done[name] += 1

    def _kill_worker(self) -> None:
        self._random.choice(workers_of(self._server)).kill()

    def _stop_worker(self) -> None:
        self._random.choice(workers_of(self._server)).suspend()

    def _post(self, fault: str) -> None:
        status, _ = self._server.post(item(float(CODES[fault])))
        self.large[status] += 1

    def _signal_json(self, number: signal.Signals) -> None:
        process = json_process_of(self._server)
        if process is not None:
            process.send_signal(number)

    def _large(self, size: int) -> None:
        status, _ = self._server.post(large_item(size))
        self.large[status] += 1

    def _reload(self, **how: str) -> None:
        slo_ms = self._random.randrange(500_000, 600_000)
        write_service(self._service, workers=WORKERS, slo_ms=slo_ms, **how)
        self._server.process.send_signal(signal.SIGHUP)

    def _leave(self, part: float) -> None:
        body = json.dumps(item(1.0)).encode() if self._random.random() < 0.5 else large_item(MIDDLING_BYTES)
        host, port = self._server.address.split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(HEAD % len(body) + body[: int(part * len(body))])


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a soak."""

    seconds: float
    sent: int
    not_sent: int
    statuses: dict[str, int]
    lost: dict[str, int]
    wrong: int
    slowest_s: float
    held: list[Held]
    fds_before: int
    fds_after: int
    workers_lost: int
    faults: dict[str, int]
    one_by_one: dict[int, int]
    calls: dict[str, int]
    reloads: int
    reloads_refused: int
    exit_status: int
    left_behind: int

    @property
    def slope_bytes_per_h(self) -> float:
        """What the server's memory grows by in an hour, by least squares over the second half."""
        half = self.held[len(self.held) // 2 :]
        if len(half) < 3:
            return 0.0
        slope, _ = np.polyfit([each.at_s for each in half], [each.rss_bytes for each in half], 1)
        return float(slope) * 3600

    @property
    def problems(self) -> list[str]:
        """What is not as it should be."""
        first, last = self.held[0], self.held[-1]
        found = {
            "requests got no reply": bool(self.lost),
            "answers were wrong": bool(self.wrong),
            "a call over gRPC went wrong": bool(self.calls.keys() - CALLS_END),
            "no reload was applied": "service reloaded" in self.faults and not self.reloads,
            "no wrong file was refused": "service file that is wrong" in self.faults
            and not self.reloads_refused,
            "replies do not add up to what was sent": sum(self.statuses.values()) != self.sent,
            "open files grew": self.fds_after > self.fds_before + MOST_FILES,
            "memory grew": last.rss_bytes > first.rss_bytes * (1 + MOST_RSS_FRAC) + MOST_RSS_BYTES,
            "the server did not drain": self.exit_status != 0,
            "processes were left behind": self.left_behind > 0,
            "nothing was answered": self.statuses.get("200", 0) < self.sent / 2,
        }
        return [problem for problem, there in found.items() if there]

    def table(self) -> Table:
        """Return it for people."""
        table = Table(title=f"Soak of {self.seconds:.0f} s", title_justify="left", show_header=False)
        shown = [self.held[(len(self.held) - 1) * quarter // 4] for quarter in range(5)]
        rows = {
            "requests sent": f"{self.sent}" + (f" ({self.not_sent} held back)" if self.not_sent else ""),
            "answered": f"{self.statuses.get('200', 0)}",
            **{f"refused: {why}": f"{n}" for why, n in sorted(self.statuses.items()) if why != "200"},
            "lost": f"{sum(self.lost.values())} {self.lost or ''}",
            "wrong": f"{self.wrong}",
            "slowest reply": f"{self.slowest_s:.1f} s",
            "RSS first, at each quarter, last": ", ".join(f"{each.rss_bytes / 2**20:.1f}" for each in shown)
            + " MiB",
            "RSS slope, second half": f"{self.slope_bytes_per_h / 2**20:+.1f} MiB/h",
            "open files before and after the load": f"{self.fds_before}, {self.fds_after}",
            "workers lost": f"{self.workers_lost}",
            **dict(sorted((name, f"{n}") for name, n in self.faults.items())),
            "replies to these, by status": str(dict(sorted(self.one_by_one.items()))),
            "calls over gRPC, by status": str(dict(sorted(self.calls.items()))),
            "reloads applied, refused": f"{self.reloads}, {self.reloads_refused}",
            "exit status after SIGTERM under load": f"{self.exit_status}",
            "processes left behind": f"{self.left_behind}",
            "verdict": "; ".join(self.problems) or "0 lost, memory and files flat",
        }
        for name, value in rows.items():
            table.add_row(name, value)
        return table


def request(number: int) -> bytes:
    """The load: items that are well, and now and then one that is not."""
    if number % BAD_EVERY == 0:
        return json.dumps(item(float(CODES[MILD[number // BAD_EVERY % len(MILD)]]))).encode()
    return json.dumps(item(float(number % 1000))).encode()


def right(number: int, body: bytes) -> bool:
    """Whether an answer is that of its request."""
    data = json.loads(body)["outputs"][0]["data"]
    return bool(data == [2.0 * (number % 1000), 2.0, 4.0, 6.0])


def soak(seconds: float, folder: Path, rate_rps: float = RATE_RPS, seed: int = 1, ingress: int = 0) -> Report:
    """Run everything for so many seconds."""
    service = write_faulty(folder / "faulty", workers=WORKERS)
    options = ["--grpc-port", "0", *(["--ingress", f"{ingress}"] if ingress else [])]
    with serving_with(service, *options, before=IMPATIENT) as server, Calls(server) as calls:
        process = psutil.Process(server.process.pid)
        mayhem = Mayhem(server, service, calls, seed)
        held: list[Held] = []
        server.post(large_item(MIDDLING_BYTES))  # the JSON process is there
        calls.call()
        fds_before = process.num_fds()
        begin_s = time.monotonic()
        over = threading.Event()

        def watch() -> None:
            wait_s = min(WARM_S, seconds / 4)
            while not over.wait(wait_s):
                wait_s = 1.0
                with contextlib.suppress(psutil.NoSuchProcess):
                    held.append(Held(time.monotonic() - begin_s, process.memory_info().rss))

        watcher = threading.Thread(target=watch)
        watcher.start()
        traffic = Traffic(server.url, "faulty", request, right)
        traffic.run(rate_rps, seconds, lambda: mayhem.run(seconds))
        over.set()
        watcher.join()
        for worker in workers_of(server):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()
        server.wait_until(lambda: server.metric("poise_queue_jobs") == 0)
        log = server.log()
        fds_after = process.num_fds()
        children = server.workers()
        exit_status = server.terminate()
        _, alive = psutil.wait_procs(children, timeout=30)
    return Report(
        seconds=seconds,
        sent=traffic.sent,
        not_sent=traffic.not_sent,
        statuses=dict(traffic.statuses),
        lost=dict(traffic.lost),
        wrong=traffic.wrong,
        slowest_s=traffic.slowest_s,
        held=held,
        fds_before=fds_before,
        fds_after=fds_after,
        workers_lost=log.count(LOST),
        faults=dict(mayhem.done),
        one_by_one=dict(mayhem.large),
        calls=dict(calls.statuses),
        reloads=log.count(RELOADED),
        reloads_refused=log.count(REFUSED),
        exit_status=exit_status,
        left_behind=len(alive),
    )


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, default=RATE_RPS, help="requests a second")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and when they come")
    parser.add_argument("--ingress", type=int, default=0, help="front ends in processes of their own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="poise-soak-") as folder:
        report = soak(given.seconds, Path(folder), given.rate, given.seed, given.ingress)
    Console(width=120).print(report.table())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
