"""Keeps the history of a server: records are handed over on the event loop and written by a thread of their own.

Whatever is wrong with the file, the server goes on: a corrupt one is set aside and begun anew, and while it is locked,
full or may not be written, records wait for a while and are then dropped. The log says so once, and once when it is
over. One that is deleted, or has another put in its place, is let go, and a new one is begun there.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path
from typing import Protocol

from poise.adapting.decision import Decision
from poise.adapting.events import Observed
from poise.errors import ConfigError
from poise.files.history import ForeignHistoryError, HistoryFile, HistoryReader, Record, WorkerChange
from poise.forecasting.base import RateHistory

WRITE_EVERY_S = 1.0
RETRY_S = 10.0
"""A file that cannot be written is tried again this often."""
MAX_WAITING = 10_000
"""So many records wait while the file cannot be written; then the oldest go."""
LOOK_EVERY_S = 3.0
"""How often the path is asked whether it still names the open file."""
FORGET_EVERY_S = 3600.0
CLOSE_LIMIT_S = 5.0

_Identity = tuple[int, int]
"""Which file it is: its device and its number there."""

log = logging.getLogger(__name__)


class Chronicle(Protocol):
    """Where a history is kept; nothing here waits for it."""

    def observed(self, beat: Observed) -> None:
        """Keep a beat."""

    def decided(self, decision: Decision) -> None:
        """Keep a decision."""

    def changed(self, change: WorkerChange) -> None:
        """Keep what became of a worker."""


class NoChronicle:
    """Keeps nothing."""

    def observed(self, beat: Observed) -> None:
        """Keep nothing."""

    def decided(self, decision: Decision) -> None:
        """Keep nothing."""

    def changed(self, change: WorkerChange) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Nothing to close."""


class FileChronicle:
    """Writes a history file."""

    def __init__(self, path: Path) -> None:
        """Begin; the file is opened by the thread that writes it."""
        self._path = path
        self._file: HistoryFile | None = None
        self._waiting: deque[Record] = deque(maxlen=MAX_WAITING)
        self._again: list[Record] = []  # the thread's own: what it could not write
        self._trouble = ""
        self._retry_s = 0.0
        self._forget_s = 0.0
        self._look_s = 0.0
        self._identity: _Identity | None = None
        self._beside: dict[Path, _Identity] = {}
        self._closing = threading.Event()
        self._overflown = self._given_up = 0  # counted by the loop, and by the thread
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many records were never written."""
        return self._overflown + self._given_up

    def observed(self, beat: Observed) -> None:
        """Keep a beat."""
        self._keep(beat)

    def decided(self, decision: Decision) -> None:
        """Keep a decision."""
        self._keep(decision)

    def changed(self, change: WorkerChange) -> None:
        """Keep what became of a worker."""
        self._keep(change)

    def close(self) -> None:
        """Write what waits and close the file; a disk that does not answer is not waited for long."""
        self._closing.set()
        self._thread.join(CLOSE_LIMIT_S)

    def _keep(self, record: Record) -> None:
        self._overflown += len(self._waiting) == MAX_WAITING
        self._waiting.append(record)

    # In the thread

    def _run(self) -> None:
        while not self._closing.wait(WRITE_EVERY_S):
            if time.monotonic() >= self._retry_s:
                self._write()
        self._write()
        if self._again:
            self._given_up += len(self._again)
            log.error("the history %s could not be written; %d records are missing", self._path, self.dropped)
        self._let_go()

    def _write(self) -> None:
        records, self._again = self._again, []
        while self._waiting:
            records.append(self._waiting.popleft())
        records = self._trimmed(records, MAX_WAITING)
        while records:
            try:
                self._written(records)
            except Exception as error:
                # Whatever it is, the thread lives on: the next attempt may do better.
                if self._begun_anew(error):
                    continue
                self._again = self._trimmed(records, MAX_WAITING - len(self._waiting))
                self._failed(error)
                return
            records = []
            try:
                self._look_after_file()
            except Exception as error:
                if not self._begun_anew(error):
                    self._failed(error)
                return
        if self._trouble:
            log.warning("the history %s is written again; %d records are missing", self._path, self.dropped)
            self._trouble = ""

    def _written(self, records: list[Record]) -> None:
        now_s = time.monotonic()
        if self._file is not None and now_s >= self._look_s:
            self._look_s = now_s + LOOK_EVERY_S
            if _identity_of(self._path) != self._identity:
                log.error(
                    "the history %s was deleted or replaced; what was last written to it may be lost, "
                    "and a new one is begun",
                    self._path,
                )
                self._let_go()
                self._tidy()
        if self._file is None:
            self._file = HistoryFile(self._path)
            self._identity = _identity_of(self._path)
            self._beside = {}
        self._file.write(records)

    def _look_after_file(self) -> None:
        """Do what the file needs now and again; what fails here has nothing to do with what was written."""
        if not self._beside:
            named = [(path, _identity_of(path)) for path in _beside(self._path)]
            self._beside = {path: identity for path, identity in named if identity is not None}
        now_s = time.monotonic()
        if self._file is not None and now_s >= self._forget_s:
            self._forget_s = now_s + FORGET_EVERY_S
            self._file.forget(time.time())

    def _trimmed(self, records: list[Record], most: int) -> list[Record]:
        """Return the newest of some records, and count the others."""
        over = max(0, len(records) - most)
        self._given_up += over
        return records[over:]

    def _begun_anew(self, error: Exception) -> bool:
        """Give up the open file; say whether it was set aside, so that another takes its place at once."""
        self._let_go()
        aside = set_aside(self._path) if is_beyond_repair(error) else None
        if aside is not None:
            log.error("the history %s is set aside as %s (%s)", self._path, aside.name, error)
        return aside is not None

    def _let_go(self) -> None:
        """Close the file, if one is open."""
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error):
                self._file.close()
            self._file = None

    def _tidy(self) -> None:
        """Delete what sqlite kept beside a file that is gone: it would be taken for the next one's."""
        for path, identity in self._beside.items():
            if _identity_of(path) == identity:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _failed(self, error: Exception) -> None:
        self._retry_s = time.monotonic() + RETRY_S
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("the history %s cannot be written: %s; serving goes on", self._path, error)


def _beside(path: Path) -> list[Path]:
    """Return the files that sqlite may keep beside a history."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]


def _identity_of(path: Path) -> _Identity | None:
    """Return which file a path names, by device and number; None where it names none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_beyond_repair(error: Exception) -> bool:
    """Say whether a history file is corrupt or something else, rather than out of reach for a while."""
    return isinstance(error, ForeignHistoryError) or type(error) is sqlite3.DatabaseError


def set_aside(path: Path) -> Path | None:
    """Give a history file another name, with what belongs to it; None where that fails."""
    for number in range(1, 100):
        aside = path.with_name(f"{path.name}.aside-{number}")
        if aside.exists():
            continue
        try:
            path.rename(aside)
            for own, other in zip(_beside(path), _beside(aside), strict=True):
                with contextlib.suppress(FileNotFoundError):
                    own.rename(other)
        except OSError:
            return None
        return aside
    return None


def past_rates(path: Path, service: str = "") -> RateHistory | None:
    """Return the rates that an earlier server kept; None where there are none, or they cannot be read."""
    if not path.exists():
        return None
    try:
        reader = HistoryReader(path)
    except ConfigError as error:
        log.error("the history is not read: %s", error)
        return None
    with contextlib.closing(reader):
        try:
            found = reader.rates(service)
        except ConfigError as error:
            log.error("the history is not read: %s", error)
            return None
    return found if len(found.rates) else None
