"""Variants to work frontiers out for: the example's own, and made-up ones with fewer and more modality sets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from poise.planning.latency_model import LatencyModel, StageGroup, restrict

from .bench import Bench

MAX_BATCH = 32
LARGEST_OF_GRAPHS = 7
"""With one graph for each of 15 sets, plans are too many to list in a benchmark."""


def models(bench: Bench) -> Iterator[tuple[str, LatencyModel]]:
    """Yield (layout, model): all sets of two, three and four modalities, as encoders and as graphs."""
    own = bench.plans.model
    two = [at for at, mask in enumerate(own.sets) if mask < 4]
    yield "encoders (the example, two modalities)", restrict(own, two)
    yield "encoders (the example)", own
    yield "encoders (made up)", made_up(4)
    yield "graphs (made up)", made_up(2, graphs=True)
    yield "graphs (made up)", made_up(3, graphs=True)


def made_up(modalities: int, *, graphs: bool = False) -> LatencyModel:
    """Return a variant with uneven curves: a stage for each modality, or for each set, and a head for all."""
    rng = np.random.default_rng(modalities)
    sets = tuple(range(1, 1 << modalities))
    each_s = 1e-3 * 3.0 ** np.arange(modalities)
    wrong = rng.uniform(0.2, 0.5, modalities)
    members = [[m for m in range(modalities) if mask >> m & 1] for mask in sets]
    accuracy = tuple(float(1 - wrong[chosen].prod()) for chosen in members)
    if graphs:
        stages = [
            (tuple(other == mask for other in sets), float(each_s[chosen].sum()))
            for mask, chosen in zip(sets, members, strict=True)
        ]
    else:
        stages = [(tuple(bool(mask >> m & 1) for mask in sets), float(each_s[m])) for m in range(modalities)]
    stages.append((tuple(True for _ in sets), 1e-4))
    groups = tuple(StageGroup(uses=uses, table=_curve(seconds, rng)) for uses, seconds in stages)
    return LatencyModel(sets=sets, accuracy=accuracy, groups=groups, max_batch=MAX_BATCH)


def _curve(seconds: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Return ``L[0..MAX_BATCH]``: rising, with steps of uneven height."""
    steps = seconds * (0.4 + 0.6 * rng.uniform(0.5, 1.5, MAX_BATCH))
    steps[0] = seconds
    return (0.0, *np.cumsum(steps).tolist())
