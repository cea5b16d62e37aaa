"""``poise history`` as people and programs read it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.histories import DECISION, KIND, NOON_S, beat
from tests.tiny import TINY

from poise.cli.history import minutes_of, words_of
from poise.domain.allocation import Workers
from poise.files.history import HistoryFile, KeptSecond, WorkerChange

POISE = [sys.executable, "-m", "poise.cli.main", "history"]


def poise(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*POISE, *arguments], capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history that somebody still has open to write."""
    path = tmp_path_factory.mktemp("kept") / "some.sqlite"
    file = HistoryFile(path)
    failed = replace(
        DECISION, number=4, outcome="failed", allocation=None, trouble="the solver took longer than 1 s"
    )
    file.write([DECISION, failed])
    for number in (1, 2):
        file.write(
            [WorkerChange(epoch_s=NOON_S + 0.01 * number, worker_id=number, kind=KIND, what="loading")]
        )
    file.write(
        [WorkerChange(epoch_s=NOON_S + 9.0, worker_id=2, kind=KIND, what="lost", detail="signal SIGKILL")]
    )
    file.write([beat(NOON_S + second, 10 + second) for second in range(1, 4)])
    return path


def test_a_table_of_decisions_says_why_and_what_came_of_it(kept):
    done = poise(str(TINY), "--file", str(kept))
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for words in (
        "1 2023-11-14 22:13:20 band 81 120.5 120.5 1 × small+large (≤ 50 ms) 3 4.0 adopted: memory → 3 × small+large",
        "2 2023-11-14 22:13:20 band 81 120.5 120.5 1 × small+large (≤ 50 ms) 4.0 failed: the solver",
    ):
        assert words in text


def test_last_and_json(kept):
    done = poise(str(TINY), "--file", str(kept), "--last", "1", "--json")
    (only,) = json.loads(done.stdout)
    assert (only["id"], only["number"], only["outcome"]) == (2, 4, "failed")
    assert only["forecast"]["rates"] == [90.0, 120.5]


def test_one_decision_in_full(kept):
    done = poise(str(TINY), "--file", str(kept), "--decision", "1")
    text = " ".join(done.stdout.split())
    for words in (
        "by policy poise",
        "why band",
        "0.5: 90, 0.95: 120.5 within 30 s (burst)",
        "small 0.25, large 0.75",
        "outcome adopted: memory",
        "2 to load, 0 to activate",
        "+0.01 s loading 1 × small+large (≤ 50 ms): worker 1, 2",
        "+9.00 s lost 1 × small+large (≤ 50 ms): worker 2 (signal SIGKILL)",
    ):
        assert words in text
    told = json.loads(poise(str(TINY), "--file", str(kept), "--decision", "1", "--json").stdout)
    assert told["id"] == 1
    assert [change["what"] for change in told["workers"]] == ["loading", "loading", "lost"]


def test_rates_by_the_minute(kept):
    done = poise(str(TINY), "--file", str(kept), "--rates", "--json")
    minutes = {minute["slo_class"]: minute for minute in json.loads(done.stdout)}
    assert minutes["interactive"]["jobs_rps"] == 12.0
    assert minutes["interactive"]["attainment"] == 1.0
    assert minutes["interactive"]["accuracy"] == 0.75
    assert minutes["bulk"]["attainment"] is None
    table = poise(str(TINY), "--file", str(kept), "--rates").stdout
    assert "2023-11-14 22:13 interactive 12 100.00 % 0.7500" in " ".join(table.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "there is no history, expected one that poise serve wrote"),
        (("--decision", "7"), "there is no decision 7, expected 1 to 2"),
    ],
)
def test_what_there_is_not(kept, arguments, words):
    file = ("--file", str(kept)) if arguments else ()
    done = poise(str(TINY), *arguments, *file)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


def test_seconds_are_added_up_by_the_minute_they_were_in():
    def second(at_s: int, jobs: int) -> KeptSecond:
        return KeptSecond(at_s, "", "a", 1.0, jobs, jobs, jobs, jobs, 0, 0.0)

    first, other = minutes_of([second(60, 4), second(61, 6), second(120, 8)])
    assert (first.from_s, first.jobs_rps, first.attainment, first.accuracy) == (0, 4.0, 0.5, None)
    assert (other.from_s, other.jobs_rps, other.observed_s) == (60, 7.0, 2.0)


def test_workers_in_few_words():
    assert words_of(()) == "none"
    workers = (
        Workers(variants=("a", "b"), count=2),
        Workers(variants=("c",), count=1, threads=4, service="s"),
    )
    assert words_of(workers) == "2 × a+b, 1 × s: c (4 threads)"
    assert words_of((Workers(variants=("a", "b", "c", "d"), count=1),)) == "1 × a+…+d (4 variants)"
