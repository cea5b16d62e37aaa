"""What an interrupted profiling run has measured, kept in a file beside the profile until the run is complete.

The file says what it belongs to: a digest of the models, the validation data, the metric, the machine and of what is to
be timed. A run of anything else starts over. What the operator's own code reads besides (variants of runtime
``python``) is not in the digest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from poise.domain.profile import LatencyPoint, MachineFingerprint, ModeProfile
from poise.files import ServiceFolder
from poise.files.metric import metric_file
from poise.profiling.footprint import Footprint
from poise.profiling.independence import declared_file
from poise.profiling.latency import Setting, StagePoint
from poise.profiling.timing import Timings
from poise.profiling.writing import replace_file

SUFFIX = ".partial"
SAVE_EVERY_S = 1.0


class SettingRun(msgspec.Struct):
    """The stages timed at one setting: ``points`` when that is done, the runs so far until then."""

    setting: Setting
    timings: Timings = msgspec.field(default_factory=Timings)
    points: list[LatencyPoint] = []


class Partial(msgspec.Struct):
    """What is measured so far, and the seconds that it took."""

    key: str = ""
    spent_s: float = 0.0
    modes: dict[str, tuple[ModeProfile, ...]] = {}
    footprints: dict[str, Footprint] = {}
    way: dict[str, list[LatencyPoint]] = {}
    latency: list[SettingRun] = []

    def at(self, setting: Setting) -> SettingRun:
        """Return the run at a setting; a new one where there was none."""
        for run in self.latency:
            if run.setting == setting:
                return run
        self.latency.append(SettingRun(setting))
        return self.latency[-1]


class PartialFile:
    """Keeps a ``Partial`` in a file; ``tell`` gets what people should know, a line each."""

    def __init__(self, path: Path | None, tell: Callable[[str], None] = lambda text: None) -> None:
        self.kept = Partial()
        self._path = path
        self._tell = tell
        self._saved_at_s = 0.0

    def begin(self, key: str) -> Partial:
        """Read what there is of this key and return it; nothing, where it is of another key or cannot be read."""
        self.kept = self._read() or Partial()
        if self.kept.key == key:
            self._tell(f"going on with an interrupted run, {self.kept.spent_s:.0f} s of which are done")
        else:
            if self.kept.key:
                self._tell(
                    "the interrupted run was of other files, another machine or other settings: starting over"
                )
            self.kept = Partial(key)
        return self.kept

    def save(self, spent_s: float, *, at_most_every_s: float = 0.0) -> None:
        """Write it, unless that was done just before; where that fails, say so and go on without."""
        now_s = time.monotonic()
        if self._path is None or now_s - self._saved_at_s < at_most_every_s:
            return
        self.kept.spent_s = spent_s
        try:
            replace_file(self._path, msgspec.msgpack.encode(self.kept), durable=False)
        except OSError as error:
            self._tell(
                f"{self._path.name} cannot be written ({error.strerror}): an interrupted run would start over"
            )
            self._path = None
        self._saved_at_s = time.monotonic()

    def remove(self) -> None:
        """Delete the file: the run is complete, or a fresh one is wanted."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self) -> Partial | None:
        if self._path is None or not self._path.is_file():
            return None
        try:
            return msgspec.msgpack.decode(self._path.read_bytes(), type=Partial)
        except (OSError, msgspec.DecodeError) as error:
            self._tell(f"{self._path.name} cannot be used ({error}): starting over")
            return None


def run_key(
    folder: ServiceFolder,
    hashes: Mapping[str, str],
    machine: MachineFingerprint,
    points: Sequence[StagePoint],
    threads: int,
) -> str:
    """Return a digest of all that a measurement depends on; ``threads`` is a worker's for load time and memory."""
    service = folder.service
    beside = [
        path for path in (metric_file(folder), declared_file(folder)) if path is not None and path.is_file()
    ]
    what = (
        (service.service, service.metric, sorted(hashes.items()), machine, list(points), threads),
        [path.read_bytes() for path in beside],
    )
    return hashlib.sha256(msgspec.msgpack.encode(what)).hexdigest()
