"""Reading the files that a server is set up by: a regular one, and no more of it than it may have."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from poise.errors import ConfigError


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Return what is in a file of ``most_bytes`` at most.

    A pipe would keep whoever opens it until somebody writes, and a device has no end: neither is read.

    Raises:
        ConfigError: it is none, or larger.
        OSError: it cannot be read.
    """
    # Without waiting: asked for its kind before it is opened, it might be another one by then.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError("it is a pipe or a device", file=path.name, expected="a regular file")
        # Some files say that they are empty, and one may grow: what is read decides.
        text = b"" if found.st_size > most_bytes else file.read(most_bytes + 1)
    if max(found.st_size, len(text)) > most_bytes:
        raise ConfigError(f"it is larger than {most_bytes} bytes", file=path.name)
    return text
