"""Source packages of the examples, fetched with the ordinary package clients and checked by hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def fetch(cache: Path, name: str, command: Sequence[str], sha256: str) -> Path:
    """The archive `name` in `cache`: fetched there by `command` if need be, checked always."""
    path = cache / name
    if not path.exists():
        cache.mkdir(exist_ok=True)
        subprocess.run(command, cwd=cache, check=True, stdout=subprocess.DEVNULL)
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise SystemExit(f"{path}: not the file expected (SHA-256 differs); delete it and try again")
    return path


def pip_download(requirement: str) -> list[str]:
    """The command that fetches one wheel and nothing it depends on."""
    return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement]
