"""The jobs of a workload: what arrives when; the same for the simulator and the live generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from poise.domain.modalities import ModalityIndex
from poise.domain.workload import DEFAULT_DURATION_S, Items, Workload
from poise.errors import ConfigError
from poise.workload.arrivals import draw_arrivals


class JobDraw(msgspec.Struct, frozen=True, gc=False):
    """One job as the workload draws it, before anyone has seen it.

    Units: ``arrival_s`` in seconds from the start of the run; ``deadline_s`` in seconds from the arrival,
    None for the latency SLO of the class. ``accuracy_floor``: None for the class's. ``available``: mask of
    the modalities that the request carries. ``number`` counts jobs from 0 in order of arrival.
    """

    number: int
    arrival_s: float
    slo_class: str
    items: int
    deadline_s: float | None
    accuracy_floor: float | None
    available: int


class Streams(msgspec.Struct, frozen=True):
    """One generator for each source of randomness, so that changing one leaves what the others draw."""

    arrivals: Generator
    classes: Generator
    items: Generator
    floors: Generator
    missing: Generator
    contents: Generator
    """Which items of the test data a request carries (drawn by the live generator)."""


def streams(seed: int) -> Streams:
    """Return the generators of a seed; a source added at the end changes none before it."""
    return Streams(*(np.random.default_rng(child) for child in SeedSequence(seed).spawn(6)))


def draw_jobs(
    workload: Workload,
    *,
    classes: Sequence[str],
    index: ModalityIndex,
    trace_text: str | None = None,
    best_latency_s: Callable[[int], float] | None = None,
) -> list[JobDraw]:
    """Draw the jobs of a workload, in order of arrival.

    ``classes`` are the service's SLO classes, the default first; ``trace_text`` is the trace's content;
    ``best_latency_s`` gives the latency of the most accurate mode for a number of items, in seconds.

    Raises:
        ConfigError: a class or a modality that the service does not have, a trace that cannot be used, or a
            deadline by slack without ``best_latency_s``.
    """
    _check_names(workload, classes, index)
    _check_deadline(workload, best_latency_s)
    source = streams(workload.seed)
    arrivals, _ = draw_arrivals(workload.arrivals, source.arrivals, trace_text)
    count = len(arrivals)
    sizes = draw_items(workload.items, count, source.items)
    available = _draw_available(workload, index, count, source.missing)
    floors = _draw_floors(workload, count, source.floors)
    deadlines = {size: _deadline_s(workload, size, best_latency_s) for size in np.unique(sizes).tolist()}
    items: list[int] = sizes.tolist()
    return list(
        map(
            JobDraw,
            range(count),
            arrivals.tolist(),
            _draw_classes(workload, classes, count, source.classes),
            items,
            map(deadlines.__getitem__, items),
            floors,
            available.tolist(),
        )
    )


def planned_duration_s(workload: Workload, trace_text: str | None = None) -> float:
    """Return how long the workload lasts: what the file says, else to the trace's end, else the default.

    Raises:
        ConfigError: a trace of unstated duration whose text is absent, or that ends before ``from_s``.
    """
    arrivals = workload.arrivals
    if arrivals.duration_s is not None:
        return arrivals.duration_s
    if arrivals.trace is None:
        return DEFAULT_DURATION_S
    seconds = len((trace_text or "").rstrip().splitlines()) - arrivals.from_s
    if seconds < 1:
        raise ConfigError(
            f"trace {arrivals.trace!r} has nothing from {arrivals.from_s} s on", field="arrivals.from_s"
        )
    return float(seconds)


def draw_items(items: Items, count: int, rng: Generator) -> NDArray[np.int64]:
    """Draw how many items each job has. Shapes: [count]."""
    match items.dist:
        case "normal":
            drawn = np.trunc(rng.normal(items.mean, items.sd, count))
        case "uniform":
            drawn = rng.integers(items.min, items.max, count, endpoint=True)
        case "geometric":
            drawn = rng.geometric(1.0 / items.mean, count)
        case _:
            drawn = np.full(count, round(items.mean))
    return np.clip(drawn, items.min, items.max).astype(np.int64)


def _check_deadline(workload: Workload, best_latency_s: Callable[[int], float] | None) -> None:
    if workload.deadline is not None and workload.deadline.slack_s is not None and best_latency_s is None:
        raise ConfigError(
            "a deadline by slack_ms needs the latency of the most accurate mode",
            field="deadline.slack_ms",
            expected="a service with a profile",
        )


def _deadline_s(
    workload: Workload, items: int, best_latency_s: Callable[[int], float] | None
) -> float | None:
    if workload.deadline is None:
        return None
    if workload.deadline.slack_s is None or best_latency_s is None:
        return workload.deadline.fixed_s
    return best_latency_s(items) + workload.deadline.slack_s


def _check_names(workload: Workload, classes: Sequence[str], index: ModalityIndex) -> None:
    for field, names, known in (
        ("classes", workload.classes, classes),
        ("missing", workload.missing, index.names),
    ):
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ConfigError(
                f"the service has no {unknown[0]!r}",
                field=f"{field}.{unknown[0]}",
                expected=f"some of {sorted(known)}",
            )
    if index.names and all(workload.missing.get(name, 0.0) == 1.0 for name in index.names):
        raise ConfigError(
            "every modality is always missing", field="missing", expected="a share below 1 for one"
        )


def _draw_classes(workload: Workload, classes: Sequence[str], count: int, rng: Generator) -> list[str]:
    names = list(workload.classes) or [classes[0]]
    shares = np.array([workload.classes.get(name, 1.0) for name in names])
    edges = np.cumsum(shares / shares.sum())
    picks = np.minimum(np.searchsorted(edges, rng.random(count), side="right"), len(names) - 1)
    return [names[pick] for pick in picks.tolist()]


def _draw_floors(workload: Workload, count: int, rng: Generator) -> list[float | None]:
    if workload.floor is None:
        return [None] * count
    low, high = workload.floor.uniform
    if workload.floor.per == "run":
        return [float(rng.uniform(low, high))] * count
    return list(rng.uniform(low, high, count).tolist())


def _draw_available(
    workload: Workload, index: ModalityIndex, count: int, rng: Generator
) -> NDArray[np.int64]:
    """Masks of the modalities each job carries; a job that would lose all keeps one, each alike likely."""
    width = len(index.names)
    shares = np.array([workload.missing.get(name, 0.0) for name in index.names])
    drawn = rng.random((count, width + 1))
    present = drawn[:, :width] >= shares
    kept = np.minimum((drawn[:, width] * width).astype(np.int64), width - 1)
    empty = ~present.any(axis=1)
    present[empty, kept[empty]] = True
    bits = np.array([1 << i for i in range(width)], np.int64)
    return np.asarray(present @ bits, np.int64)
