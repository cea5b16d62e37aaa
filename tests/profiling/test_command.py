"""``poise profile`` writes the profile, and prints it for people or for programs."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from poise.cli.profile import profile
from poise.errors import ConfigError

app = typer.Typer()
app.command()(profile)


def test_json_is_the_profile_and_nothing_else(tiny):
    result = CliRunner().invoke(app, [str(tiny.root), "--budget-s", "0", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((tiny.root / "profile.json").read_text())
    assert [variant["name"] for variant in printed["variants"]] == ["late", "whole"]


def test_for_people_there_are_tables(tiny):
    out = tiny.root.parent / "other.json"
    result = CliRunner().invoke(app, [str(tiny.root), "--budget-s", "0", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.is_file()
    assert not (tiny.root / "profile.json").exists()
    for words in ("image+sound+word", "independent items", "p99 ms", "way", f"written to {out}"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "one"], "--threads: got threads 'one', expected whole numbers, such as 1,2"),
    ],
)
def test_options_that_cannot_be_used(tiny, arguments, message):
    result = CliRunner().invoke(app, [str(tiny.root), *arguments])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
