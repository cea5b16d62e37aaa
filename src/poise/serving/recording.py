"""Writes the scheduler's log to a file as it happens, buffered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from poise.errors import ConfigError, PoiseError
from poise.scheduling.commands import Command
from poise.scheduling.events import Event
from poise.scheduling.log import LogHeader, encode_entry, encode_header

BUFFER_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Sees all that a scheduler is told and says, in order."""

    def record(self, event: Event, commands: Sequence[Command]) -> None:
        """Take an event and what came of it, before any of that is carried out."""

    def close(self) -> None:
        """Take no more."""


class Recorder:
    """An open log. A disk that fails ends the recording, never the serving."""

    def __init__(self, path: Path, header: LogHeader) -> None:
        """Open the file and write the header.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._path = path
        try:
            self._file = path.open("wb", buffering=BUFFER_BYTES)
            self._file.write(encode_header(header))
            self._file.flush()
        except OSError as error:
            raise ConfigError(
                f"cannot be written: {error.strerror}", file=str(path), expected="a writable file"
            ) from None
        self._failed = False

    def record(self, event: Event, commands: Sequence[Command]) -> None:
        """Write one entry."""
        if self._failed:
            return
        try:
            self._file.write(encode_entry(event, commands))
        except (OSError, PoiseError) as error:
            self._failed = True
            log.error("recording to %s ends here: %s", self._path, error)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        try:
            self._file.close()
        except OSError as error:
            log.error("the end of the recording %s is missing: %s", self._path, error)
