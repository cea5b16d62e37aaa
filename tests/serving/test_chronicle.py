"""Whatever is wrong with the history's file, nobody waits for it and nothing raises."""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.histories import DECISION, beat

from poise.adapting.decision import Decision
from poise.domain.allocation import Allocation
from poise.errors import ConfigError
from poise.files.history import HistoryFile, HistoryReader
from poise.serving import chronicle as chronicles
from poise.serving.chronicle import FileChronicle, past_rates, set_aside


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(chronicles, "WRITE_EVERY_S", 0.005)
    monkeypatch.setattr(chronicles, "RETRY_S", 0.005)
    monkeypatch.setattr(chronicles, "LOOK_EVERY_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "service.history.sqlite"


def decisions(path: Path) -> list[Decision]:
    with contextlib.closing(HistoryReader(path)) as reader:
        return [each.decision for each in reader.decisions(100)]


def written(path: Path) -> int:
    """Return how many decisions are there; none while the file is being made."""
    try:
        return len(decisions(path))
    except ConfigError:
        return 0


def until(condition: Callable[[], bool]) -> None:
    """Ask until it holds; pytest's timeout ends it."""
    while not condition():
        pass


def test_what_is_kept_is_there_after_the_end(path):
    keeper = FileChronicle(path)
    keeper.observed(beat(time.time(), 4))  # what is older than is kept would be forgotten
    keeper.decided(DECISION)
    keeper.close()
    assert decisions(path) == [DECISION]
    found = past_rates(path)
    assert found is not None
    assert found.rates.tolist() == [4]
    assert past_rates(path, "other") is None
    assert keeper.dropped == 0


def test_a_second_server_goes_on_with_the_first_ones_history(path):
    for number in (1, 2):
        keeper = FileChronicle(path)
        keeper.decided(replace(DECISION, number=number))
        keeper.close()
    assert [each.number for each in decisions(path)] == [1, 2]


@pytest.mark.parametrize("spoil", ["garbage", "middle", "foreign"])
def test_a_corrupt_file_is_set_aside_and_begun_anew(path, caplog, spoil):
    if spoil == "garbage":
        path.write_bytes(b"this was never a database" * 400)
    elif spoil == "foreign":
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript("CREATE TABLE theirs(x); PRAGMA user_version = 9;")
    else:
        file = HistoryFile(path)
        file.write([replace(DECISION, number=number) for number in range(200)])
        file.close()
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)
    before = path.read_bytes()
    assert past_rates(path) is None
    keeper = FileChronicle(path)
    keeper.decided(DECISION)
    keeper.close()
    aside = path.with_name(path.name + ".aside-1")
    assert f"is set aside as {aside.name}" in caplog.text
    assert aside.read_bytes()[-4096:] == before[-4096:]
    assert decisions(path) == [DECISION]


@pytest.mark.parametrize("how", ["deleted", "deleted with its log", "replaced"])
def test_a_history_that_is_deleted_or_replaced_is_begun_anew(path, caplog, how):
    keeper = FileChronicle(path)
    keeper.decided(DECISION)
    until(lambda: written(path) == 1)
    if how == "replaced":
        other = path.with_name("other")
        file = HistoryFile(other)
        file.write([replace(DECISION, number=7)])
        file.close()
        other.rename(path)
    else:
        path.unlink()
    if how == "deleted with its log":
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    keeper.decided(replace(DECISION, number=8))
    keeper.decided(replace(DECISION, number=9))
    until(lambda: "was deleted or replaced" in caplog.text)
    keeper.close()
    assert [each.number for each in decisions(path)] == ([7] if how == "replaced" else []) + [8, 9]
    assert caplog.text.count("was deleted or replaced") == 1


def test_a_locked_file_is_written_once_it_is_free(path, caplog, monkeypatch):
    monkeypatch.setattr("poise.files.history.BUSY_MS", 1)
    HistoryFile(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        keeper = FileChronicle(path)
        keeper.decided(DECISION)
        until(lambda: "database is locked; serving goes on" in caplog.text)
        keeper.decided(replace(DECISION, number=4))
        other.execute("COMMIT")
    until(lambda: "is written again; 0 records are missing" in caplog.text)
    keeper.close()
    assert [each.number for each in decisions(path)] == [3, 4]
    assert caplog.text.count("database is locked") == 1


def test_a_full_disk_costs_records_and_no_more(path, caplog, monkeypatch):
    """Sqlite says that the disk is full, in the same words, once it may take no more pages."""
    monkeypatch.setattr(chronicles, "MAX_WAITING", 50)
    full = True

    class Small(HistoryFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            pages = self._db.execute("PRAGMA page_count").fetchone()[0]
            self._db.execute(f"PRAGMA max_page_count = {pages + 1 if full else 10_000}")

    monkeypatch.setattr(chronicles, "HistoryFile", Small)
    keeper = FileChronicle(path)
    for number in range(60):
        keeper.decided(replace(DECISION, number=number))
    until(lambda: "database or disk is full; serving goes on" in caplog.text)
    full = False
    until(lambda: "is written again" in caplog.text)
    keeper.close()
    assert [each.number for each in decisions(path)][-1] == 59
    assert keeper.dropped == 60 - len(decisions(path))


def test_what_fails_after_the_writing_has_nothing_written_twice(path, caplog, monkeypatch):
    class Unforgetting(HistoryFile):
        def forget(self, now_s: float) -> None:
            raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(chronicles, "HistoryFile", Unforgetting)
    keeper = FileChronicle(path)
    for number in range(3):
        keeper.decided(replace(DECISION, number=number))
    until(lambda: "database is locked; serving goes on" in caplog.text)
    monkeypatch.setattr(Unforgetting, "forget", HistoryFile.forget)
    keeper.decided(replace(DECISION, number=3))
    until(lambda: "is written again; 0 records are missing" in caplog.text)
    keeper.close()
    assert [each.number for each in decisions(path)] == [0, 1, 2, 3]


def test_what_is_left_at_the_end_is_counted(tmp_path, caplog):
    keeper = FileChronicle(tmp_path / "no" / "folder.sqlite")
    for number in range(5):
        keeper.decided(replace(DECISION, number=number))
    keeper.close()
    assert keeper.dropped == 5
    assert "could not be written; 5 records are missing" in caplog.text


def test_a_place_that_cannot_be_written_is_done_without(tmp_path, caplog):
    path = tmp_path / "no" / "such" / "folder.sqlite"
    keeper = FileChronicle(path)
    keeper.decided(DECISION)
    until(lambda: "unable to open database file; serving goes on" in caplog.text)
    path.parent.mkdir(parents=True)
    until(lambda: "is written again" in caplog.text)
    keeper.close()
    assert decisions(path) == [DECISION]


def test_records_do_not_pile_up_for_ever(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(chronicles, "MAX_WAITING", 10)
    path = tmp_path / "no" / "folder.sqlite"
    keeper = FileChronicle(path)
    for number in range(25):
        keeper.decided(replace(DECISION, number=number))
    until(lambda: "serving goes on" in caplog.text)
    for number in range(25, 30):
        keeper.decided(replace(DECISION, number=number))
    path.parent.mkdir()
    until(lambda: "is written again" in caplog.text)
    keeper.close()
    assert [each.number for each in decisions(path)] == list(range(20, 30))
    assert keeper.dropped == 20
    assert "20 records are missing" in caplog.text


def test_a_history_that_cannot_be_set_aside_is_left(path, monkeypatch, caplog):
    path.write_bytes(b"this was never a database" * 400)
    monkeypatch.setattr(chronicles, "set_aside", lambda path: None)
    keeper = FileChronicle(path)
    keeper.decided(replace(DECISION, allocation=Allocation(workers=())))
    until(lambda: "file is not a database; serving goes on" in caplog.text)
    keeper.close()
    assert path.read_bytes().startswith(b"this was never")


def test_names_for_what_is_set_aside_do_not_clash(path):
    for number in (1, 2):
        path.write_bytes(b"x")
        path.with_name(path.name + "-wal").write_bytes(b"w")
        aside = set_aside(path)
        assert aside is not None
        assert aside.name.endswith(f".aside-{number}")
        assert aside.with_name(aside.name + "-wal").read_bytes() == b"w"
    assert not path.exists()
