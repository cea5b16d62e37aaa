"""Builds the rate table: how many items a second each configuration answers within an SLO, by simulation.

*n* workers alike serve Poisson arrivals in order: a worker that is free takes all that wait, up to a batch. While
nothing waits it runs other work, one batch of the longest allowed time after the other, and whoever arrives then
waits for the first worker that comes free. (No constant share of a batch's time stands for that: of many workers one
is soon done.) The rate is the most at which 99 of 100 answers are within the SLO; more workers are never taken to be
slower each, since together they could do what fewer do apart.

All lanes, one for each (configuration, cap, SLO), are simulated side by side, a batch of each at a step, on the same
arrivals at rates of their own, and each halves the interval in which its rate lies. What is late is counted, not
timed: the jobs of a batch that arrived before its end less the SLO are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from poise.domain.profile import Profile
from poise.domain.rate_table import Rate, RateTable
from poise.domain.service import Service
from poise.planning.joint_configurations import Configuration, configurations
from poise.planning.service_time import LEVELS, place
from poise.planning.worker_kinds import SAME, batch_caps_s, same

WORKERS = (1, 2, 4, 8, 16)
JOBS = 12_000
"""So many arrivals are simulated of each lane at each rate: some 120 late ones decide."""
SETTLING = 200
"""The first arrivals do not count."""
LATE = 0.01
MOST_OF_CAPACITY = 0.98
"""No rate is above this share of what workers that are never idle answer: such a queue takes for ever to settle."""
HALVINGS = 6
SEED = 20221122
_COMPACT = 64

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]


class Lane(NamedTuple):
    """What one lane simulates. Without other work ``cap_s`` is 0, of all lanes or of none.

    Shapes: ``knots`` as in ``Configuration``. Units: seconds; ``most_rps``: items/s of a worker that is never idle.
    """

    knots: tuple[tuple[float, ...], ...]
    cap_s: float
    slo_s: float
    most_rps: float


def build_rate_table(
    service: Service,
    profile: Profile,
    *,
    workers: Sequence[int] = WORKERS,
    jobs: int = JOBS,
    seed: int = SEED,
    progress: Callable[[int, int], None] | None = None,
) -> RateTable:
    """Simulate every configuration of a service; ``progress`` is told how many numbers of workers are done, of all.

    Raises:
        ValueError: a profile that the planning programmes cannot treat.
    """
    caps_s = batch_caps_s(service)
    slos_s = _apart(each.latency_slo_s for each in service.classes.values())
    lanes: dict[Lane, int] = {}
    asked: list[tuple[Configuration, float, float, int]] = []
    for way in configurations(service, profile):
        for cap_s in caps_s:
            if way.p99_s[way.batch] > cap_s * (1 + SAME):
                continue
            for slo_s in slos_s:
                if way.p99_s[1] <= slo_s:
                    lane = Lane(way.knots, cap_s, slo_s, way.most_rps)
                    asked.append((way, cap_s, slo_s, lanes.setdefault(lane, len(lanes))))
    rates = most_rates(tuple(lanes), workers, jobs=jobs, seed=seed, progress=progress)
    return RateTable(
        workers=tuple(workers),
        rates=tuple(
            Rate(
                variant=way.variant,
                modalities=way.modalities,
                threads=way.threads,
                device=way.device,
                batch=way.batch,
                accuracy=way.accuracy,
                batch_s=way.p99_s[way.batch],
                batch_cap_s=cap_s,
                slo_s=slo_s,
                items_per_s=tuple(rates[at].tolist()),
            )
            for way, cap_s, slo_s, at in asked
            if rates[at].any()
        ),
    )


def _apart(values: Iterable[float]) -> list[float]:
    found: list[float] = []
    for value in sorted(values):
        if not found or not same(found[-1], value):
            found.append(value)
    return found


def most_rates(
    lanes: Sequence[Lane],
    workers: Sequence[int],
    *,
    jobs: int = JOBS,
    seed: int = SEED,
    halvings: int = HALVINGS,
    progress: Callable[[int, int], None] | None = None,
) -> _Floats:
    """Return the most items/s of each worker that hold each lane's SLO, [lane, number of workers]; never falling."""
    if not lanes:
        return np.zeros((0, len(workers)))
    race = _Race(_Curves(lanes), workers, jobs, np.random.default_rng(seed))
    most = len(lanes) * len(workers)
    low, high = np.zeros(most), np.full(most, MOST_OF_CAPACITY)
    open_ = np.arange(most)
    for halving in range(halvings + 1):
        load = (low + high) / 2 if halving else high
        holds = race.hold(open_, load[open_])
        low[open_[holds]] = load[open_[holds]]
        high[open_[~holds]] = load[open_[~holds]]
        if not halving:
            open_ = open_[~holds]
        if progress is not None:
            progress(halving + 1, halvings + 1)
    shares = np.maximum.accumulate(low.reshape(len(lanes), len(workers)), axis=1)
    rates: _Floats = shares * np.array([lane.most_rps for lane in lanes])[:, None]
    return rates


class _Curves:
    """All lanes as arrays. Shapes: ``knots`` is flat: [curve, items, level]."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        curves = {lane.knots: None for lane in lanes}
        width = max(len(knots) for knots in curves)
        position = {knots: at for at, knots in enumerate(curves)}
        table = np.zeros((len(curves), width, len(LEVELS)))
        for knots, at in position.items():
            for items, values in enumerate(knots):
                table[at, items] = values
        self.varies = any(len(values) > 1 for knots in curves for values in knots)
        self.knots: _Floats = np.ascontiguousarray(table).reshape(-1)
        self.base: _Integers = np.array([position[lane.knots] * width * len(LEVELS) for lane in lanes])
        self.batch: _Integers = np.array([len(lane.knots) - 1 for lane in lanes])
        self.cap_s: _Floats = np.array([lane.cap_s for lane in lanes])
        self.slo_s: _Floats = np.array([lane.slo_s for lane in lanes])
        self.most_rps: _Floats = np.array([lane.most_rps for lane in lanes])


class _Race:
    """Every lane with every number of workers, at given loads, until each has served its arrivals or failed."""

    def __init__(self, curves: _Curves, workers: Sequence[int], jobs: int, rng: Generator) -> None:
        self._curves = curves
        self._workers = np.array(workers)
        self._jobs = jobs
        drawn = jobs + int(curves.batch.max()) + 1
        # Quantiles in random order rather than draws: the mean gap is 1.
        quantiles = (np.arange(drawn) + 0.5) / drawn
        self._arrivals: _Floats = np.cumsum(rng.permutation(-np.log1p(-quantiles)))
        self._places = [place(level) for level in rng.permutation(quantiles).tolist()]
        self._phases = rng.random(int(self._workers.max()))

    def hold(self, which: _Integers, load: _Floats) -> NDArray[np.bool_]:
        """Return which of some lanes hold their SLO at a load, a share of what their workers answer at most.

        Shapes: ``which`` counts numbers of workers fastest, lanes slowest.
        """
        curves, arrivals, jobs = self._curves, self._arrivals, self._jobs
        lane, workers = which // len(self._workers), self._workers[which % len(self._workers)]
        held = np.zeros(len(which), dtype=bool)
        allowed = LATE * (jobs - SETTLING)
        state = _State(
            who=np.arange(len(which)),
            per_s=load * curves.most_rps[lane] * workers,
            cap_s=curves.cap_s[lane][:, None],
            slo_s=curves.slo_s[lane],
            batch=curves.batch[lane],
            base=curves.base[lane],
            free_s=np.where(
                np.arange(len(self._phases)) < workers[:, None],
                curves.cap_s[lane][:, None] * self._phases,
                np.inf,
            ),
            first=np.zeros(len(which), dtype=np.int64),
            late=np.zeros(len(which), dtype=np.int64),
        )
        other_work = bool((curves.cap_s > 0).all())
        rows, step = np.arange(len(which)), 0
        while len(rows):
            who, per_s, cap_s, slo_s, batch, base, free_s, first, late = state
            # When each worker is next free for the first job that waits: other work is done in whole batches.
            until_s = (arrivals[first] / per_s)[:, None] - free_s
            np.maximum(until_s, 0.0, out=until_s)
            if other_work:
                until_s /= cap_s
                np.ceil(until_s, out=until_s)
                until_s *= cap_s
            until_s += free_s
            worker = until_s.argmin(axis=1)
            start_s = until_s[rows, worker]
            items = arrivals.searchsorted(start_s * per_s, "right") - first
            np.maximum(items, 1, out=items)
            np.minimum(items, batch, out=items)
            end_s = start_s + self._took_s(base, items, step)
            free_s[rows, worker] = end_s
            missed = arrivals.searchsorted((end_s - slo_s) * per_s, "left") - first
            np.maximum(missed, 0, out=missed)
            np.minimum(missed, items, out=missed)
            missed *= (first >= SETTLING) & (first < jobs)
            late += missed
            first += items
            np.minimum(first, jobs, out=first)
            step += 1
            if step % _COMPACT == 0:
                done = (first >= jobs) | (late > allowed)
                if done.any():
                    held[who[done]] = late[done] <= allowed
                    state = state.of(~done)
                    rows = np.arange(len(state.who))
        return held

    def _took_s(self, base: _Integers, items: _Integers, step: int) -> _Floats:
        """Return how long batches take: all lanes are at the same level of their own distributions."""
        end, left = self._places[step % len(self._places)]
        at = base + items * len(LEVELS) + end
        took_s: _Floats = self._curves.knots[at]
        if self._curves.varies:
            took_s -= (took_s - self._curves.knots[at - 1]) * left
        return took_s


class _State(NamedTuple):
    """What lanes are at. Shapes: [lane]; ``cap_s`` [lane, 1], ``free_s`` [lane, worker]."""

    who: _Integers
    per_s: _Floats
    cap_s: _Floats
    slo_s: _Floats
    batch: _Integers
    base: _Integers
    free_s: _Floats
    first: _Integers
    late: _Integers

    def of(self, rows: NDArray[np.bool_]) -> _State:
        """Return some of the lanes."""
        return _State(
            self.who[rows],
            self.per_s[rows],
            self.cap_s[rows],
            self.slo_s[rows],
            self.batch[rows],
            self.base[rows],
            self.free_s[rows],
            self.first[rows],
            self.late[rows],
        )
