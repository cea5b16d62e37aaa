"""How a server comes to its end: the signals for it, the replies that are still due, and clients that are seen off."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

TAKE_LIMIT_S = 5.0
"""How long clients may take to read their answers once all jobs have one and the server ends."""
HURRIED_S = 0.25
"""The same once there was a second signal."""


class Jobs(Protocol):
    """Where jobs wait."""

    async def drained(self) -> None:
        """Wait until every accepted job has its outcome."""


class Front(Protocol):
    """What clients are connected to."""

    async def replied(self) -> None:
        """Wait until each request that waits for its reply now has one, or its client is gone."""

    async def stop(self, take_limit_s: float, /) -> None:
        """Take no more; close each connection as soon as its client has its reply, or after so many seconds.

        Where it is called again meanwhile, the shorter time counts.
        """


async def answered(jobs: Jobs, fronts: Sequence[Front]) -> None:
    """Wait until every accepted job has its outcome, and every client that waited for one its reply."""
    await jobs.drained()
    await asyncio.gather(*(front.replied() for front in fronts))


async def see_off(fronts: Sequence[Front], signals: Signals) -> None:
    """Stop what clients are connected to, and let them read their replies, until there is a second signal."""
    limit_s = HURRIED_S if signals.second.done() else TAKE_LIMIT_S
    ending = asyncio.gather(*(front.stop(limit_s) for front in fronts))
    await first_of([ending, signals.second])
    if not ending.done() and limit_s > HURRIED_S:
        await asyncio.gather(*(front.stop(HURRIED_S) for front in fronts))
    await ending


async def first_of(futures: Sequence[asyncio.Future[Any]], timeout_s: float | None = None) -> None:
    """Wait until one of some futures is done, or for so many seconds."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


class Signals:
    """The first and the second SIGTERM or SIGINT, as futures; and SIGHUP, which is ignored until it means something."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = self._loop.create_future()
        self.second: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._got)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: None)

    def on_hangup(self, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something at every SIGHUP from now on."""

        def hung_up() -> None:
            task = self._loop.create_task(do())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.add_signal_handler(signal.SIGHUP, hung_up)

    def _got(self) -> None:
        future = self.second if self.first.done() else self.first
        if not future.done():
            future.set_result(None)

    def close(self) -> None:
        """Take no more signals: the process ends by itself, and none changes its status any more."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
