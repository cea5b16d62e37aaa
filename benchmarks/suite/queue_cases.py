"""Random queues to plan: frontiers of made-up variants, and points that come from nowhere; deadlines that bind."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from poise.planning.frontier import frontiers
from poise.planning.latency_model import LatencyModel, StageGroup
from poise.planning.queue_job import FreeWorker, JobPoints, QueuedJob, all_held, finishes_s

FLOORS = (0.0, 0.3, 0.6)
"""Floors, as shares of a frontier's range of accuracy."""
BATCHES = (1, 4, 16)
SPREAD_OF_LATENCY, SPREAD_OF_ACCURACY = 1.5, 0.05
"""A real spread: the best points take so many times the cheapest ones' time, and are so much more right."""


class Case(msgspec.Struct, frozen=True):
    """A queue whose cheapest points hold every deadline.

    ``binding``: the best points do not; ``spread``: between cheapest and best there is something to choose.
    """

    jobs: list[QueuedJob]
    workers: list[FreeWorker]
    binding: bool
    spread: bool


def pools(rng: np.random.Generator, count: int) -> list[list[JobPoints]]:
    """Return kinds of job: per pool the sizes and floors of one variant, or ten with arbitrary points."""
    found = []
    while len(found) < count:
        pool = _of_no_variant(rng) if len(found) % 3 == 2 else _of_variant(rng, graphs=len(found) % 2 == 0)
        if pool:
            found.append(pool)
    return found


def queue(rng: np.random.Generator, pool: Sequence[JobPoints], jobs: int, workers: int = 1) -> Case:
    """Return a queue of some jobs of a pool. Deadlines come in groups, where a mixed plan would end."""
    points = [pool[at] for at in rng.integers(0, len(pool), jobs)]
    mean_s = float(np.mean([each.latency_s[0] for each in points]))
    free = [FreeWorker(float(free_s)) for free_s in rng.uniform(0, mean_s, workers)]
    level, jitter = rng.uniform(0.05, 0.95), rng.choice([0.02, 0.2, 1.0])
    shares = np.clip(level + jitter * rng.standard_normal(jobs), 0.0, 1.2)
    mixed_s = [
        each.latency_s[0] + share * (each.latency_s[-1] - each.latency_s[0])
        for each, share in zip(points, shares.tolist(), strict=True)
    ]
    least_s = finishes_s([each.latency_s[0] for each in points], free)
    ends_s = np.maximum.accumulate(np.maximum(finishes_s(mixed_s, free), least_s)).tolist()
    group = int(rng.integers(1, 4))
    queued = [
        QueuedJob(each, ends_s[min(jobs - 1, (at // group + 1) * group - 1)])
        for at, each in enumerate(points)
    ]
    dearest_s = [each.latency_s[-1] for each in points]
    cheapest, best = (sum(each.value[p] for each in points) for p in (0, -1))
    return Case(
        jobs=queued,
        workers=free,
        binding=not all_held(queued, dearest_s, free),
        spread=sum(dearest_s) >= SPREAD_OF_LATENCY * sum(each.latency_s[0] for each in points)
        and best >= (1 + SPREAD_OF_ACCURACY) * cheapest,
    )


def _of_variant(rng: np.random.Generator, *, graphs: bool) -> list[JobPoints]:
    """Points at and above three floors of every batch size of a made-up variant; its curves are not convex."""
    modalities, largest = int(rng.integers(2, 4)), int(rng.choice(BATCHES))
    sets = tuple(range(1, 1 << modalities))
    wrong = rng.uniform(0.2, 0.5, modalities)
    members = [[m for m in range(modalities) if mask >> m & 1] for mask in sets]

    def curve(seconds: float) -> tuple[float, ...]:
        steps = seconds * rng.choice([0.0, 0.1, 0.5, 1.0], largest) * rng.uniform(0.5, 1.5)
        return (0.0, *(seconds * rng.choice([0.5, 1.0, 3.0]) + np.cumsum(steps)).tolist())

    if graphs:
        groups = [
            StageGroup(uses=tuple(other == mask for other in sets), table=curve(1e-3 * 3.0**at))
            for at, mask in enumerate(sets)
        ]
    else:
        groups = [
            StageGroup(uses=tuple(bool(mask >> m & 1) for mask in sets), table=curve(1e-3 * 3.0**m))
            for m in range(modalities)
        ]
    accuracy = tuple(float(1 - wrong[chosen].prod()) for chosen in members)
    found = []
    for frontier in frontiers(LatencyModel(sets, accuracy, tuple(groups), largest))[1:]:
        low, high = frontier.accuracy[0], frontier.accuracy[-1]
        for floor in FLOORS:
            start = frontier.cheapest_at(low + floor * (high - low))
            if start is not None and len(frontier) - start > 1:
                value = [accuracy * frontier.batch for accuracy in frontier.accuracy[start:]]
                found.append(JobPoints(frontier.latency_s[start:], value))
    return found


def _of_no_variant(rng: np.random.Generator) -> list[JobPoints]:
    found = []
    for _ in range(10):
        count, items = int(rng.integers(2, 7)), int(rng.integers(1, 9))
        latency_s = 1e-3 * np.cumsum(rng.exponential(1.0, count) + 0.2)
        accuracy = np.sort(rng.uniform(0.5, 0.98, count)) + 1e-6 * np.arange(count)
        found.append(JobPoints(latency_s.tolist(), (items * accuracy).tolist()))
    return found
