"""The history of a service: what arrived each second, what became of its workers, and every decision of the adapter.

One SQLite file beside the service file, in WAL mode, so that it can be read while a server writes it. Nothing in it is
needed to serve: whoever writes it goes on without it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np

from poise.adapting.decision import Decision
from poise.adapting.events import Observed
from poise.domain.allocation import Workers
from poise.errors import ConfigError
from poise.forecasting.base import RateHistory

SUFFIX = ".history.sqlite"
VERSION = 1
"""``user_version`` of the file. A file of another version is not touched."""
KEPT_DAYS = 14
"""Seconds are kept for two weeks: some 65 bytes each for a class, 80 MB in all."""
KEPT_DECISIONS = 50_000
"""The latest decisions are kept, those that changed nothing for a day: some 2 KB each, 100 MB in all."""
KEPT_CHANGES = 50_000
DAY_S = 86_400
BUSY_MS = 1000
"""So long a connection waits for another that writes."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS seconds(
    service TEXT NOT NULL, slo_class TEXT NOT NULL, at_s INTEGER NOT NULL, span_s REAL NOT NULL,
    jobs INTEGER NOT NULL, items INTEGER NOT NULL, met INTEGER NOT NULL, missed INTEGER NOT NULL,
    answered_items INTEGER NOT NULL, accuracy_sum REAL NOT NULL,
    PRIMARY KEY(at_s, service, slo_class)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS work(
    service TEXT NOT NULL, at_s INTEGER NOT NULL, span_s REAL NOT NULL, busy_s REAL NOT NULL,
    waiting_items INTEGER NOT NULL, PRIMARY KEY(at_s, service)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers(id INTEGER PRIMARY KEY, epoch_s REAL NOT NULL, change TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decisions(id INTEGER PRIMARY KEY, epoch_s REAL NOT NULL, outcome TEXT NOT NULL,
    decision TEXT NOT NULL);
PRAGMA user_version = {VERSION};
"""
_SECOND = """INSERT INTO seconds VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET span_s = span_s + excluded.span_s, jobs = jobs + excluded.jobs,
    items = items + excluded.items, met = met + excluded.met, missed = missed + excluded.missed,
    answered_items = answered_items + excluded.answered_items,
    accuracy_sum = accuracy_sum + excluded.accuracy_sum"""
_WORK = """INSERT INTO work VALUES(?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET span_s = span_s + excluded.span_s,
    busy_s = busy_s + excluded.busy_s, waiting_items = excluded.waiting_items"""


class WorkerChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of a worker, in a word (loading, loaded, active, parked, stopping, stopped, lost, not loaded)."""

    epoch_s: float
    worker_id: int
    kind: Workers
    what: str
    detail: str = ""


class KeptDecision(msgspec.Struct, frozen=True):
    """A decision and its number in the history, which no other ever gets."""

    id: int
    decision: Decision


class KeptSecond(msgspec.Struct, frozen=True):
    """What one class did in a second, or so long a stretch of time as one beat took.

    ``at_s`` is when it ended, in seconds since the epoch; the rest as ``adapting.events.ClassCounts``.
    """

    at_s: int
    service: str
    slo_class: str
    span_s: float
    jobs: int
    items: int
    met: int
    missed: int
    answered_items: int
    accuracy_sum: float


Record = Observed | Decision | WorkerChange


class ForeignHistoryError(Exception):
    """The file is a history of another version, or no history at all though a sound database."""


def history_path(service_file: Path) -> Path:
    """Return where a service's history is: ``service.history.sqlite`` beside ``service.yaml``."""
    return service_file.with_name(service_file.stem + SUFFIX)


class HistoryFile:
    """An open history, to be written to. Belongs to the thread that opened it.

    Raises:
        sqlite3.Error: the file cannot be opened or written; exactly a ``DatabaseError`` means that it is corrupt.
        ForeignHistoryError: it is something else.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            known = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version != VERSION and known:
                raise ForeignHistoryError(f"got a database of version {version}, expected {VERSION}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA journal_size_limit = 16777216")
            if not known:
                self._db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def write(self, records: Iterable[Record]) -> None:
        """Write some records, all or none of them."""
        with self._transaction():
            for record in records:
                if isinstance(record, Observed):
                    self._write_beat(record)
                elif isinstance(record, Decision):
                    self._db.execute(
                        "INSERT INTO decisions(epoch_s, outcome, decision) VALUES(?, ?, ?)",
                        (record.epoch_s, record.outcome, msgspec.json.encode(record).decode()),
                    )
                else:
                    self._db.execute(
                        "INSERT INTO workers(epoch_s, change) VALUES(?, ?)",
                        (record.epoch_s, msgspec.json.encode(record).decode()),
                    )

    def forget(self, epoch_s: float) -> None:
        """Drop what is older than is kept."""
        oldest_s = int(epoch_s) - KEPT_DAYS * DAY_S
        with self._transaction():
            for table in ("seconds", "work"):
                self._db.execute(f"DELETE FROM {table} WHERE at_s < ?", (oldest_s,))
            self._db.execute(
                "DELETE FROM decisions WHERE outcome IN ('kept', 'held') AND epoch_s < ?", (epoch_s - DAY_S,)
            )
            for table, kept in (("decisions", KEPT_DECISIONS), ("workers", KEPT_CHANGES)):
                self._db.execute(
                    f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?", (kept,)
                )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _write_beat(self, beat: Observed) -> None:
        at_s = second_of(beat.epoch_s)
        for c in beat.classes:
            counts = (c.jobs, c.items, c.met, c.missed, c.answered_items, c.accuracy_sum)
            self._db.execute(_SECOND, (beat.service, c.slo_class, at_s, beat.span_s, *counts))
        self._db.execute(_WORK, (beat.service, at_s, beat.span_s, beat.busy_s, beat.waiting_items))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def second_of(epoch_s: float) -> int:
    """Return the whole second that a beat belongs to; one that comes a little early counts as on time."""
    return int(epoch_s + 0.1)


class HistoryReader:
    """A history, opened to be read, also while a server writes it.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise ConfigError(
                "there is no history",
                file=str(path),
                expected="one that poise serve wrote, with an adapter other than static; --file names one elsewhere",
            )
        with self._reading():
            try:
                self._db = self._open("mode=ro")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                    raise
                # A folder that cannot be written, and no server running: it can be read only like this.
                self._db = self._open("immutable=1")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            self._db.close()
            raise ConfigError(f"got a history of version {version}", file=str(path), expected=str(VERSION))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def decisions(self, last: int) -> list[KeptDecision]:
        """Return the last decisions, oldest first."""
        with self._reading():
            rows = self._db.execute(
                "SELECT id, decision FROM decisions ORDER BY id DESC LIMIT ?", (last,)
            ).fetchall()
            return [_decision(row) for row in reversed(rows)]

    def decision(self, number: int) -> KeptDecision | None:
        """Return one decision by its number in the history; None where there is none."""
        with self._reading():
            row = self._db.execute("SELECT id, decision FROM decisions WHERE id = ?", (number,)).fetchone()
            return None if row is None else _decision(row)

    def changes(self, since_s: float, until_s: float) -> list[WorkerChange]:
        """Return what became of workers in a stretch of time (seconds since the epoch), oldest first."""
        with self._reading():
            rows = self._db.execute(
                "SELECT change FROM workers WHERE epoch_s >= ? AND epoch_s < ? ORDER BY id",
                (since_s, until_s),
            ).fetchall()
            return [msgspec.json.decode(row[0], type=WorkerChange) for row in rows]

    def seconds(self, last: int) -> list[KeptSecond]:
        """Return the counts of the last so many seconds that anything is known of, oldest first."""
        with self._reading():
            rows = self._db.execute(
                "SELECT at_s, service, slo_class, span_s, jobs, items, met, missed, answered_items, accuracy_sum "
                "FROM seconds WHERE at_s > (SELECT max(at_s) FROM seconds) - ? ORDER BY at_s, service, slo_class",
                (last,),
            ).fetchall()
            return [KeptSecond(*row) for row in rows]

    def rates(self, service: str = "", last_s: int = KEPT_DAYS * DAY_S) -> RateHistory:
        """Return the jobs of each second, up to the last that is known; NaN where nobody observed."""
        with self._reading():
            rows = self._db.execute(
                "SELECT at_s, max(span_s), sum(jobs) FROM seconds WHERE service = ? AND at_s > "
                "(SELECT max(at_s) FROM seconds WHERE service = ?) - ? GROUP BY at_s ORDER BY at_s",
                (service, service, last_s),
            ).fetchall()
        return rates_of(rows, last_s)

    def _open(self, how: str) -> sqlite3.Connection:
        db = sqlite3.connect(f"file:{quote(str(self._path))}?{how}", uri=True, timeout=BUSY_MS / 1000)
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise ConfigError(
                f"cannot be read: {error}", file=str(self._path), expected="a history of this version"
            ) from None


def rates_of(rows: Sequence[tuple[int, float, int]], last_s: int) -> RateHistory:
    """Return the rate of each second from beats of (end, span, jobs), which may be longer or shorter than a second.

    Shapes: rising ends; the result has at most ``last_s`` seconds. Units: seconds since the epoch, seconds.
    """
    if not rows:
        return RateHistory(np.empty(0), 0.0)
    ends = np.array([row[0] for row in rows], np.int64)
    spans_s = np.array([row[1] for row in rows])
    rps = np.array([row[2] for row in rows], np.float64) / np.maximum(spans_s, 1e-3)
    stretches = np.maximum(1, np.rint(spans_s)).astype(np.int64)
    end_s = int(ends[-1])
    first_s = max(end_s - last_s, int(ends[0] - stretches[0]))
    rates = np.full(end_s - first_s, np.nan)
    for at in np.flatnonzero(stretches > 1).tolist():
        rates[max(0, int(ends[at] - stretches[at]) - first_s) : int(ends[at]) - first_s] = rps[at]
    inside = ends > first_s
    rates[ends[inside] - first_s - 1] = rps[inside]
    return RateHistory(rates, float(end_s))


def _decision(row: tuple[int, str]) -> KeptDecision:
    return KeptDecision(row[0], msgspec.json.decode(row[1], type=Decision))
