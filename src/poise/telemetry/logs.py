"""Log lines on stderr: words for people, or one JSON object a line for machines.

A line worth a field of its own is logged with ``extra={...}``; as words, the fields are in the message already.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)

WORDS = "%(levelname)s %(name)s: %(message)s"

MOST_A_MINUTE = 60
"""So many lines of one wording are logged within a minute: what clients can bring about may not fill a disk."""
WINDOW_S = 60.0

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has: whatever else it has was given as ``extra``."""


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, the fields, and ``exception``.

    A field that has one of these names loses it to them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line; line ends in what it holds are escaped."""
        at = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, Any] = {
            "time": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return _encoded({**entry, **fields, **entry})


class Throttle(logging.Filter):
    """Leaves lines out that were logged too often of late; the last one says so. Units: ``clock`` in seconds."""

    def __init__(self, most: int = MOST_A_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most = most
        self._clock = clock
        self._since_s = clock()
        self._counts: defaultdict[tuple[str, int, str], int] = defaultdict(int)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is to be logged."""
        now_s = self._clock()
        if now_s - self._since_s >= WINDOW_S:
            self._since_s = now_s
            self._counts.clear()
        key = (record.name, record.levelno, str(record.msg))
        self._counts[key] += 1
        if self._counts[key] == self._most:
            record.msg = f"{record.msg} (more lines like this are left out for up to {WINDOW_S:.0f} s)"
        return self._counts[key] <= self._most


def configure_logging(level: Level = "info", *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Have all that is logged from now on written to a stream (stderr), from a level on."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.addFilter(Throttle())
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(WORDS))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def _encoded(entry: dict[str, Any]) -> str:
    """Return JSON; what JSON does not know is told in words, and so is everything where that is not enough."""
    try:
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys, numbers or loops that JSON does not have
        text = json.dumps({name: str(value) for name, value in entry.items()}, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()
