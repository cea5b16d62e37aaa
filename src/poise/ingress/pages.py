"""Pages that take long to write and that anybody may ask for again and again: they are kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from poise.ingress.routes import HttpRequest, Reply

WRITTEN_AT_ONCE = 10
WRITTEN_PER_S = 20.0


def kept_while(
    same: Callable[[], object], page: Callable[[HttpRequest], Reply]
) -> Callable[[HttpRequest], Reply]:
    """Return a handler whose page is written anew only where ``same`` returns another value than then."""
    kept: tuple[object, Reply] | None = None

    def handler(request: HttpRequest) -> Reply:
        nonlocal kept
        now = same()
        if kept is None or kept[0] != now:
            kept = (now, page(request))
        return kept[1]

    return handler


def seldom_written(
    page: Callable[[HttpRequest], Reply], now_s: Callable[[], float] = time.monotonic
) -> Callable[[HttpRequest], Reply | Coroutine[Any, Any, Reply]]:
    """Return a handler whose page is written ``WRITTEN_AT_ONCE`` times at once and ``WRITTEN_PER_S`` after that.

    Whoever asks beyond that waits for the next one, with all who do: what a page says is never older than its request.
    """
    left = float(WRITTEN_AT_ONCE)
    seen_s = now_s()
    coming: asyncio.Task[Reply] | None = None

    def refill() -> None:
        nonlocal left, seen_s
        asked_s = now_s()
        left = min(WRITTEN_AT_ONCE, left + (asked_s - seen_s) * WRITTEN_PER_S)
        seen_s = asked_s

    async def next_page(request: HttpRequest) -> Reply:
        nonlocal left, coming
        try:
            await asyncio.sleep((1.0 - left) / WRITTEN_PER_S)
            refill()
            left -= 1.0
            return page(request)
        finally:
            coming = None

    async def shared(request: HttpRequest) -> Reply:
        nonlocal coming
        if coming is None:
            coming = asyncio.get_running_loop().create_task(next_page(request))
        return await asyncio.shield(coming)

    def handler(request: HttpRequest) -> Reply | Coroutine[Any, Any, Reply]:
        nonlocal left
        refill()
        if left < 1.0 or coming is not None:
            return shared(request)
        left -= 1.0
        return page(request)

    return handler
