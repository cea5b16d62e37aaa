"""The open-loop load generator, in a process of its own: a LoadSpec on stdin, a LoadSeen on stdout.

It sends what ``poise load`` would, with its connections and its judgement of itself, but to any server.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from collections import Counter
from functools import partial

import msgspec
import numpy as np
import uvloop

from poise.load.connections import ConnectionPool, Reply, parse_url
from poise.load.health import judge, spread

from . import wires
from .cores import Cores, cores_used
from .seen import LoadSeen, LoadSpec, arrivals_of

EARLY_S = 0.0005
HEARTBEAT_S = 0.02
SPARE_FILES = 64
WARM_UP_TRIES = 3
FURTHEST = 1e-2
"""How far an answer may lie from the reference: batches of other sizes add up in another order."""


class Sending:
    """One load, while it is sent. Times are seconds from its start."""

    def __init__(self, spec: LoadSpec) -> None:
        self.spec = spec
        with np.load(spec.reference) as arrays:
            self.items, self.logits = arrays["items"], arrays["logits"]
        endpoint = parse_url(spec.url)
        self.requests = wires.requests(spec.wire, endpoint, spec.path, self.items)
        self.arrivals, self.contents = arrivals_of(spec)
        self.sent_s = np.zeros(len(self.arrivals))
        self.replies: list[Reply | None] = [None] * len(self.arrivals)
        self.pool = ConnectionPool(
            endpoint, limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
        )
        self.lag_s: list[float] = []
        self.done = self.in_flight = self.most_in_flight = 0
        self.all_done = asyncio.Event()

    async def run(self) -> LoadSeen:
        """Warm up, send everything, wait for everything."""
        await self.warm_up()
        heartbeat = asyncio.create_task(self.heartbeat())
        gc.collect()
        gc.freeze()
        gc.disable()
        before, cpu_before_s = cores_used(self.spec.pid), time.process_time()
        self.start_s = time.perf_counter()
        await self.send_all()
        await asyncio.sleep(max(0.0, self.spec.duration_s - (time.perf_counter() - self.start_s)))
        wall_s, cpu_s = time.perf_counter() - self.start_s, time.process_time() - cpu_before_s
        used = cores_used(self.spec.pid) - before
        await self.all_done.wait()
        heartbeat.cancel()
        await self.pool.close()
        return self.seen(wall_s, cpu_s, used)

    async def warm_up(self) -> None:
        """Send some requests one by one; each is to have a right answer, if need be when it is sent again.

        Raises:
            RuntimeError: one had none.
        """
        for number in range(self.spec.warm_up):
            item = number % len(self.items)
            for _ in range(WARM_UP_TRIES):
                reply = await self.pool.request(*self.requests[item], timeout_s=10.0)
                what = self.what(reply, item)
                if not what:
                    break
            else:
                raise RuntimeError(f"warming up: {what}: {reply.body[:300]!r}")

    async def send_all(self) -> None:
        for number, due_s in enumerate(self.arrivals.tolist()):
            wait_s = due_s - (time.perf_counter() - self.start_s)
            await asyncio.sleep(wait_s if wait_s > EARLY_S else 0)
            self.sent_s[number] = time.perf_counter() - self.start_s
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            head, body = self.requests[self.contents[number]]
            self.pool.send(head, body, partial(self.received, number), self.spec.slo_s + self.spec.grace_s)

    def received(self, number: int, reply: Reply) -> None:
        self.replies[number] = reply
        self.in_flight -= 1
        self.done += 1
        if self.done == len(self.replies):
            self.all_done.set()

    async def heartbeat(self) -> None:
        while True:
            asked_s = time.perf_counter()
            await asyncio.sleep(HEARTBEAT_S)
            self.lag_s.append(max(0.0, time.perf_counter() - asked_s - HEARTBEAT_S))

    def what(self, reply: Reply | None, item: int) -> str:
        """Return what is wrong with an answer, or an empty text."""
        if reply is None or reply.error:
            return reply.error if reply else "nothing"
        if reply.status != 200:
            return f"http_{reply.status}"
        try:
            logits = wires.answer(self.spec.wire, reply)
        except ValueError:
            return "bad_answer"
        if self.spec.any_answer:
            return ""
        right = logits.shape == self.logits[item].shape and np.allclose(
            logits, self.logits[item], atol=FURTHEST
        )
        return "" if right else "wrong"

    def seen(self, wall_s: float, cpu_s: float, used: Cores) -> LoadSeen:
        spec, late, good = self.spec, 0, 0
        errors: Counter[str] = Counter()
        taken_s, from_sent_s = [], []
        due_s, sent_s = self.arrivals.tolist(), self.sent_s.tolist()
        for number, reply in enumerate(self.replies):
            what = self.what(reply, self.contents[number])
            if what or reply is None:
                errors[what] += 1
                continue
            done_s = reply.done_s - self.start_s
            taken_s.append(done_s - due_s[number])
            from_sent_s.append(done_s - sent_s[number])
            good += taken_s[-1] <= spec.slo_s
            late += taken_s[-1] > spec.slo_s
        health = judge(
            lateness_s=(self.sent_s - self.arrivals).tolist(),
            loop_lag_s=self.lag_s,
            cpu_s=cpu_s,
            wall_s=wall_s,
            most_in_flight=self.most_in_flight,
            connections=self.pool.most_open,
            unsent=errors["no_connection"],
            shortest_deadline_s=spec.slo_s,
            min_jobs=spec.min_jobs,
        )
        return LoadSeen(
            jobs=len(self.replies),
            good=good,
            late=late,
            wrong=errors.pop("wrong", 0),
            errors={name: count for name, count in errors.items() if count},
            latency_s=spread(taken_s),
            from_sent_s=spread(from_sent_s),
            front_end_cores=used.front_end_s / wall_s,
            server_cores=used.server_s / wall_s,
            others_cores=max(0.0, used.machine_s - used.server_s - cpu_s) / wall_s,
            generator=health,
        )


async def main() -> None:
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadSpec)
    seen = await Sending(spec).run()
    sys.stdout.buffer.write(msgspec.json.encode(seen) + b"\n")


if __name__ == "__main__":
    uvloop.run(main())
