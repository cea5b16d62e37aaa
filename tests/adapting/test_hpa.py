"""HPA: replicas by utilisation, on series worked out by hand (target .8, tolerance a tenth)."""

from __future__ import annotations

import pytest

from poise.adapting.events import ClassCounts, Observed
from poise.adapting.hpa import Hpa, ReplicaController
from poise.domain.profile import Profile

from .conftest import service_of, situation_at, workers


@pytest.mark.parametrize(
    ("replicas", "utilisation", "wanted"),
    [
        (4, 0.8, 4),
        (4, 0.87, 4),  # within a tenth of the target
        (4, 0.89, 5),  # ⌈4 · .89 / .8⌉ = ⌈4.45⌉
        (4, 1.0, 5),
        (10, 1.0, 13),
        (1, 1.0, 2),
        (4, 0.4, 2),
        (4, 0.0, 1),
    ],
)
def test_desired_replicas(replicas: int, utilisation: float, wanted: int) -> None:
    assert ReplicaController().recommend(0.0, replicas, utilisation, 100) == wanted


def test_growth_is_limited_within_a_period() -> None:
    """Four more, or twice as many; a utilisation of 3 stands for three times what one replica can do."""
    assert ReplicaController().recommend(0.0, 2, 3.0, 100) == 6
    assert ReplicaController().recommend(0.0, 10, 3.0, 100) == 20
    assert ReplicaController().recommend(0.0, 10, 3.0, 15) == 15


def test_shrinking_waits_for_the_largest_of_five_minutes() -> None:
    controller = ReplicaController()
    assert controller.recommend(0.0, 8, 1.0, 100) == 10
    series = [controller.recommend(15.0 * period, 10, 0.2, 100) for period in range(1, 22)]
    # 10 was desired at 0 s: it holds to 300 s inclusive; then ⌈10 · .2 / .8⌉ = 3.
    assert series == [10] * 20 + [3]


def test_the_policy_syncs_every_fifteen_seconds(profile: Profile) -> None:
    policy = Hpa(service_of(variant="small"), profile, 8)
    found = policy.ask(situation_at(10.0, (workers("small", 4),)))()
    assert found is not None
    assert found.workers[0].count == 4
    for second in range(14):
        policy.observe(Observed(second + 1.0, 1.0, (ClassCounts("default"),), busy_s=4.0))
    found = policy.ask(situation_at(10.0, (workers("small", 4),)))()
    assert found is not None
    assert found.workers[0].count == 4
    policy.observe(Observed(15.0, 1.0, (ClassCounts("default"),), busy_s=4.0))
    found = policy.ask(situation_at(10.0, (workers("small", 4),)))()
    assert found is not None
    assert found.workers[0].count == 5
