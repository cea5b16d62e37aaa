"""Frontier tables kept beside the profile, so that a service of many modalities does not work them out at each start.

The file holds plans only (how many items use which modality set). Their latencies and accuracies are summed from
the model as they are read, and each part is kept under a digest of the whole model: of every mode's promised
accuracy and every stage's latency at the statistic, threads, device and largest batch that are planned with. What
does not fit is worked out again. The file may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Literal

import msgspec
import numpy as np

from poise.files.service_folder import ServiceFolder
from poise.planning.frontier import FrontierTable
from poise.planning.latency_model import LatencyModel, restrict
from poise.planning.service_model import Tables

SUFFIX = ".frontiers"
WORTH_KEEPING_S = 0.2
MAX_BYTES = 256 * 2**20
_POINTS, _COUNTS = np.dtype("<u4"), np.dtype("<i2")


class _KeptTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table: points of each batch size (``<u4``), then the items of each point by modality set (``<i2``)."""

    points: bytes
    counts: bytes


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tables of one variant on one kind of worker. ``digest`` is that of the model and of the tables."""

    digest: str
    tables: dict[int, _KeptTable]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; ``parts`` is by variant, threads and device. A new ``format`` where E1 itself changes."""

    format: Literal[1]
    parts: dict[str, _Part]


class FrontierCache:
    """A ``FrontierStore`` in a file beside the profile.

    Nothing about it is an error: a file that cannot be used is left aside, one that cannot be written is not
    written, and ``warn`` is told in a line. Tables that are made within ``worth_keeping_s`` seconds are not kept:
    a small service gets no file.
    """

    def __init__(
        self,
        path: Path,
        variants: Iterable[str],
        warn: Callable[[str], None],
        *,
        worth_keeping_s: float = WORTH_KEEPING_S,
    ) -> None:
        self.path = path
        self._variants = frozenset(variants)
        self._warn = warn
        self._worth_keeping_s = worth_keeping_s

    @classmethod
    def beside_profile(cls, folder: ServiceFolder, warn: Callable[[str], None]) -> FrontierCache:
        """Return the cache of a service: ``profile.json.frontiers`` beside ``profile.json``.

        Raises:
            ConfigError: the profile's path leaves the service's folder.
        """
        return cls.of(folder, warn)

    @classmethod
    def of(
        cls, folder: ServiceFolder, warn: Callable[[str], None], cache: Path | None = None
    ) -> FrontierCache:
        """Return the cache of a service, in a folder for all services or, without one, beside the profile.

        Raises:
            ConfigError: the profile's path leaves the service's folder.
        """
        return cls(folder.cache_file(SUFFIX, cache), folder.service.variants, warn)

    def tables(
        self, name: str, model: LatencyModel, keys: tuple[int, ...], build: Callable[[], Tables]
    ) -> Tables:
        """Return the tables of a model: those kept under ``name`` if they are its own, else built ones, kept now."""
        kept = self._read()
        part = None if kept is None else kept.parts.get(name)
        if part is not None:
            found = _opened(part, model, keys)
            if found is not None:
                return found
        began_s = perf_counter()
        built = build()
        took_s = perf_counter() - began_s
        if took_s > self._worth_keeping_s:
            self._write(kept, name, _part_of(model, built), took_s)
        return built

    def _read(self) -> _File | None:
        try:
            if self.path.is_symlink() or not self.path.is_file():
                return None
            if self.path.stat().st_size > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES} bytes")
            return msgspec.msgpack.decode(self.path.read_bytes(), type=_File)
        except (OSError, ValueError) as error:
            self._warn(f"{self.path.name} cannot be used and is made again: {_reason(error)}")
            return None

    def _write(self, kept: _File | None, name: str, part: _Part, took_s: float) -> None:
        others = {} if kept is None else kept.parts
        current = {other: found for other, found in others.items() if other.split("/")[0] in self._variants}
        data = msgspec.msgpack.encode(_File(format=1, parts={**current, name: part}))
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"they take more than {MAX_BYTES} bytes")
            _replace(self.path, data)
        except (OSError, ValueError) as error:
            self._warn(
                f"frontiers of {name} took {took_s:.1f} s and cannot be kept in {self.path.name}: {_reason(error)}"
            )


def _opened(part: _Part, model: LatencyModel, keys: tuple[int, ...]) -> dict[int, FrontierTable] | None:
    """Return the kept tables if they are the model's, whole, and all that is asked for; else None."""
    if part.digest != _digest(model, part.tables) or any(key not in part.tables for key in keys):
        return None
    try:
        return {key: _table(part.tables[key], model, key) for key in keys}
    except ValueError:
        return None


def _table(kept: _KeptTable, model: LatencyModel, key: int) -> FrontierTable:
    own = restrict(model, [s for s in range(len(model.sets)) if key >> s & 1])
    points = np.frombuffer(kept.points, _POINTS).astype(np.int64)
    counts = np.frombuffer(kept.counts, _COUNTS).astype(np.int16).reshape(-1, len(own.sets))
    return FrontierTable(own, counts, np.concatenate(([0], np.cumsum(points))))


def _part_of(model: LatencyModel, tables: Tables) -> _Part:
    kept = {
        key: _KeptTable(
            points=np.diff(table.starts).astype(_POINTS).tobytes(),
            counts=table.counts.astype(_COUNTS).tobytes(),
        )
        for key, table in tables.items()
    }
    return _Part(digest=_digest(model, kept), tables=kept)


def _digest(model: LatencyModel, tables: dict[int, _KeptTable]) -> str:
    digest = hashlib.sha256(msgspec.msgpack.encode(model))
    for key, table in sorted(tables.items()):
        digest.update(b"%d:%d:%d;" % (key, len(table.points), len(table.counts)))
        digest.update(table.points)
        digest.update(table.counts)
    return digest.hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, and never half of either."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
