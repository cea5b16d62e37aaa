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
    try:
        replace_file(path, encode_profile(profile))
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", file=str(path), expected="a folder with room to write in"
        ) from error


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader finds the old one or the new one; not ``durable``: a power cut may lose it.

    Raises:
        OSError: what was there stays.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
