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


async def aside(function: Callable[[], T]) -> T:
    """Return what a function returns, or raise what it raises; made in a thread that keeps no process from ending.

    Who cancels this waits no more; the call goes on.
    """
    return await _begun(function, lambda: None)


class Aside:
    """Makes calls as ``aside`` does, a few at once, and waits for each only so long.

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
            back = _begun(function, self._found_again)
            try:
                async with asyncio.timeout(limit_s):
                    return await back
            finally:
                self._astray += back.cancelled()

    def _found_again(self) -> None:
        self._astray -= 1


def _begun(function: Callable[[], T], late: Callable[[], None]) -> asyncio.Future[T]:
    """Begin a call; ``late`` is called on the event loop where it is back and nobody waits for it any more."""
    loop = asyncio.get_running_loop()
    back: asyncio.Future[T] = loop.create_future()

    def came(result: T | Exception) -> None:
        if back.cancelled():
            late()
        elif isinstance(result, Exception):
            back.set_exception(result)
        else:
            back.set_result(result)

    def make() -> None:
        result: T | Exception
        try:
            result = function()
        except Exception as error:
            result = error
        except BaseException as error:  # a thread that exits; whoever waits for it is told, and goes on
            result = RuntimeError(f"it ended with {type(error).__name__}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(came, result)

    threading.Thread(target=make, name="aside", daemon=True).start()
    return back
