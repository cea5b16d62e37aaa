"""What whole numbers of workers come to: which fit, which are of use, which have to be loaded first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

import numpy as np
from numpy.typing import NDArray

from poise.domain.allocation import Workers
from poise.planning.joint_model import Counts, Loads
from poise.planning.joint_pools import Pools
from poise.planning.joint_problem import JointProblem, Kind, Residence, residence_of

COUNT_TOLERANCE = 1e-9


def counts_of(problem: JointProblem, workers: tuple[Workers, ...]) -> Counts:
    """Return how many of some workers are of which kind, [cell][kind]; those of no kind are left out."""
    known = {(*kind.residence, kind.batch_cap_s): at for at, kind in enumerate(problem.kinds)}
    found = [[0] * len(problem.kinds) for _ in range(problem.cells)]
    for each in workers:
        at = known.get((*residence_of(each), each.batch_cap_s))
        if at is not None and each.cell < problem.cells:
            found[each.cell][at] += each.count
    return tuple(tuple(own) for own in found)


def residents(problem: JointProblem) -> NDArray[np.int64]:
    """Return how many workers have the resident set of each kind loaded, [kind, cell]."""
    resident = problem.resident()
    return np.array(
        [
            [resident.get((kind.residence, cell), 0) for cell in range(problem.cells)]
            for kind in problem.kinds
        ],
        dtype=np.int64,
    ).reshape(len(problem.kinds), problem.cells)


def useful_counts(problem: JointProblem, pools: Pools, loads: Loads) -> NDArray[np.int64]:
    """Return, of each kind, how many workers of it fit into a cell and could be of any use.

    No more than carry all the load by their slowest choices, in a pool whose best choices no larger one exceeds:
    whatever more of them answer, these do as accurately.
    """
    found = np.zeros(len(problem.kinds), dtype=np.int64)
    ahead = pools.best_accuracy.copy()
    for at in range(len(pools) - 2, -1, -1):
        if pools.kind[at] == pools.kind[at + 1]:
            np.maximum(ahead[at], ahead[at + 1], out=ahead[at])
    final: NDArray[np.bool_] = np.all(pools.best_accuracy >= ahead, axis=1)
    need = pools.slowest_s @ (loads.load * (loads.value > 0))
    enough = np.maximum(pools.least, 1 if loads.idle else np.ceil(need - COUNT_TOLERANCE).astype(np.int64))
    for at in range(len(pools) - 1, -1, -1):
        if final[at] and enough[at] <= pools.most[at]:
            found[pools.kind[at]] = enough[at]
    fit = [problem.most_workers(kind) for kind in problem.kinds]
    return np.minimum(found, np.array(fit, dtype=np.int64))


def memory_binds(problem: JointProblem) -> bool:
    """Whether workers that fit the cores and accelerators might not fit the memory."""
    if problem.memory_bytes == inf:
        return False
    most: dict[str, float] = {}
    for kind in problem.kinds:
        if kind.device == "cpu":
            each = kind.memory_bytes / kind.cores * problem.cores if kind.cores else inf
        else:
            each = kind.memory_bytes * problem.accelerators.get(kind.device, 0)
        most[kind.device] = max(most.get(kind.device, 0.0), each)
    return sum(most.values()) > problem.memory_bytes


def loaded_s(problem: JointProblem, counts: tuple[tuple[int, ...], ...]) -> float:
    """Return the longest load time among kinds that get more workers than have their resident set loaded."""
    resident = problem.resident()
    wanted: dict[tuple[Residence, int], int] = {}
    time_s: Mapping[Residence, float] = {kind.residence: kind.load_s for kind in problem.kinds}
    for cell, of_cell in enumerate(counts):
        for kind, count in zip(problem.kinds, of_cell, strict=True):
            wanted[kind.residence, cell] = wanted.get((kind.residence, cell), 0) + count
    return max(
        (time_s[home] for (home, cell), n in wanted.items() if n > resident.get((home, cell), 0)),
        default=0.0,
    )


def fitting(
    problem: JointProblem, pools: Pools, counts: Counts, flows: Iterable[tuple[int, int, float]]
) -> Counts | None:
    """Return counts that fit the memory: where some do not, their workers hold less, but all that they use.

    ``flows``: cell, choice, share. None where that is not enough.
    """
    used: dict[tuple[int, int], set[str]] = {}
    for cell, choice, _ in flows:
        kind = int(pools.kind[pools.pool[choice]])
        variant = problem.kinds[kind].options[int(pools.option[choice])].variant
        used.setdefault((cell, kind), set()).add(variant)
    found = []
    for cell, own in enumerate(counts):
        fitted = _fitting_cell(problem, own, {u: used.get((cell, u), set()) for u in range(len(own))})
        if fitted is None:
            return None
        found.append(fitted)
    return tuple(found)


def _fitting_cell(
    problem: JointProblem, own: tuple[int, ...], used: Mapping[int, set[str]]
) -> tuple[int, ...] | None:
    """Exchange the workers that could save most, until all fit; for those that hold as much as then fits."""
    kinds = problem.kinds
    left = list(own)
    over = sum(kind.memory_bytes * n for kind, n in zip(kinds, own, strict=True)) - problem.memory_bytes
    ways: list[tuple[int, list[tuple[int, int]]]] = []
    for u, count in enumerate(own):
        savings = [
            ((kinds[u].memory_bytes - kind.memory_bytes) * count, v)
            for v, kind in enumerate(kinds)
            if count and _stands_in(kind, kinds[u], used[u])
        ]
        if savings:
            ways.append((u, sorted(savings)))
    for u, savings in sorted(ways, key=lambda way: -way[1][-1][0]):
        if over > 0:
            saved, v = next((each for each in savings if each[0] >= over), savings[-1])
            left[v] += left[u]
            left[u] = 0
            over -= saved
    return None if over > 0 else tuple(left)


def _stands_in(kind: Kind, other: Kind, used: set[str]) -> bool:
    """Whether a kind has all that is used of another one, at the same place, and holds no more."""
    return (
        (kind.service, kind.threads, kind.device, kind.batch_cap_s, kind.group)
        == (other.service, other.threads, other.device, other.batch_cap_s, other.group)
        and used <= set(kind.variants) <= set(other.variants)
        and kind.memory_bytes < other.memory_bytes
    )
