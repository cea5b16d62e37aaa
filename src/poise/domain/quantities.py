"""Units at the edge: sizes such as ``2GiB``, and checks that a number is what its field says."""

from __future__ import annotations

import math
import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)?\Z")
_FACTOR = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def parse_bytes(text: str | int, field: str) -> int:
    """Return a size in bytes from ``2GiB``, ``500 MB`` or a whole number of bytes.

    Raises:
        ValueError: not a size, or not positive.
    """
    match = _SIZE.match(str(text).strip())
    size = int(float(match[1]) * _FACTOR[match[2] or "B"]) if match else 0
    if size <= 0:
        raise ValueError(f"got {field} {text!r}, expected a positive size such as 500MB or 2GiB")
    return size


def require_positive(value: float, field: str) -> None:
    """Raise ValueError unless a number is finite and above zero."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"got {field} {value!r}, expected a finite number above 0")


def require_not_negative(value: float, field: str) -> None:
    """Raise ValueError unless a number is finite and not below zero."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"got {field} {value!r}, expected a finite number of at least 0")


def require_fraction(value: float, field: str) -> None:
    """Raise ValueError unless a number lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"got {field} {value!r}, expected a number from 0 to 1")


def require_at_least_one(value: int, field: str) -> None:
    """Raise ValueError unless a whole number is at least 1."""
    if value < 1:
        raise ValueError(f"got {field} {value!r}, expected a whole number of at least 1")


def require_within(value: float, least: float, most: float, field: str) -> None:
    """Raise ValueError unless a number lies in a closed range."""
    if not least <= value <= most:
        raise ValueError(f"got {field} {value!r}, expected a number from {least:g} to {most:g}")
