"""The log of a scheduler: every event with the commands it led to, as lines of JSON that replay to the same.

The first line is the header: all that a scheduler is built from. Each further line is one entry. This module
turns values into bytes and back; it opens no file. A float is written as the shortest text that reads back as
the very same float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.errors import ConfigError, InternalError
from poise.scheduling.commands import Command
from poise.scheduling.events import Event

LOG_SOURCE = "the log"
"""What errors call a log whose file is not known."""


class LogHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the recorded scheduler was built from; ``poise`` is the version that recorded it.

    The scheduler's settings (largest batch, queue limits, calibration) are in ``service.scheduler``;
    ``policy`` stands on its own because a command line may override the file's.
    """

    format: Literal[1] = 1
    poise: str
    service: Service
    profile: Profile
    policy: str


class LogEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event and the commands that the scheduler returned for it, in order."""

    event: Event
    commands: list[Command]


_encoder = msgspec.json.Encoder()
_header_decoder = msgspec.json.Decoder(LogHeader)
_entry_decoder = msgspec.json.Decoder(LogEntry)


def encode_header(header: LogHeader) -> bytes:
    """Return the first line of a log, with its newline."""
    return _encoder.encode(header) + b"\n"


def encode_entry(event: Event, commands: Sequence[Command]) -> bytes:
    """Return one line of a log, with its newline.

    Raises:
        InternalError: a number that JSON cannot say (infinite, or not a number): it would not replay.
    """
    line = _encoder.encode({"event": event, "commands": commands})
    # JSON has no infinity, so msgspec writes null, which no field of an event or a command may be.
    if b"null" in line:
        try:
            _entry_decoder.decode(line)
        except msgspec.ValidationError as error:
            story = (line.decode(),)
            raise InternalError(f"an event or command cannot be recorded: {error}", story=story) from None
    return line + b"\n"


class LogEntries(Iterator[tuple[Event, list[Command]]]):
    """The entries of a log, decoded one by one as they are asked for.

    ``truncated_line`` is the number of the last line where that was cut short, as a crash leaves it: such a
    line ends the entries without an error. It is None until the end has been reached.

    Raises (while iterating):
        ConfigError: any other line that is not an entry, by its number (the header is line 1).
    """

    def __init__(self, lines: Iterator[bytes], source: str) -> None:
        self._lines = lines
        self._source = source
        self._line = 1
        self._ahead: bytes | None = next(lines, None)
        self.truncated_line: int | None = None

    def __iter__(self) -> LogEntries:
        return self

    def __next__(self) -> tuple[Event, list[Command]]:
        line = self._ahead
        if line is None:
            raise StopIteration
        self._line += 1
        self._ahead = next(self._lines, None)
        may_be_cut = self._ahead is None and not line.endswith(b"\n")
        try:
            entry = _entry_decoder.decode(line)
        except msgspec.ValidationError as error:
            raise _not_a_line(error, self._source, self._line, "an entry") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if may_be_cut:
                self.truncated_line = self._line
                raise StopIteration from None
            raise _not_a_line(error, self._source, self._line, "an entry") from None
        return entry.event, entry.commands


def decode_log(lines: Iterable[bytes], source: str = LOG_SOURCE) -> tuple[LogHeader, LogEntries]:
    """Return the header of a log, and its entries as an iterator.

    ``lines`` is an open binary file or any iterable of lines; ``source`` is the log's name in errors. Only a
    line without its newline counts as cut short.

    Raises:
        ConfigError: no header, or one that does not decode, or is of another format.
    """
    iterator = iter(lines)
    first = next(iterator, None)
    if first is None:
        raise ConfigError("got an empty log", file=source, line=1, expected="a header")
    try:
        header = _header_decoder.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_a_line(error, source, 1, "a header") from None
    return header, LogEntries(iterator, source)


def _not_a_line(error: Exception, source: str, line: int, what: str) -> ConfigError:
    return ConfigError(f"not {what} of a log: {error}", file=source, line=line)
