"""What differs between services as they were opened, and as they are opened anew."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import msgspec

from poise.errors import ConfigError, PoiseError, WorkerError
from poise.serving.deployment import Opened

_ABSOLUTE = re.compile(r"(?:^|(?<=[\s'\"(=:,\[]))/[^\s/]")
_FOREIGN = re.compile(r"[^:]*\b(?:ONNX Runtime|fails|failed)\b")


class ServerChanges(msgspec.Struct, frozen=True):
    """Fields of the server file that a reload took up, and those that hold from the next start."""

    taken: tuple[str, ...] = ()
    next_start: tuple[str, ...] = ()


def changed_services(before: Sequence[Opened], after: Sequence[Opened]) -> dict[str, tuple[str, ...]]:
    """Return what differs, by service: fields of the service file, ``profile``, and model files by their paths."""
    old = {opened.name: opened for opened in before}
    new = {opened.name: opened for opened in after}
    found: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys([*old, *new]):
        if name not in new or name not in old:
            found[name] = ("removed" if name not in new else "added",)
            continue
        was, now = old[name], new[name]
        fields = [
            field
            for field in type(now.folder.service).__struct_fields__
            if getattr(was.folder.service, field) != getattr(now.folder.service, field)
        ]
        if was.profile != now.profile and "profile" not in fields:
            fields.append("profile")
        paths = sorted({*was.files, *now.files})
        fields += [path for path in paths if was.files.get(path) != now.files.get(path)]
        if fields:
            found[name] = tuple(fields)
    return found


def words_of(changes: Mapping[str, Sequence[str]]) -> str:
    """Return changes in words."""
    return "; ".join(f"{name}: {', '.join(fields)}" for name, fields in changes.items())


def words_for_clients(error: PoiseError) -> str:
    """Return why a change is refused, without what is the operator's alone: where files lie, and libraries' words.

    Whoever asks over HTTP reads files, fields and lines as the service file names them; the log has the rest.
    """
    text = str(error)
    if not isinstance(error, ConfigError | WorkerError):
        return text
    if isinstance(error, ConfigError) and error.file is not None:  # its name, and not where it lies
        text = text.replace(error.file, PurePath(error.file).name, 1) if error.file[:1] == "/" else text
    ends = [found.start() for found in (_ABSOLUTE.search(text), _FOREIGN.search(text)) if found]
    if not ends:
        return text
    told = text[: min(ends)].rstrip(" :'\"(=,[")
    return f"{told}: the log says more" if told else "it cannot be served: the log says more"
