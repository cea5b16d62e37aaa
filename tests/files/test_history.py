"""The history file: what is written is read back, also while it is written, and not for ever."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.histories import DECISION, KIND, NOON_S, beat

from poise.adapting.decision import Decision
from poise.adapting.events import Observed
from poise.errors import ConfigError
from poise.files import history as files_history
from poise.files.history import (
    DAY_S,
    KEPT_DAYS,
    ForeignHistoryError,
    HistoryFile,
    HistoryReader,
    KeptSecond,
    WorkerChange,
    history_path,
    rates_of,
    second_of,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "service.history.sqlite"


@pytest.fixture
def written(path: Path) -> Iterator[Callable[..., HistoryReader]]:
    """Writes records and returns a reader, while the writer is still open."""
    with contextlib.ExitStack() as open_files:

        def write(*records: Observed | Decision | WorkerChange) -> HistoryReader:
            file = HistoryFile(path)
            open_files.callback(file.close)
            file.write(records)
            reader = HistoryReader(path)
            open_files.callback(reader.close)
            return reader

        yield write


def test_it_lies_beside_the_service_file():
    assert history_path(Path("/there/service.yaml")) == Path("/there/service.history.sqlite")
    assert history_path(Path("/there/other.yaml")) != history_path(Path("/there/service.yaml"))


def test_decisions_and_changes_read_back_as_they_were(written):
    change = WorkerChange(epoch_s=NOON_S + 1.0, worker_id=7, kind=KIND, what="loaded", detail="in 0.5 s")
    later = replace(DECISION, number=4, outcome="failed", allocation=None, forecast=None)
    reader = written(DECISION, change, later)
    kept = reader.decisions(10)
    assert [each.decision for each in kept] == [DECISION, later]
    assert [each.id for each in kept] == [1, 2]
    assert [each.id for each in reader.decisions(1)] == [2]
    assert reader.decision(1) == kept[0]
    assert reader.decision(3) is None
    assert reader.changes(NOON_S, NOON_S + 2) == [change]
    assert reader.changes(NOON_S + 2, NOON_S + 3) == []


def test_numbers_of_decisions_go_on_after_a_restart(path, written):
    written(DECISION)
    reader = written(DECISION)
    assert [each.id for each in reader.decisions(10)] == [1, 2]


def test_seconds_are_counted_by_class_and_read_while_they_are_written(path, written):
    reader = written(beat(NOON_S + 0.002, 5, bulk=1))
    file = HistoryFile(path)
    file.write([beat(NOON_S + 0.995, 7)])
    file.close()
    interactive = [each for each in reader.seconds(10) if each.slo_class == "interactive"]
    assert interactive == [
        KeptSecond(NOON_S, "", "interactive", 1.0, 5, 10, 5, 0, 10, 7.5),
        KeptSecond(NOON_S + 1, "", "interactive", 1.0, 7, 14, 7, 0, 14, 10.5),
    ]
    assert [each.jobs for each in reader.seconds(10) if each.slo_class == "bulk"] == [1, 0]
    assert {each.at_s for each in reader.seconds(1)} == {NOON_S + 1}


def test_two_beats_of_one_second_are_added_up(written):
    reader = written(beat(NOON_S + 0.2, 5, 0.8), beat(NOON_S + 0.7, 3, 0.5))
    (second,) = [each for each in reader.seconds(10) if each.slo_class == "interactive"]
    assert (second.jobs, second.span_s) == (8, 1.3)


def test_rates_have_gaps_where_nobody_observed(written):
    reader = written(
        beat(NOON_S, 5, bulk=1),
        beat(NOON_S + 1, 6),
        beat(NOON_S + 4, 8),
        beat(NOON_S + 4, 99, service="other"),
    )
    found = reader.rates()
    np.testing.assert_array_equal(found.rates, [6, 6, np.nan, np.nan, 8])
    assert found.end_s == NOON_S + 4
    np.testing.assert_array_equal(reader.rates("other").rates, [99])
    assert len(reader.rates("nobody").rates) == 0
    np.testing.assert_array_equal(reader.rates(last_s=4).rates, [6, np.nan, np.nan, 8])


def test_a_long_beat_stands_for_all_its_seconds():
    found = rates_of([(10, 1.0, 4), (14, 3.1, 31)], 100)
    np.testing.assert_allclose(found.rates, [4, np.nan, 10, 10, 10])


@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0.2, 4), st.integers(0, 1000)), min_size=1, max_size=30),
    st.integers(1, 80),
)
def test_rates_of_any_beats(rows, last_s):
    unique = sorted({at_s: (at_s, span_s, jobs) for at_s, span_s, jobs in rows}.values())
    found = rates_of(unique, last_s)
    assert len(found.rates) <= last_s
    assert found.end_s == unique[-1][0]
    assert found.rates[-1] == pytest.approx(unique[-1][2] / unique[-1][1])
    known = found.rates[~np.isnan(found.rates)]
    assert (known >= 0).all()
    covered = {at_s for at_s, _, _ in unique if at_s > found.end_s - len(found.rates)}
    first_s = found.end_s - len(found.rates)
    assert not np.isnan([found.rates[int(at_s - first_s) - 1] for at_s in covered]).any()


def test_a_beat_a_little_early_belongs_to_its_second():
    assert [second_of(at_s) for at_s in (9.95, 10.0, 10.4, 10.85)] == [10, 10, 10, 10]


def test_what_is_old_is_forgotten(path, monkeypatch):
    monkeypatch.setattr(files_history, "KEPT_DECISIONS", 2)
    monkeypatch.setattr(files_history, "KEPT_CHANGES", 1)
    file = HistoryFile(path)
    end_s = NOON_S + KEPT_DAYS * DAY_S
    same = replace(DECISION, outcome="kept")
    changes = [
        WorkerChange(epoch_s=float(end_s), worker_id=number, kind=KIND, what="lost") for number in (1, 2)
    ]
    file.write([beat(NOON_S - 1, 1), beat(NOON_S, 2), *changes])
    file.write([same, DECISION, DECISION, replace(same, epoch_s=float(end_s))])
    file.forget(end_s)
    file.close()
    reader = HistoryReader(path)
    assert {each.at_s for each in reader.seconds(10**9)} == {NOON_S}
    assert [each.id for each in reader.decisions(10)] == [3, 4]
    assert [each.worker_id for each in reader.changes(0, 1e12)] == [2]
    reader.close()


def test_records_that_cannot_be_written_leave_nothing_behind(path, written):
    reader = written(beat(NOON_S, 5))
    file = HistoryFile(path)
    with pytest.raises(sqlite3.Error):
        file.write([DECISION, replace(DECISION, epoch_s=None)])
    file.write([DECISION])
    file.close()
    assert len(reader.decisions(10)) == 1


def test_no_history_is_the_operators_error(path):
    with pytest.raises(ConfigError, match=r"there is no history, expected one that poise serve wrote"):
        HistoryReader(path)


@pytest.mark.parametrize("content", [b"not a database" * 200, b""])
def test_a_file_that_is_no_history(path, content):
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"expected (a history of this version|1)"):
        HistoryReader(path)


def test_a_database_of_another_version_is_not_touched(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE theirs(x); PRAGMA user_version = 9;")
    with pytest.raises(ForeignHistoryError, match="version 9, expected 1"):
        HistoryFile(path)
    with pytest.raises(ConfigError, match="got a history of version 9"):
        HistoryReader(path)


def test_a_history_whose_records_do_not_decode(path):
    file = HistoryFile(path)
    file._db.execute("INSERT INTO decisions(epoch_s, outcome, decision) VALUES(1, 'kept', '{}')")
    file.close()
    with (
        contextlib.closing(HistoryReader(path)) as reader,
        pytest.raises(ConfigError, match="cannot be read"),
    ):
        reader.decisions(1)
