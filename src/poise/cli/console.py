"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from rich.console import Console

out = Console()
"""Results for people."""
err = Console(stderr=True)
"""Progress, warnings and errors."""


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, and nothing else there."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def warning_line(text: str) -> None:
    """Print a warning on stderr."""
    err.print(f"[yellow]warning:[/] {_escaped(text)}", highlight=False, soft_wrap=True, emoji=False)


def error_line(text: str) -> None:
    """Print an error on stderr."""
    err.print(f"[red]error:[/] {_escaped(text)}", highlight=False, soft_wrap=True, emoji=False)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
