"""Random problems for E4: families of variants, each twice as dear as some other, in sensible units."""

from __future__ import annotations

from math import inf

import msgspec
import numpy as np

from poise.planning.joint_problem import JointProblem, Kind, LoadClass, Option

THREADS = (1, 2, 4)
BATCHES = (1, 2, 4, 8, 16, 32)
SLOS_S = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)
WORKERS = (1, 2, 4, 8, 16)
LOADS = (0.2, 0.5, 0.8, 1.2, 8.0)
"""Of about what all cores carry with the variant in the middle."""
GROWTH = 1.05
"""How much more load a warm start meets than what runs was made for."""


def random_problem(
    rng: np.random.Generator, cores: int, variants: int, classes: int, *, memory_of_need: float = 1.0
) -> JointProblem:
    """Return a problem with 3 thread counts and 6 batch sizes; its classes have floors and weights.

    ``memory_of_need``: the memory, as a share of what a worker of all variants on each core needs. Where all fit,
    there is the resident set of all variants; else also single ones, and halves and quarters by their order.
    """
    slos_s = np.sort(rng.choice(SLOS_S, size=classes, replace=False))
    accuracy = np.sort(0.6 + 0.3 * rng.random(variants))
    item_s = 0.002 * (1 + np.arange(variants)) ** 1.2 * np.exp(0.2 * rng.standard_normal(variants))
    load_s = 2 + 6 * rng.random(variants)
    memory = rng.integers(100, 1000, variants)
    sets = [tuple(range(variants))]
    if memory_of_need < 1:
        parts = max(2, variants // 4), max(2, variants // 2)
        sets += [tuple(range(a, a + n)) for n in parts for a in range(0, variants - n + 1, n)]
        sets += [(m,) for m in range(variants)]
    kinds = []
    for threads in THREADS:
        for cap_s in sorted({float(part * slo_s) for slo_s in slos_s for part in (0.5, 0.25)}):
            options = [_options(m, accuracy, item_s, threads, cap_s, slos_s) for m in range(variants)]
            for members in sets:
                able = tuple(option for m in members for option in options[m])
                if able:
                    kinds.append(
                        Kind(
                            variants=tuple(f"v{m}" for m in members),
                            options=able,
                            threads=threads,
                            batch_cap_s=cap_s,
                            cores=threads,
                            memory_bytes=int(memory[list(members)].sum()),
                            load_s=float(load_s[list(members)].max()),
                            breakpoints=WORKERS,
                        )
                    )
    carried = float(rng.choice(LOADS)) * cores / float(np.median(item_s))
    shares = rng.dirichlet(np.ones(classes))
    return JointProblem(
        classes=tuple(
            LoadClass(
                name=f"c{q}",
                load_rps=carried * float(shares[q]),
                weight=1.0 + q % 3,
                floor=float(np.quantile(accuracy, 0.3)),
            )
            for q in range(classes)
        ),
        kinds=tuple(kinds),
        cores=cores,
        memory_bytes=inf if memory_of_need >= 1 else memory_of_need * cores * float(memory.sum()),
    )


def _options(
    m: int,
    accuracy: np.ndarray,
    item_s: np.ndarray,
    threads: int,
    cap_s: float,
    slos_s: np.ndarray,
) -> list[Option]:
    """Return a variant's options: a batch costs half an item and half of each, and threads help but not in full.

    A rate is that of whole batches, less what waiting for the first of n workers leaves no time for.
    """
    found = []
    for batch in BATCHES:
        batch_s = float(item_s[m]) * (0.5 + 0.5 * batch) / threads**0.85
        rates = {}
        for q, slo_s in enumerate(slos_s.tolist()):
            room_s = [slo_s - batch_s - cap_s * (1 - 0.01 ** (1 / n)) for n in WORKERS]
            rps = [
                batch / batch_s * max(0.0, 1 - 0.5 * batch_s / (n * room)) if room > 0 else 0.0
                for n, room in zip(WORKERS, room_s, strict=True)
            ]
            rates[f"c{q}"] = tuple(np.maximum.accumulate(rps).tolist())
        if batch_s <= cap_s and any(any(each) for each in rates.values()):
            found.append(Option(variant=f"v{m}", accuracy=float(accuracy[m]), rates=rates))
    return found


def grown(problem: JointProblem, factor: float = GROWTH) -> JointProblem:
    """Return a problem with more load of every class."""
    more = tuple(msgspec.structs.replace(each, load_rps=each.load_rps * factor) for each in problem.classes)
    return msgspec.structs.replace(problem, classes=more)
