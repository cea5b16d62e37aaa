"""Every command tells how it is used."""

import pytest
import typer
from typer.testing import CliRunner

from poise.cli import main

if not main.app.registered_commands:
    main._register()

COMMANDS = sorted(typer.main.get_group(main.app).commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_help(command):
    found = CliRunner().invoke(main.app, [command, "--help"])
    assert found.exit_code == 0, found.exception
    assert "Usage:" in found.output


def test_the_help_shows_what_stands_in_brackets():
    found = CliRunner(env={"COLUMNS": "200"}).invoke(main.app, ["infer", "--help"])
    assert "http://host:port[/v2/models/NAME]" in found.output
