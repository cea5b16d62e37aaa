"""Carries out tasks: one JSON task a line in, one JSON reply a line out. Started by ``cells``."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

import msgspec

from scheduling.settings import Setting, blocking, example, tvlt
from scheduling.tasks import Answer, AnyTask, carry_out


class Reply(msgspec.Struct, frozen=True):
    """An answer, or why there is none."""

    answer: Answer | None = None
    error: str = ""


class Examples(msgspec.Struct, frozen=True):
    """Where the settings with files are: name -> folder."""

    folders: dict[str, str]

    def setting(self, name: str) -> Setting:
        """Return a setting by its name.

        Raises:
            ValueError: there is none.
        """
        if name in self.folders:
            return example(name, Path(self.folders[name]))
        kind, _, shape = name.removesuffix("-slo20").partition("-")
        if kind == "tvlt" and shape.isdigit():
            return tvlt(int(shape), as_artifact=not name.endswith("-slo20"))
        if name == "blocking":
            return blocking()
        raise ValueError(f"there is no setting {name!r}")


def main() -> None:
    """Answer until stdin ends."""
    examples = msgspec.json.decode(sys.argv[1], type=Examples)
    settings: dict[str, Setting] = {}
    for line in sys.stdin:
        task: AnyTask = msgspec.json.decode(line, type=AnyTask)
        start = time.perf_counter()
        try:
            if task.setting not in settings:
                settings[task.setting] = examples.setting(task.setting)
            answer = carry_out(task, settings[task.setting])
            reply = Reply(msgspec.structs.replace(answer, took_s=round(time.perf_counter() - start, 2)))
        except Exception:
            reply = Reply(error=traceback.format_exc(limit=8))
        sys.stdout.write(msgspec.json.encode(reply).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
