"""E2: how far the plans of random queues lie from the exact ones, and what a plan costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter, thread_time

import msgspec
import numpy as np

from poise.planning.queue_job import JobPoints
from poise.planning.queue_oracle import best_value, best_value_of_several
from poise.planning.queue_plan import holds, plan_queue

from .bench import Bench
from .collector import collector_as_served
from .grid import Grid
from .queue_cases import Case, pools, queue

POOLS = 60
"""Kinds of queue: a third of each with the points of encoders, of graphs, and of no model at all."""
FEW_POINTS = 5
"""On several workers the exact programme has an answer in reasonable time only for so many points a job."""
EXACT = ((1, 5), (1, 8), (1, 12), (1, 20), (1, 30), (2, 4), (2, 6), (2, 8), (3, 5))
"""(workers, jobs) of queues that are held against the exact programme."""
TIMED = ((1, 30), (1, 300), (2, 30), (2, 300), (4, 30), (4, 300))


class Gap(msgspec.Struct, frozen=True):
    """Against the exact programme, over all queues. Shares: of the exact value.

    ``real``: queues with a binding deadline and a real spread between the cheapest points and the best;
    ``cheapest``: the mean gap of the cheapest points, for comparison; ``of_spread``: the mean gap as a share of
    what the exact plan has above the cheapest; ``exact``: queues planned exactly.
    """

    workers: int
    jobs: int
    queues: int
    real: float
    cheapest: float
    mean: float
    worst: float
    of_spread: float
    exact: float


class Cost(msgspec.Struct, frozen=True):
    """What planning a queue takes, each queue once. Units: seconds, by the clock and of this thread's processor time.

    ``bound_gap``: the mean distance from the relaxation's bound, which no plan reaches as a rule.
    """

    workers: int
    jobs: int
    queues: int
    real: float
    p50_s: float
    p99_s: float
    worst_s: float
    cpu_p50_s: float
    cpu_p99_s: float
    bound_gap: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    gaps: list[Gap]
    costs: list[Cost]


def measure(bench: Bench) -> Result:
    """Plan random queues in this process, with the collector set as the server sets it."""
    rng = np.random.default_rng(1)
    kinds = pools(rng, POOLS)
    few = [kept for kind in kinds if (kept := [points for points in kind if len(points) <= FEW_POINTS])]
    queues = int(bench.options.pick(500, 20))
    with collector_as_served():
        gaps = []
        for workers, jobs in EXACT:
            cases = _cases(
                rng, kinds if workers == 1 else few, queues if workers == 1 else queues // 5, jobs, workers
            )
            gaps.append(_gap(cases, workers, jobs))
            bench.say(f"queue_plan: {jobs} jobs, {workers} workers against the exact programme")
        costs = []
        for workers, jobs in TIMED:
            count = 4 * queues if jobs < 100 else queues
            costs.append(_cost(_cases(rng, kinds, count, jobs, workers), workers, jobs))
            bench.say(f"queue_plan: {jobs} jobs, {workers} workers timed")
    return Result(gaps=gaps, costs=costs)


def _cases(
    rng: np.random.Generator, kinds: Sequence[Sequence[JobPoints]], count: int, jobs: int, workers: int
) -> list[Case]:
    return [queue(rng, kinds[at % len(kinds)], jobs, workers) for at in range(count)]


def _gap(cases: Sequence[Case], workers: int, jobs: int) -> Gap:
    gaps, cheapest, of_spread = [], [], []
    for case in cases:
        value = _planned(case)
        best = (
            best_value(case.jobs, case.workers[0])
            if workers == 1
            else best_value_of_several(case.jobs, case.workers)
        )
        if best is None:
            raise RuntimeError("the exact programme found no plan where one was found")
        least = sum(job.points.value[0] for job in case.jobs)
        gaps.append((best - value) / best)
        cheapest.append((best - least) / best)
        of_spread.append((best - value) / (best - least) if best > least + 1e-12 else 0.0)
    return Gap(
        workers=workers,
        jobs=jobs,
        queues=len(cases),
        real=_real(cases),
        cheapest=float(np.mean(cheapest)),
        mean=float(np.mean(gaps)),
        worst=max(gaps),
        of_spread=float(np.mean(of_spread)),
        exact=float(np.mean([gap <= 1e-9 for gap in gaps])),
    )


def _planned(case: Case) -> float:
    plan = plan_queue(case.jobs, case.workers)
    if plan.refused or not holds(case.jobs, case.workers, plan):
        raise RuntimeError("a queue that can be held was not")
    return plan.value


def _cost(cases: Sequence[Case], workers: int, jobs: int) -> Cost:
    for case in cases[:20]:
        plan_queue(case.jobs, case.workers)
    wall_s, cpu_s, gaps = [], [], []
    for case in cases:
        start, start_cpu = perf_counter(), thread_time()
        plan = plan_queue(case.jobs, case.workers)
        cpu_s.append(thread_time() - start_cpu)
        wall_s.append(perf_counter() - start)
        if plan.refused or not holds(case.jobs, case.workers, plan):
            raise RuntimeError("a queue that can be held was not")
        gaps.append((plan.bound - plan.value) / plan.bound)
    p50_s, p99_s = np.quantile(wall_s, [0.5, 0.99], method="inverted_cdf").tolist()
    cpu_p50_s, cpu_p99_s = np.quantile(cpu_s, [0.5, 0.99], method="inverted_cdf").tolist()
    return Cost(
        workers=workers,
        jobs=jobs,
        queues=len(cases),
        real=_real(cases),
        p50_s=p50_s,
        p99_s=p99_s,
        worst_s=max(wall_s),
        cpu_p50_s=cpu_p50_s,
        cpu_p99_s=cpu_p99_s,
        bound_gap=float(np.mean(gaps)),
    )


def _real(cases: Sequence[Case]) -> float:
    return float(np.mean([case.binding and case.spread for case in cases]))


def grids(result: Result) -> Iterator[Grid]:
    """Yield one table of gaps and one of times."""
    yield Grid(
        "E2: plans of random queues against the exact programme",
        [
            "workers",
            "jobs",
            "queues",
            "real",
            "gap mean",
            "gap worst",
            "of spread",
            "exact",
            "cheapest points",
        ],
        [
            [
                f"{gap.workers}",
                f"{gap.jobs}",
                f"{gap.queues}",
                f"{gap.real:.0%}",
                f"{gap.mean:.4%}",
                f"{gap.worst:.3%}",
                f"{gap.of_spread:.3%}",
                f"{gap.exact:.0%}",
                f"{gap.cheapest:.1%}",
            ]
            for gap in result.gaps
        ],
        note="Gaps are shares of the exact Σ accuracy·items. Real: a deadline binds, and the best points take at least "
        "1.5 times the cheapest ones' time for 5 % more accuracy. Of spread: the mean gap as a share of what the exact "
        "plan has above the cheapest points, whose own gap is the last column. No plan was late.",
    )
    yield Grid(
        "E2: what a plan costs",
        [
            "workers",
            "jobs",
            "queues",
            "real",
            "p50 µs",
            "p99 µs",
            "worst µs",
            "CPU p50 µs",
            "CPU p99 µs",
            "below bound",
        ],
        [
            [
                f"{cost.workers}",
                f"{cost.jobs}",
                f"{cost.queues:,}",
                f"{cost.real:.0%}",
                *(
                    f"{value * 1e6:.0f}"
                    for value in (cost.p50_s, cost.p99_s, cost.worst_s, cost.cpu_p50_s, cost.cpu_p99_s)
                ),
                f"{cost.bound_gap:.2%}",
            ]
            for cost in result.costs
        ],
        note="By the clock, and of the thread's own processor time (without what others took). The bound is the "
        "relaxation's, which no plan of whole points reaches as a rule.",
    )
