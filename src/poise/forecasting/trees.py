"""Decision trees as plain arrays: checked when read, walked in numpy.

LightGBM trains them; its own reader trusts its input, and a spoilt model file can end the process. So models are kept
as these arrays, and forecasting needs no LightGBM.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

MAX_NODES = 4_000_000


class Trees(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum of trees, one node after another, each before its children; a node's left child is the next node.

    Shapes: ``roots`` rise, the first is 0; all others have one value for each node. ``feature`` is the column that a
    node looks at, -1 at a leaf. ``value``: a row whose feature is at most that goes left; of a leaf, what it adds.
    ``right``: how many nodes on the right child is, 0 at a leaf. ``nan_left``: 1 where NaN goes left.
    """

    roots: tuple[int, ...]
    feature: tuple[int, ...]
    value: tuple[float, ...]
    right: tuple[int, ...]
    nan_left: tuple[int, ...]


def check_trees(trees: Trees, columns: int) -> None:
    """Hold trees against what they promise: every walk ends at a leaf of its own tree.

    Raises:
        ValueError: they do not keep it.
    """
    n = len(trees.feature)
    if not (len(trees.value) == len(trees.right) == len(trees.nan_left) == n) or not 1 <= n <= MAX_NODES:
        raise ValueError(
            f"the arrays of trees have {n} features, {len(trees.value)} values, {len(trees.right)} right and "
            f"{len(trees.nan_left)} nan_left, expected as many of each, 1 to {MAX_NODES}"
        )
    roots = np.array(trees.roots, np.int64)
    if len(roots) == 0 or roots[0] != 0 or (np.diff(roots) <= 0).any() or roots[-1] >= n:
        raise ValueError(f"roots of trees are {roots[:5].tolist()}…, expected rising from 0 and below {n}")
    feature, right = np.array(trees.feature, np.int64), np.array(trees.right, np.int64)
    ends = np.append(roots[1:], n)[np.searchsorted(roots, np.arange(n), side="right") - 1]
    inner = feature >= 0
    to = np.arange(n) + right
    wrong = np.where(inner, (right < 2) | (to >= ends) | (feature >= columns), (feature != -1) | (right != 0))
    if wrong.any():
        raise ValueError(
            f"node {int(wrong.argmax())} of the trees has feature {feature[wrong.argmax()]} and right "
            f"{right[wrong.argmax()]}, expected children within its own tree and a feature below {columns}"
        )
    if not np.isfinite(trees.value).all():
        raise ValueError("a value of the trees is not finite, expected numbers")


class Walker:
    """Adds up several sums of trees at once, one for each level. It takes no check: see ``check_trees``."""

    def __init__(self, of_levels: tuple[Trees, ...]) -> None:
        sizes = [len(trees.feature) for trees in of_levels]
        starts = np.cumsum([0, *sizes[:-1]])
        self._feature = np.concatenate([np.array(trees.feature, np.intp) for trees in of_levels])
        self._value = np.concatenate([np.array(trees.value, np.float64) for trees in of_levels])
        self._nan_left = np.concatenate([np.array(trees.nan_left, np.bool_) for trees in of_levels])
        at = np.arange(len(self._feature))
        leaf = self._feature < 0
        self._left = np.where(leaf, at, at + 1)
        self._right = at + np.concatenate([np.array(trees.right, np.intp) for trees in of_levels])
        self._bound = np.where(leaf, np.inf, self._value)
        self._feature[leaf] = 0  # a walk that has ended stays where it is
        self._roots = np.concatenate(
            [np.array(trees.roots, np.intp) + start for trees, start in zip(of_levels, starts, strict=True)]
        )
        self._firsts = np.cumsum([0, *(len(trees.roots) for trees in of_levels[:-1])])
        self._depth = self._deepest(leaf)

    def _deepest(self, leaf: NDArray[np.bool_]) -> int:
        depth, nodes = 0, self._roots
        while True:
            nodes = nodes[~leaf[nodes]]
            if len(nodes) == 0:
                return depth
            nodes = np.unique(np.concatenate([self._left[nodes], self._right[nodes]]))
            depth += 1

    def sums(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each level's trees add up to. Shapes: [columns] to [levels]."""
        node = self._roots
        for _ in range(self._depth):
            seen = row[self._feature[node]]
            left = (seen <= self._bound[node]) | (np.isnan(seen) & self._nan_left[node])
            node = np.where(left, self._left[node], self._right[node])
        return np.add.reduceat(self._value[node], self._firsts)
