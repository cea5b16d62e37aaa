"""What was measured already, one JSON line each: a run that was cut off goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Cell(msgspec.Struct, frozen=True):
    """A measured value, and of what."""

    key: str
    value: msgspec.Raw


class Cells:
    """The cells of one run, in a file that is set aside when the run is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, msgspec.Raw] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            *lines, cut_off = path.read_bytes().split(b"\n")
            for line in lines:
                cell = msgspec.json.decode(line, type=Cell)
                self._known[cell.key] = cell.value
            if cut_off:
                path.write_bytes(b"\n".join([*lines, b""]))

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def once(self, key: str, type_: type[T], make: Callable[[], T]) -> T:
        """Return a value that is known, or make it and keep it."""
        if key not in self._known:
            value = msgspec.json.encode(make())
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(Cell(key, msgspec.Raw(value))) + b"\n")
            self._known[key] = msgspec.Raw(value)
        return msgspec.json.decode(self._known[key], type=type_)

    def complete(self) -> None:
        """Set the file aside: the next run measures everything anew."""
        self._path.replace(self._path.with_suffix(".last.jsonl"))
