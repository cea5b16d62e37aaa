"""The file of a benchmark's result, with the machine it was measured on."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path
from typing import TypeVar

import msgspec

import poise
from poise.runtimes.machine import fingerprint, onnx_runtime_name

T = TypeVar("T")


class Machine(msgspec.Struct, frozen=True):
    """Where and with what a benchmark ran."""

    cpu: str
    cores: int
    python: str
    onnxruntime: str
    poise: str

    def text(self) -> str:
        """Return it in a line."""
        return f"{self.cpu}, {self.cores} cores, Python {self.python}, {self.onnxruntime}, poise {self.poise}"


class ResultFile(msgspec.Struct, frozen=True, kw_only=True):
    """``results/<name>.json``. Units: ``took_s`` in seconds, of the benchmark as a whole."""

    format: int = 1
    benchmark: str
    date: str
    quick: bool
    repeats: int
    took_s: float
    machine: Machine
    result: msgspec.Raw

    def decoded(self, type_: type[T]) -> T:
        """Return the result as a value."""
        return msgspec.json.decode(self.result, type=type_)


def this_machine() -> Machine:
    """Return the machine that this runs on."""
    found = fingerprint(onnx_runtime_name())
    python = f"{platform.python_version()} ({platform.python_compiler()})"  # builds of one version differ by a quarter
    return Machine(found.cpu, found.cores, python, found.runtime, poise.__version__)


def write_result(
    folder: Path, name: str, result: object, *, quick: bool, repeats: int, took_s: float
) -> Path:
    """Write a result; return its path."""
    written = ResultFile(
        benchmark=name,
        date=date.today().isoformat(),
        quick=quick,
        repeats=repeats,
        took_s=round(took_s, 1),
        machine=this_machine(),
        result=msgspec.Raw(msgspec.json.encode(result)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
    return path


def read_result(path: Path) -> ResultFile:
    """Read a result file."""
    return msgspec.json.decode(path.read_bytes(), type=ResultFile)
