"""Two servers' answers held against each other, and the differences that are known, with the reason of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

Tree = Any


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
"""Stands for what one of the two did not say."""


@dataclass(frozen=True)
class Matcher:
    """A value that is known by its kind only."""

    words: str
    fits: Callable[[Tree], bool]

    def __repr__(self) -> str:
        return self.words


TEXT = Matcher("some text", lambda value: isinstance(value, str) and bool(value))


@dataclass(frozen=True, eq=False)
class Known:
    """A known difference: where it is (patterns of calls, a pattern of the path), both sides, and why.

    Every pattern of calls must be met at least once, so a difference that has gone away is noticed.
    """

    calls: tuple[str, ...]
    path: str
    triton: Tree
    poise: Tree
    why: str

    def covering(self, difference: Difference) -> list[str]:
        """Return the patterns of calls by which this is that difference, exactly; none where it is another."""
        if not (
            fnmatchcase(difference.path, self.path)
            and _is(self.triton, difference.triton)
            and _is(self.poise, difference.poise)
        ):
            return []
        return [pattern for pattern in self.calls if fnmatchcase(difference.call, pattern)]


@dataclass(frozen=True)
class Difference:
    """Where two answers differ."""

    call: str
    path: str
    triton: Tree
    poise: Tree

    def __str__(self) -> str:
        return f"{self.call} · {self.path}: triton {self.triton!r}, poise {self.poise!r}"


def _is(expected: Tree, got: Tree) -> bool:
    if isinstance(expected, Matcher):
        return expected.fits(got)
    return type(expected) is type(got) and bool(expected == got)


def differences(call: str, triton: Tree, poise: Tree) -> Iterator[Difference]:
    """Yield where two answers differ; where only one was a refusal that alone, since nothing else can be alike."""
    verdicts = verdict(triton), verdict(poise)
    if verdicts[0] != verdicts[1]:
        yield Difference(call, "verdict", *verdicts)
    if (verdicts[0] in ANSWERED) == (verdicts[1] in ANSWERED):
        for difference in tree_differences(call, triton, poise):
            if difference.path.split(".")[0] not in VERDICTS:
                yield difference


ANSWERED = ("200", "OK", "answered")
VERDICTS = ("status", "code", "refused")


def verdict(tree: Tree) -> str:
    """Return how an answer ended, in its protocol's word."""
    if isinstance(tree, dict):
        for name in VERDICTS:
            if name in tree:
                return str(tree[name])
    return "answered"


def tree_differences(call: str, triton: Tree, poise: Tree, path: str = "") -> Iterator[Difference]:
    """Yield where two trees differ: dicts by key, lists of equal length by position, the rest as a whole."""
    if isinstance(triton, dict) and isinstance(poise, dict):
        for key in sorted(triton.keys() | poise.keys()):
            at = f"{path}.{key}" if path else key
            yield from tree_differences(call, triton.get(key, ABSENT), poise.get(key, ABSENT), at)
    elif isinstance(triton, list) and isinstance(poise, list) and len(triton) == len(poise):
        for i, (one, other) in enumerate(zip(triton, poise, strict=True)):
            yield from tree_differences(call, one, other, f"{path}.{i}")
    elif not (_is(triton, poise) or _both_nan(triton, poise)):
        yield Difference(call, path, triton, poise)


def _both_nan(one: Tree, other: Tree) -> bool:
    return all(isinstance(value, float) and math.isnan(value) for value in (one, other))


def unexplained(
    triton: Mapping[str, Tree], poise: Mapping[str, Tree], known: Sequence[Known]
) -> tuple[list[Difference], list[str]]:
    """Return the differences that nothing explains, and the explanations that explain nothing."""
    assert triton.keys() == poise.keys()
    unmet = {(entry, pattern) for entry in known for pattern in entry.calls}
    unknown = []
    for call in triton:
        for difference in differences(call, triton[call], poise[call]):
            covering = {(entry, pattern) for entry in known for pattern in entry.covering(difference)}
            if not covering:
                unknown.append(difference)
            unmet -= covering
    return unknown, sorted(f"{pattern} · {entry.path}: {entry.why}" for entry, pattern in unmet)
