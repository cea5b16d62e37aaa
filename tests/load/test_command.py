"""`poise load` as a command, against the small server in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from poise.cli.load import load
from poise.errors import ConfigError
from poise.load import LoadReport

SERVICE = """
format: 1
service: tiny
modalities:
  first: {inputs: {first: {datatype: FP32, shape: [2]}}}
  second: {inputs: {second: {datatype: INT32, shape: [3]}}}
outputs: {logits: {datatype: FP32, shape: [10]}}
variants: {small: {runtime: emulated}}
classes:
  answers: {latency_slo_ms: 60000, accuracy_floor: 0.8}
  refuses: {latency_slo_ms: 60000}
test: test.npz
"""

app = typer.Typer()
app.command()(load)


@pytest.fixture
def folder(tmp_path: Path, items: Any) -> Path:
    (tmp_path / "service.yaml").write_text(SERVICE, encoding="utf-8")
    np.savez(tmp_path / "test.npz", label=items.label, **items.inputs)
    return tmp_path


@pytest.fixture
def tinies() -> list[Any]:
    """The server that ``url`` runs, to look into."""
    return []


@pytest.fixture
def url(serve: Any, tinies: list[Any]) -> Iterator[str]:
    """The root of a server that runs until the test is over."""
    urls: list[str] = []
    up, over = threading.Event(), threading.Event()

    async def run() -> None:
        async with serve() as (tiny, endpoint):
            tinies.append(tiny)
            urls.append(endpoint.url)
            up.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    up.wait()
    yield urls[0]
    over.set()
    thread.join()


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_json_is_one_document_on_stdout(folder, url):
    plot, report = folder / "run.png", folder / "run.json"
    result = call(
        url, "--service", folder, "--rate", 200, "--duration", 0.5, "--process", "even", "--class", "answers=3",
        "--class", "refuses", "--missing", "second=0.5", "--json", "--report", report, "--plot", plot,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    printed = msgspec.json.decode(result.stdout, type=LoadReport)
    assert printed.run.jobs == 100
    assert printed.run.answered + printed.run.refused["deadline_unreachable"] == 100
    assert printed.run.modality_share.keys() == {"first", "first+second"}
    assert not printed.generator.valid
    assert "not valid: 100 jobs" in result.stderr
    assert msgspec.json.decode(report.read_bytes(), type=LoadReport) == printed
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_workload_file_and_a_flag_over_it(folder, url):
    file = folder / "workload.yaml"
    file.write_text("format: 1\narrivals: {trace: t.txt, within: even}\nseed: 7\n", encoding="utf-8")
    (folder / "t.txt").write_text("30\n0\n", encoding="ascii")
    result = call(url, "--service", folder, "--workload", file, "--duration", 1, "--min-jobs", 1, "--json")
    assert result.exit_code == 0, result.output
    printed = msgspec.json.decode(result.stdout, type=LoadReport)
    assert (printed.run.jobs, printed.run.duration_s, printed.seed) == (30, 1.0, 7)


def test_a_table_for_people(folder, url):
    result = call(url, "--service", folder, "--rate", 50, "--duration", 0.2, "--process", "even")
    assert result.exit_code == 0, result.output
    assert "attainment" in result.stdout
    assert "sent late" in result.stdout


def test_terms_that_no_server_grants_are_warned_of(folder, url):
    result = call(
        url, "--service", folder, "--rate", 20, "--duration", 0.5, "--process", "even",
        "--deadline-ms", 70_000, "--floor", 0.9,
    )  # fmt: skip
    assert "10 of 10 deadlines are longer" in result.stderr
    assert "10 of 10 floors are above" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "5", "--class", "gold"], "classes.gold"),
        (["--rate", "5", "--slack-ms", "5"], "profile"),
        (["--rate", "0"], "rate_rps"),
        ([], "when jobs arrive"),
    ],
)
def test_what_cannot_be_loaded_says_so_before_anything_is_sent(folder, words, message):
    result = call("http://127.0.0.1:9", "--service", folder, *words)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


@pytest.mark.parametrize("by", ["file", "environment"])
def test_the_token_is_sent(folder, url, tinies, monkeypatch, by):
    secret = "s" * 32
    (folder / "token").write_text(secret)
    options = ["--token-file", folder / "token"] if by == "file" else []
    monkeypatch.setenv("POISE_TOKEN", "another" if by == "file" else secret)
    result = call(url, "--service", folder, "--rate", 20, "--duration", 0.5, "--process", "even", *options)
    assert result.exit_code == 0, result.output
    assert {seen.authorization for seen in tinies[0].seen} == {f"Bearer {secret}"}


def test_a_service_without_test_items(folder, url):
    text = SERVICE.replace("test: test.npz\n", "")
    (folder / "service.yaml").write_text(text, encoding="utf-8")
    result = call(url, "--service", folder, "--rate", 5, "--duration", 1)
    assert isinstance(result.exception, ConfigError)
    assert "test items" in str(result.exception)


def test_nobody_serves(folder):
    result = call("http://127.0.0.1:9", "--service", folder, "--rate", 5, "--duration", 1)
    assert isinstance(result.exception, ConfigError)
    assert "no server answers" in str(result.exception)
