"""Traces: jobs per second, one whole number a line."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from poise.errors import ConfigError

_WHOLE = re.compile(r"(?:[0-9]+\r?\n)*[0-9]+")
MAX_RATE_RPS = 10_000_000
"""More jobs in one second than this is taken to be a mistake."""


def parse_trace(text: str, source: str = "trace") -> NDArray[np.float64]:
    """Return the rates of a trace; blank lines at the end are ignored.

    Shapes: [seconds]. Units: jobs/s.

    Raises:
        ConfigError: no lines, or the first line (by its number) that is no whole number of at least 0.
    """
    lines = text.rstrip().splitlines()
    if not lines:
        raise ConfigError(
            "the trace is empty", file=source, expected="one whole number of jobs per second a line"
        )
    if _WHOLE.fullmatch(text.rstrip()):
        rates = np.array(lines, np.float64)
        if rates.max() <= MAX_RATE_RPS:
            return rates
    for number, line in enumerate(lines, start=1):
        word = line.strip()
        if not (word.isascii() and word.isdigit()) or int(word[:9]) > MAX_RATE_RPS:
            raise ConfigError(
                f"got {word[:40]!r}",
                file=source,
                line=number,
                expected=f"a whole number of jobs per second, 0 to {MAX_RATE_RPS}",
            )
    return np.array([int(line) for line in lines], np.float64)


def slice_trace(
    rates: NDArray[np.float64],
    *,
    from_s: int = 0,
    duration_s: float | None = None,
    scale: float = 1.0,
    source: str = "trace",
) -> NDArray[np.float64]:
    """Cut a trace to ``duration_s`` seconds from ``from_s`` (None: to its end), times ``scale``.

    Shapes: [seconds] to [whole seconds that hold ``duration_s``]. Units: jobs/s.

    Raises:
        ConfigError: the slice leaves the trace.
    """
    seconds = len(rates) - from_s if duration_s is None else math.ceil(duration_s)
    if seconds < 1 or from_s + seconds > len(rates):
        raise ConfigError(
            f"the slice of {max(seconds, 0)} s from {from_s} s leaves the trace",
            file=source,
            field="arrivals",
            expected=f"from_s and duration_s within {len(rates)} s",
        )
    return rates[from_s : from_s + seconds] * scale
