"""Pages that take long to write and that anybody may ask for again and again: they are kept for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from poise.ingress.routes import HttpRequest, Reply

FRESH_AT_ONCE = 10
FRESH_PER_S = 10.0


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


def seldom_fresh(
    page: Callable[[HttpRequest], Reply], now_s: Callable[[], float] = time.monotonic
) -> Callable[[HttpRequest], Reply]:
    """Return a handler whose page is fresh, but for a flood of requests.

    Beyond ``FRESH_AT_ONCE`` at once and ``FRESH_PER_S`` it gives the last one again, which is as old as
    1/``FRESH_PER_S`` at most.
    """
    left = float(FRESH_AT_ONCE)
    seen_s = now_s()
    last: Reply | None = None

    def handler(request: HttpRequest) -> Reply:
        nonlocal left, seen_s, last
        asked_s = now_s()
        left = min(FRESH_AT_ONCE, left + (asked_s - seen_s) * FRESH_PER_S)
        seen_s = asked_s
        if last is None or left >= 1.0:
            left -= 1.0
            last = page(request)
        return last

    return handler
