"""Calls that may never come back, a service's own metric or a disk's: made aside, where nothing else waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 2
MAX_ASTRAY = 4
"""So many calls may stay out after their time; others are not made then."""


class Aside:
    """Makes calls, each in a thread of its own that may not keep the process from ending.

    Belongs to the event loop's thread.
    """

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._astray = 0

    async def call(self, function: Callable[[], T], limit_s: float) -> T:
        """Return what a function returns, or raise what it raises.

        Raises:
            TimeoutError: it was not back after so many seconds, or too many before it are not.
        """
        async with self._turns:
            if self._astray >= MAX_ASTRAY:
                raise TimeoutError
            loop = asyncio.get_running_loop()
            back: asyncio.Future[T] = loop.create_future()
            threading.Thread(
                target=self._make, args=(function, back, loop), name="aside", daemon=True
            ).start()
            try:
                async with asyncio.timeout(limit_s):
                    return await back
            finally:
                self._astray += back.cancelled()

    def _make(
        self, function: Callable[[], T], back: asyncio.Future[T], loop: asyncio.AbstractEventLoop
    ) -> None:
        result: T | Exception
        try:
            result = function()
        except Exception as error:
            result = error
        except BaseException as error:  # a thread that exits; whoever waits for it is told, and goes on
            result = RuntimeError(f"it ended with {type(error).__name__}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._back, back, result)

    def _back(self, back: asyncio.Future[T], result: T | Exception) -> None:
        if back.cancelled():
            self._astray -= 1
        elif isinstance(result, Exception):
            back.set_exception(result)
        else:
            back.set_result(result)
