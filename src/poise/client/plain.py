"""What callers give, as values that JSON has: numpy's numbers are taken, and what would be lost is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from poise.errors import ConfigError, MalformedRequestError

MAX_DEPTH = 16
"""A server refuses what is nested deeper."""
MAX_TIMEOUT_S = 1e9
"""Longer than anyone waits; a socket takes little more."""


def plain(what: str, value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it; arrays become lists. ``what`` names it where it will not do.

    Raises:
        MalformedRequestError: a value that JSON has not: another type, a number that is not finite, or too deep.
    """
    if depth > MAX_DEPTH:
        raise MalformedRequestError(f"{what}: got values nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, np.floating):
        value = float(value)
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(what, value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise MalformedRequestError(
                f"{what}: got more than 64 bits have, expected a whole number within them"
            )
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedRequestError(f"{what}: got {value}, expected a finite number")
        return float(value)
    if isinstance(value, Mapping):
        return {text(f"{what}: a name", name): plain(what, each, depth + 1) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(what, each, depth + 1) for each in value]
    raise MalformedRequestError(
        f"{what}: got a value of type {type(value).__name__}, expected what JSON has: "
        "a truth value, a number, text, a list, or a mapping of these"
    )


def text(what: str, value: object) -> str:
    """Return a text.

    Raises:
        MalformedRequestError: no text, or one that UTF-8 does not have.
    """
    if not isinstance(value, str):
        raise MalformedRequestError(f"{what}: got {_shown(value)}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedRequestError(f"{what}: got {value!r}, expected text that UTF-8 has") from None
    return str(value)


def number(what: str, value: object) -> float:
    """Return a finite number.

    Raises:
        MalformedRequestError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise MalformedRequestError(f"{what}: got {_shown(value)}, expected a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise MalformedRequestError(f"{what}: got {found}, expected a finite number")
    return found


def whole(what: str, value: object) -> int:
    """Return a whole number of 64 bits.

    Raises:
        MalformedRequestError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise MalformedRequestError(f"{what}: got {_shown(value)}, expected a whole number")
    return int(plain(what, int(value)))


def listed(what: str, values: object) -> list[Any]:
    """Return the elements of anything that has several, a single text not counted.

    Raises:
        MalformedRequestError: no such thing.
    """
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise MalformedRequestError(f"{what}: got {_shown(values)}, expected a list")
    return [plain(what, each) for each in values]


def seconds(what: str, value: object) -> float:
    """Return how long to wait.

    Raises:
        ConfigError: no number of seconds above 0.
    """
    if isinstance(value, int | float | np.integer | np.floating) and 0 < value <= MAX_TIMEOUT_S:
        return float(value)
    raise ConfigError(f"got {what} {_shown(value)}", expected="a number of seconds above 0")


def _shown(value: object) -> str:
    """Return a value as an error shows it: itself where it is short, its type where not."""
    short = value is None or isinstance(value, float | np.number)
    short = short or (isinstance(value, int) and abs(value) < 2**64)
    short = short or (isinstance(value, str | bytes) and len(value) <= 60)
    return repr(value) if short else f"a value of type {type(value).__name__}"
