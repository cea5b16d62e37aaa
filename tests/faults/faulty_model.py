"""A model that does whatever its input tells it to; the faulty service runs a copy of this file."""

import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]

WORK_S = 0.002
"""How long a batch that is well takes."""
ROOM_BYTES = 512 * 2**20
"""So much more than it holds may a worker's address space grow to, before the kernel says no."""


def load(folder: Path, threads: int, device: str) -> "Model":
    return Model()


class Model:
    """Doubles its input."""

    def __init__(self) -> None:
        self.stages = {"x": self.run}

    def run(self, given: Arrays) -> Arrays:
        values = given["x"]
        for code in values[:, 0]:
            fault = FAULTS.get(int(code))
            if fault is not None:
                return fault(values)
        time.sleep(WORK_S)
        return {"y": values * 2}


def raises(values: NDArray[np.float32]) -> Arrays:
    raise ValueError("as it was told")


def is_not_a_number(values: NDArray[np.float32]) -> Arrays:
    return {"y": np.full_like(values, np.nan)}


def has_a_wrong_shape(values: NDArray[np.float32]) -> Arrays:
    return {"y": np.zeros((len(values), 3), np.float32)}


def allocates(values: NDArray[np.float32]) -> Arrays:
    """Allocate until there is no more; let the next one live."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    _limit_memory()
    held = []
    try:
        while True:
            held.append(np.ones(2**22))
    finally:
        held.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


def allocates_until_killed(values: NDArray[np.float32]) -> Arrays:
    """Allocate until the kernel's patience ends: what its killer does then is done here."""
    try:
        return allocates(values)
    except MemoryError:
        return kills_itself(values)


def sleeps_for_ever(values: NDArray[np.float32]) -> Arrays:
    while True:
        time.sleep(3600)


def kills_itself(values: NDArray[np.float32]) -> Arrays:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        pages = int(file.read().split()[0])
    held = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


FAULTS: Mapping[int, Callable[[NDArray[np.float32]], Arrays]] = MappingProxyType(
    {
        1001: raises,
        1002: is_not_a_number,
        1003: has_a_wrong_shape,
        1004: allocates,
        1005: allocates_until_killed,
        1006: sleeps_for_ever,
        1007: kills_itself,
    }
)
"""The first number of an item -> what becomes of its batch."""
