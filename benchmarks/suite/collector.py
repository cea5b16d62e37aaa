"""Python's garbage collector as a server sets it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from poise.serving.server import GC_THRESHOLDS


@contextmanager
def collector_as_served() -> Iterator[None]:
    """What is there is frozen, and what comes is collected as seldom as in a server."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
