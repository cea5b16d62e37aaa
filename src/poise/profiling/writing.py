"""Writes a profile so that a reader finds the old one or the new one, and never half of either."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from poise.domain.profile import Profile
from poise.errors import ConfigError


def encode_profile(profile: Profile) -> bytes:
    """Return a profile as an indented JSON document."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile to a temporary file beside ``path``, and rename it.

    Raises:
        ConfigError: the folder cannot be written to, or the disk is full; what was there stays.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(encode_profile(profile))
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(
            f"cannot be written: {error.strerror}", file=str(path), expected="a folder with room to write in"
        ) from error
