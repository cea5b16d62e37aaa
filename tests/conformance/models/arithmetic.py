"""The arithmetic of the models that both servers are given: the same file runs in Triton and in poise.

It runs under numpy 1.26 (Triton's Python backend) and under the numpy of poise.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]

NUMBERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATS = ("fp16", "fp32", "fp64")


def sums(given: Arrays) -> dict[str, Any]:
    """Two inputs, two outputs; all exact in FP32 for small whole numbers."""
    return {"sum": given["left"] + given["right"], "difference": given["left"] - given["right"]}


def types(given: Arrays) -> dict[str, Any]:
    """One tensor of every datatype that numpy has; every bit of it matters."""
    flipped = {f"out_{name}": ~given[f"in_{name}"] for name in ("bool", *NUMBERS)}
    return flipped | {f"out_{name}": given[f"in_{name}"] * 2 for name in FLOATS}


def words(given: Arrays) -> dict[str, Any]:
    """Byte strings, each turned round."""
    turned = [text[::-1] for text in given["word"].ravel().tolist()]
    return {"drow": np.array(turned, dtype=object).reshape(given["word"].shape)}


def moody(given: Arrays) -> dict[str, Any]:
    """Takes as many seconds as the sum of its input says; below zero it fails."""
    mood = given["mood"]
    if (mood < 0).any():
        raise ValueError("not in the mood")
    time.sleep(float(mood.sum()))
    return {"rest": mood * 0}
