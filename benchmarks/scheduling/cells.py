"""Cells of tables, worked out by processes beside this one, and kept in a file as they are finished.

A run that was cut off goes on where it stopped, as long as the code that decides and the profiles are the same. The
file holds JSON, one cell a line, the first line says of what.
"""

from __future__ import annotations

import hashlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

import poise

from .tasks import Answer, AnyTask
from .worker import Examples, Reply

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
DECIDING = ("domain", "planning", "scheduling", "simulation", "workload")
"""The packages of poise that a simulated cell depends on."""


class Cell(msgspec.Struct, frozen=True):
    """A finished cell: its key, and its value."""

    key: str
    value: msgspec.Raw


class Cells:
    """The finished cells of one benchmark.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(
        self, path: Path, examples: Mapping[str, Path], processes: int, say: Callable[[str], None]
    ) -> None:
        self._path = path
        self._say = say
        self._processes = processes
        self._examples = Examples({name: str(folder) for name, folder in examples.items()})
        self._known: dict[str, msgspec.Raw] = {}
        self._lock = threading.Lock()
        self._open(_fingerprint(examples))

    def run(self, tasks: Iterable[AnyTask]) -> dict[AnyTask, Answer]:
        """Return the answers of tasks; those not known yet are simulated.

        Raises:
            RuntimeError: a task failed; with what was said.
        """
        wanted = list(dict.fromkeys(tasks))
        missing = [task for task in wanted if _key(task) not in self._known]
        if missing:
            self._say(
                f"{self._path.stem}: {len(missing)} cells to simulate, {len(wanted) - len(missing)} known"
            )
            self._simulate(missing)
        return {task: msgspec.json.decode(self._known[_key(task)], type=Answer) for task in wanted}

    def once(self, key: str, type_: type[T], make: Callable[[], T]) -> T:
        """Return a value that was kept, or make it and keep it: for what is not simulated."""
        if key not in self._known:
            self._keep(key, msgspec.json.encode(make()))
        return msgspec.json.decode(self._known[key], type=type_)

    def _open(self, fingerprint: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.is_file():
            lines = self._path.read_bytes().split(b"\n")
            if lines[0] == fingerprint.encode():
                for line in lines[1:-1]:  # the last is empty, or was cut off
                    cell = msgspec.json.decode(line, type=Cell)
                    self._known[cell.key] = cell.value
                if lines[-1]:
                    self._path.write_bytes(b"\n".join([*lines[:-1], b""]))
                return
        self._path.write_text(fingerprint + "\n")

    def _keep(self, key: str, value: bytes) -> None:
        with self._lock:
            self._known[key] = msgspec.Raw(value)
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(Cell(key, msgspec.Raw(value))) + b"\n")

    def _simulate(self, tasks: Sequence[AnyTask]) -> None:
        left: queue.SimpleQueue[AnyTask] = queue.SimpleQueue()
        for task in tasks:
            left.put(task)
        failed: list[str] = []
        done = [0]

        def serve() -> None:
            words = [sys.executable, "-m", "scheduling.worker", msgspec.json.encode(self._examples).decode()]
            with subprocess.Popen(
                words, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                assert process.stdin is not None and process.stdout is not None
                while not failed:
                    try:
                        task = left.get_nowait()
                    except queue.Empty:
                        break
                    process.stdin.write(msgspec.json.encode(task) + b"\n")
                    process.stdin.flush()
                    line = process.stdout.readline()
                    reply = (
                        msgspec.json.decode(line, type=Reply) if line else Reply(error="the process ended")
                    )
                    if reply.answer is None:
                        failed.append(f"{_key(task)}: {reply.error}")
                        break
                    self._keep(_key(task), msgspec.json.encode(reply.answer))
                    done[0] += 1
                    self._say(f"{self._path.stem} {done[0]}/{len(tasks)}: {_brief(task, reply.answer)}")

        threads = [threading.Thread(target=serve) for _ in range(min(self._processes, len(tasks)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise RuntimeError(failed[0])


def _key(task: AnyTask) -> str:
    return msgspec.json.encode(task).decode()


def _brief(task: AnyTask, answer: Answer) -> str:
    found = [f"{load:.1f}" for load in answer.loads_rps] or [f"{r.whole.attainment:.1%}" for r in answer.runs]
    return f"{task.setting} {task.policy} {task.floor_share:g} {task.scope}: {' '.join(found)}, {answer.took_s:.1f} s"


def _fingerprint(examples: Mapping[str, Path]) -> str:
    """Return a hash of the code that decides, and of the examples' services and profiles."""
    package = Path(poise.__file__).parent
    files = [path for name in DECIDING for path in sorted((package / name).rglob("*.py"))]
    files += [HERE / "settings.py", HERE / "tasks.py", HERE.parent / "suite" / "load_search.py"]
    for folder in examples.values():
        files += [folder / "service.yaml", folder / "profile.json"]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
