"""Two cores: the server's, and the one of the load generator and of this program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

USABLE = tuple(sorted(os.sched_getaffinity(0)))
"""As this program found them."""


@contextmanager
def on_generator_core() -> Iterator[None]:
    """Keep this process, and what it starts without a word about cores, off the server's core."""
    os.sched_setaffinity(0, {USABLE[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, USABLE)


def on_server_core(*words: str) -> list[str]:
    """Return a command that runs on the server's core."""
    return ["taskset", "--cpu-list", str(USABLE[-1]), *words]


def python(module: str, *words: str) -> list[str]:
    """Return a command that runs a module of the benchmarks."""
    return [sys.executable, "-m", module, *words]
