"""Where a deadline leaves time for two or three batches: as much is held as by a loop that nobody has to ask."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.simulation.faults import Faults
from poise.simulation.simulate import simulate
from poise.workload.jobs import JobDraw

FIXED_S, EACH_S, LARGEST = 0.006, 0.0012, 32
"""One stage: 32 items in 44 ms."""
MOST_RPS = LARGEST / (FIXED_S + LARGEST * EACH_S)
SLO_S, SHORT_SLO_S = 0.117, 0.082
"""2.6 of the largest batches, and 1.8: then a job that arrives as one of them begins is late after the next."""


def batching(profile: Profile, factor: float = 1.0) -> Profile:
    """Return the profile with a fixed time and then a little for each item of modality ``cheap``, times a factor."""
    tree = msgspec.to_builtins(profile)
    for stage in tree["variants"][0]["stages"]:
        for point in stage["latency"]:
            point["mean_s"] = factor * (FIXED_S + EACH_S * point["batch"])
    return msgspec.convert(tree, Profile)


def held_by_the_largest_batches(arrivals: NDArray[np.float64], slo_s: float = SLO_S) -> float:
    """Return the attainment of a worker that turns nobody away: the largest batch whose members are all in time.

    Between batches it drops those who would be late in it, the earliest; it knows to the microsecond what batches take.
    """
    now_s, next_one, good = 0.0, 0, 0
    waiting: list[float] = []
    while next_one < len(arrivals) or waiting:
        if not waiting:
            now_s = max(now_s, float(arrivals[next_one]))
        here = int(np.searchsorted(arrivals, now_s, "right"))
        waiting += arrivals[next_one:here].tolist()
        next_one = here
        for size in range(min(LARGEST, len(waiting)), 0, -1):
            done_s = now_s + FIXED_S + size * EACH_S
            in_time = [arrival for arrival in waiting if arrival + slo_s >= done_s]
            if len(in_time) >= size:
                now_s, good, waiting = done_s, good + size, in_time[size:]
                break
        else:
            waiting = []
    return good / len(arrivals)


@pytest.fixture
def attainment(
    make_service: Callable[..., Service], make_profile: Callable[..., Profile]
) -> Callable[[NDArray[np.float64], float], float]:
    """What poise attains of some arrivals with an SLO in seconds; nobody is answered late."""

    def attained(times: NDArray[np.float64], slo_s: float, profile_error: float = 1.0) -> float:
        service = make_service(
            classes={"normal": {"latency_slo_ms": 1e3 * slo_s, "accuracy_floor": 0.0}},
            scheduler={"max_batch": LARGEST},
        )
        profile, duration_s = batching(make_profile(), 1 / profile_error), float(times[-1])
        faults = Faults(profile_error=profile_error)
        report = simulate(
            service, profile, draws_at(times), duration_s=duration_s, seed=1, faults=faults
        ).report
        assert report.late <= (0 if profile_error == 1.0 else 0.005 * len(times))  # until that is known
        return report.attainment

    return attained


def poisson(share: float, seed: int) -> NDArray[np.float64]:
    """Return when 12,000 jobs arrive, at a share of what the largest batches carry."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / (share * MOST_RPS), 12_000))


@pytest.mark.parametrize("share", [0.85, 0.92, 0.96])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_less_is_held_than_by_the_largest_batches(
    attainment: Callable[..., float], share: float, seed: int
) -> None:
    times = poisson(share, seed)
    assert attainment(times, SLO_S) >= held_by_the_largest_batches(times) - 0.004


@pytest.mark.parametrize("share", [1.25, 2.0])
def test_nor_where_workers_are_twice_as_fast_as_their_profile(
    attainment: Callable[..., float], share: float
) -> None:
    """Which batch is the efficient one hangs on how much time the SLO is to the workers, not to the profile."""
    times = poisson(share, 4)
    assert attainment(times, SLO_S, 0.5) >= 0.98 * held_by_the_largest_batches(times)


@pytest.mark.parametrize("share", [1.0, 1.25, 1.5, 2.0])
@pytest.mark.parametrize("slo_s", [SLO_S, SHORT_SLO_S])
def test_in_overload_batches_stay_large_though_nobody_accepted_is_dropped(
    attainment: Callable[..., float], share: float, slo_s: float
) -> None:
    """The loop drops those who waited longest wherever that makes a batch larger; who is accepted here is answered."""
    times = poisson(share, 4)
    assert attainment(times, slo_s) >= 0.92 * held_by_the_largest_batches(times, slo_s)


def draws_at(times: NDArray[np.float64]) -> list[JobDraw]:
    """Return jobs of one item each, which only have the cheap modality."""
    return [
        JobDraw(number, time_s, "normal", 1, None, None, 2) for number, time_s in enumerate(times.tolist())
    ]
