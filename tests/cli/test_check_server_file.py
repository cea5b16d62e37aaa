"""``poise check --config``: the server file, its tokens and its certificates."""

from pathlib import Path

import pytest
import typer
from tests.tiny import TINY
from typer.testing import CliRunner

from poise.cli.check import check
from poise.errors import ConfigError

app = typer.Typer()
app.command()(check)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format: 1\nport: 1\n", "unknown field 'port'"),
        ("format: 1\ntokens: [{name: a, file: none}]\n", "no token file"),
        ("format: 1\ntls: {certificate: none.pem, key: none.key}\n", "none.pem: cannot be read"),
        ("format: 1\ncache: none\n", "expected a folder that is there"),
        ("format: 1\narena: 5\n", "fit into the arena of 5 bytes, or a larger arena"),
        ("format: 1\ntelemetry: {otel_endpoint: 'http://'}\n", "otel_endpoint: got 'http://'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text, words):
    (tmp_path / "server.yaml").write_text(text)
    found = CliRunner().invoke(app, [str(TINY), "--config", str(tmp_path / "server.yaml")])
    assert isinstance(found.exception, ConfigError)
    assert words in str(found.exception)


def test_a_good_one_passes(tmp_path: Path):
    (tmp_path / "server.yaml").write_text("format: 1\nhttp: {port: 0}\n")
    found = CliRunner().invoke(app, [str(TINY), "--config", str(tmp_path / "server.yaml")])
    assert found.exit_code == 0, found.output


def test_a_token_for_a_class_that_is_not_there_is_warned_of(tmp_path: Path):
    token = f"{{name: team, sha256: {'a' * 64}, classes: [gone]}}"
    (tmp_path / "server.yaml").write_text(f"format: 1\ntokens: [{token}]\n")
    found = CliRunner().invoke(app, [str(TINY), "--config", str(tmp_path / "server.yaml"), "--json"])
    assert found.exit_code == 0, found.output
    assert "token team may send jobs of class gone, which no service here has" in found.output
