"""What a history is made of, for the tests that keep one."""

from __future__ import annotations

from msgspec.structs import replace

from poise.adapting.decision import Decision
from poise.adapting.events import ClassCounts, Observed
from poise.domain.allocation import Allocation, Terms, Workers
from poise.forecasting.base import Forecast

KIND = Workers(variants=("small", "large"), count=1, batch_cap_s=0.05)
NOON_S = 1_700_000_000
DECISION = Decision(
    number=3,
    at_s=12.5,
    epoch_s=float(NOON_S),
    policy="poise",
    reason="band",
    outcome="adopted",
    forecast=Forecast(30.0, (0.5, 0.95), (90.0, 120.5), "burst"),
    observed_rps={"interactive": 81.0},
    planned_rps={"interactive": 120.5},
    allocation=Allocation(
        workers=(replace(KIND, count=3),),
        objective=0.71,
        terms=Terms(accuracy=0.8, resource=0.5, loading=0.0),
        shares={"interactive": {"small": 0.25, "large": 0.75}},
        status="optimal",
    ),
    running=Allocation(workers=(KIND,)),
    solve_s=0.004,
    loads=2,
    trouble="memory",
)


def beat(at_s: float, jobs: int, span_s: float = 1.0, service: str = "", bulk: int = 0) -> Observed:
    return Observed(
        now_s=0.0,
        span_s=span_s,
        classes=(
            ClassCounts("interactive", jobs, 2 * jobs, jobs, 0, 2 * jobs, 1.5 * jobs),
            ClassCounts("bulk", bulk, bulk, 0, bulk, 0, 0.0),
        ),
        busy_s=0.5,
        waiting_items=3,
        epoch_s=at_s,
        service=service,
    )
