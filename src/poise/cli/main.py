"""The command line: ``poise COMMAND``. Each command is a module of this package."""

from __future__ import annotations

import os
from typing import Annotated

import typer

import poise
from poise.cli.console import error_line
from poise.errors import PoiseError
from poise.ingress.child_end import leave

app = typer.Typer(
    name="poise",
    help="Inference serving that keeps accuracy, latency and cost in balance.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"poise {poise.__version__}")
        raise typer.Exit


@app.callback()
def poise_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    """Inference serving that keeps accuracy, latency and cost in balance."""


def _register() -> None:
    """Add each command; a function so that importing this module stays cheap."""
    from poise.cli.allocate import allocate
    from poise.cli.check import check
    from poise.cli.demo import demo
    from poise.cli.history import history
    from poise.cli.infer import infer
    from poise.cli.load import load
    from poise.cli.plan import plan
    from poise.cli.profile import profile
    from poise.cli.reload import reload
    from poise.cli.serve import serve
    from poise.cli.simulate import simulate
    from poise.cli.train_forecaster import train_forecaster

    prepare = (check, profile, plan, allocate)
    run = (serve, reload, infer, load, history)
    for command in (*prepare, *run, simulate, train_forecaster, demo):
        app.command()(command)


def main() -> None:
    """Run the command line; a PoiseError becomes one line on stderr and exit status 2, never a traceback."""
    try:
        _register()
        app()
    except SystemExit as end:  # what a command ends with, through typer
        leave(end.code)
    except PoiseError as error:
        error_line(str(error))
        leave(2)
    except KeyboardInterrupt:
        leave(130)
    except Exception as error:  # the last resort: people get a line, whoever mends it sets POISE_DEBUG
        if os.environ.get("POISE_DEBUG"):
            raise
        error_line(
            f"poise met a fault of its own ({type(error).__name__}: {error}); POISE_DEBUG=1 shows where"
        )
        leave(70)


if __name__ == "__main__":
    main()
