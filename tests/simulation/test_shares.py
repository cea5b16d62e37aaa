"""The shares of an allocation in simulated runs: held by ``poise`` while deadlines allow, exactly by ``weighted``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from poise.scheduling.commands import Answer, Command
from poise.scheduling.events import AllocationAdopted, Event
from poise.scheduling.scheduler import Scheduler
from poise.simulation.simulate import simulate

BOTH = ({"variants": ["small", "large"], "count": 2},)
APART = ({"variants": ["small"]}, {"variants": ["large"]})
WINDOW_S = 60.0


class Run:
    """A simulated run of single items, and which variant answered each, when."""

    def __init__(
        self,
        answered: list[tuple[float, str, str]],
        variant_of: dict[int, str],
        attainment: float,
        scheduler: Scheduler,
    ) -> None:
        self.answered = answered
        self.variant_of = variant_of
        self.attainment = attainment
        self.deviations = dict(scheduler.deviations)

    def shares_of(self, variant: str, slo_class: str = "interactive") -> list[float]:
        """A variant's share of a class's answers in every window of a minute, one every five seconds."""
        at_s = np.array([now_s for now_s, name, _ in self.answered if name == slo_class])
        by = np.array([of == variant for _, name, of in self.answered if name == slo_class])
        starts_s = np.arange(0.0, at_s[-1] - WINDOW_S, 5.0)
        return [float(by[(at_s >= s) & (at_s < s + WINDOW_S)].mean()) for s in starts_s]


@pytest.fixture
def run(emulated, draws) -> Callable[..., Run]:
    def build(
        rate_rps: float,
        shares: dict[str, dict[str, float]] | None,
        allocation: Sequence[dict[str, Any]] = BOTH,
        *,
        policy: str = "poise",
        duration_s: float = 80.0,
        bulk: float = 0.0,
    ) -> Run:
        service, profile = emulated(allocation=list(allocation))
        rng = np.random.default_rng(5)
        jobs = draws(np.sort(rng.uniform(0.0, duration_s, int(rate_rps * duration_s))).tolist())
        jobs = [
            msgspec.structs.replace(job, slo_class="bulk") if rng.random() < bulk else job for job in jobs
        ]
        class_of = {job.number: job.slo_class for job in jobs}
        scheduler = Scheduler(service, profile, policy)
        if shares is not None:
            assert scheduler.handle(AllocationAdopted(0.0, shares)) == []
        answered: list[tuple[float, str, str]] = []
        variant_of: dict[int, str] = {}

        def observe(event: Event, commands: Sequence[Command]) -> None:
            for command in commands:
                if isinstance(command, Answer):
                    (part,) = command.parts
                    variant_of[command.job_id] = part.variant
                    answered.append((event.now_s, class_of[command.job_id], part.variant))

        report = simulate(
            service, profile, jobs, duration_s=duration_s, policy=policy, scheduler=scheduler, observe=observe
        ).report
        return Run(answered, variant_of, report.attainment, scheduler)

    return build


def mix(large: float) -> dict[str, float]:
    return {"small": 1.0 - large, "large": large}


@pytest.mark.parametrize("large", [0.0, 0.2, 0.5, 0.8])
def test_shares_are_within_five_points_at_a_steady_load_and_no_deadline_is_missed(run, large) -> None:
    done = run(150.0, {"interactive": mix(large)})
    assert all(abs(share - large) <= 0.05 for share in done.shares_of("large"))
    assert done.attainment > 0.999


def test_without_shares_the_policy_has_its_own(run) -> None:
    """What the others are measured against: it is none of the mixes that are asked for."""
    free = run(150.0, None)
    assert all(0.6 < share < 0.75 for share in free.shares_of("large"))
    assert free.deviations == {"interactive": 0, "bulk": 0}


@pytest.mark.parametrize("nothing", [{}, {"interactive": {}}, {"interactive": {"small": 0.0, "large": 0.0}}])
def test_no_shares_at_all_are_as_if_none_had_been_adopted(run, nothing) -> None:
    assert run(150.0, nothing, duration_s=10.0).answered == run(150.0, None, duration_s=10.0).answered


def test_shares_of_variants_without_a_worker_count_for_nothing(run) -> None:
    only = ({"variants": ["small"], "count": 2},)
    done = run(150.0, {"interactive": mix(0.9)}, only, duration_s=10.0)
    assert done.answered == run(150.0, None, only, duration_s=10.0).answered
    assert done.deviations["interactive"] == 0


@pytest.mark.parametrize("large", [0.3, 0.5])
def test_shares_hold_across_workers_that_hold_one_variant_each(run, large) -> None:
    """One worker is left idle where the other has the time."""
    free = run(100.0, None, APART)
    done = run(100.0, {"interactive": mix(large)}, APART)
    assert all(abs(share - large) <= 0.05 for share in done.shares_of("large"))
    assert done.attainment > 0.999
    assert not all(abs(share - 0.5) <= 0.05 for share in free.shares_of("large"))


def test_every_class_has_its_own_shares(run) -> None:
    shares = {"interactive": mix(0.1), "bulk": mix(0.9)}
    done = run(200.0, shares, bulk=0.5)
    assert all(abs(share - 0.1) <= 0.05 for share in done.shares_of("large", "interactive"))
    assert all(abs(share - 0.9) <= 0.05 for share in done.shares_of("large", "bulk"))
    assert done.attainment > 0.999


def test_shares_are_departed_from_where_deadlines_demand_it_and_that_is_counted(run) -> None:
    """All of 1,300/s by the large variant is more than it can do; with the small one every deadline is met."""
    done = run(1300.0, {"interactive": mix(1.0)}, duration_s=20.0)
    small = sum(variant == "small" for _, _, variant in done.answered)
    assert done.attainment > 0.995
    assert small > 0.1 * len(done.answered)
    assert done.deviations["interactive"] == small  # the small one has no share: each of its items departs


def test_weighted_gives_the_exact_smooth_sequence(run) -> None:
    """Two to one, as nginx's balancer gives them: large, small, large, and again."""
    done = run(20.0, {"interactive": {"small": 1, "large": 2}}, policy="weighted", duration_s=30.0)
    given = [variant for _, variant in sorted(done.variant_of.items())]
    assert given == ["large", "small", "large"] * 200
