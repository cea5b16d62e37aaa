"""The service of variable lengths, and what numpy says it answers; see tests/data/lengths/README.md."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise.domain.service import length_key
from poise.files import ServiceFolder, open_service

LENGTHS = Path(__file__).resolve().parent.parent / "data" / "lengths"
BUCKETS = (4, 8, 16)
SPEECH, WORD = 1, 2

Arrays = dict[str, NDArray[Any]]


def copy_lengths(target: Path, file: str = "service.yaml") -> ServiceFolder:
    """A copy that a test may change, served as one of its files says."""
    shutil.copytree(LENGTHS, target, ignore=shutil.ignore_patterns("__pycache__"))
    if file != "service.yaml":
        (target / file).replace(target / "service.yaml")
    return open_service(target)


def arena_of(lengths: list[int], seed: int = 5) -> Arrays:
    """Items of these lengths as an arena holds them: what lies beyond an item's length is zeros."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(len(lengths), BUCKETS[-1], 2)).astype(np.float32)
    for row, length in enumerate(lengths):
        frames[row, length:] = 0
    return {
        "frames": frames,
        "letters": rng.normal(size=(len(lengths), 3)).astype(np.float32),
        length_key("frames"): np.array(lengths, np.uint32),
    }


with np.load(
    LENGTHS / "weights.npz"
) as archive:  # once: CPython 3.11 may fail at headers read by several threads
    WEIGHTS: Arrays = {name: archive[name] for name in archive.files}


def logits_of(arena: Arrays, rows: NDArray[np.intp], masks: NDArray[Any]) -> NDArray[np.float32]:
    """What every variant answers, whatever the bucket."""
    w = WEIGHTS
    said = (arena["frames"][rows] @ w["speech"]).sum(axis=1)
    written = arena["letters"][rows] @ w["word"]
    total = np.where((masks & SPEECH)[:, None] > 0, said, 0) + np.where(
        (masks & WORD)[:, None] > 0, written, 0
    )
    return np.asarray(total, np.float32)


def bucket_of(lengths: list[int]) -> int:
    """The shortest bucket that holds all of these lengths."""
    return next(bucket for bucket in BUCKETS if bucket >= max(lengths))
