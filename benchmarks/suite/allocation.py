"""E4: what solving the joint allocation takes, from nothing and from what runs."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import msgspec
import numpy as np

from poise.planning.joint_allocation import JointSolution, solve_jointly
from poise.planning.joint_pools import Pools

from .allocation_cases import grown, random_problem
from .bench import Bench
from .collector import collector_as_served
from .grid import Grid

TIME_LIMIT_S = 20.0


class Size(msgspec.Struct, frozen=True):
    """What is solved. ``goal_s``: what solving should take. ``memory``: of what all variants on all cores need."""

    cores: int
    variants: int
    classes: int
    gap: float
    problems: int
    goal_s: float | None
    memory: float = 1.0


SIZES = (
    Size(20, 5, 1, 0.0, 40, 0.020),
    Size(20, 5, 1, 1e-4, 40, 0.020),
    Size(1000, 20, 4, 1e-4, 15, 0.5),
    Size(10_000, 50, 8, 1e-4, 7, 2.0),
    Size(20, 5, 1, 1e-4, 15, None, 0.4),
)


class Cost(msgspec.Struct, frozen=True):
    """What one size takes. Units: seconds, by the clock; all of it but what is worked out once for a service.

    ``cold``: nothing runs; ``warm``: the cold answer runs, and 5 % more load comes. ``prepare_s``: pools and hulls,
    once. ``kept``: warm answers that leave all as it runs; ``in_time``: answers with the gap proven; ``gap``: the
    largest one reported; ``shedding``: problems that cannot be carried whole.
    """

    size: Size
    kinds: int
    prepare_s: float
    cold_p50_s: float
    cold_worst_s: float
    warm_p50_s: float
    warm_worst_s: float
    kept: float
    in_time: float
    gap: float
    shedding: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    costs: list[Cost]


def measure(bench: Bench) -> Result:
    """Solve random problems in this process, with the collector set as the server sets it."""
    costs = []
    with collector_as_served():
        for size in SIZES:
            problems = max(2, int(bench.options.pick(size.problems, 2)))
            costs.append(_cost(size, problems))
            bench.say(f"allocation: {size.cores} cores, {size.variants} variants, {size.classes} classes")
    return Result(costs=costs)


def _cost(size: Size, problems: int) -> Cost:
    rng = np.random.default_rng(1)
    prepare_s, cold_s, warm_s, gaps = [], [], [], []
    kinds = kept = in_time = shedding = 0
    for at in range(problems + 1):  # the first one warms up
        problem = random_problem(rng, size.cores, size.variants, size.classes, memory_of_need=size.memory)
        start = perf_counter()
        pools = Pools(problem.kinds, problem.classes)
        pools.needless(True)
        pools.needless(False)
        made = perf_counter()
        cold = _solved(solve_jointly(problem, gap=size.gap, time_limit_s=TIME_LIMIT_S, pools=pools))
        done = perf_counter()
        running = cold.workers(problem)
        after = msgspec.structs.replace(grown(problem), running=running)
        begun = perf_counter()
        warm = _solved(
            solve_jointly(after, gap=size.gap, time_limit_s=TIME_LIMIT_S, pools=pools, start=running)
        )
        ended = perf_counter()
        if not at:
            continue
        prepare_s.append(made - start)
        cold_s.append(done - made)
        warm_s.append(ended - begun)
        gaps += [cold.gap, warm.gap]
        kinds = max(kinds, len(problem.kinds))
        kept += warm.counts == cold.counts
        in_time += (cold.status == "optimal") + (warm.status == "optimal")
        shedding += any(rps > 1e-6 for rps in cold.shed_rps)
    return Cost(
        size=size,
        kinds=kinds,
        prepare_s=float(np.median(prepare_s)),
        cold_p50_s=float(np.median(cold_s)),
        cold_worst_s=max(cold_s),
        warm_p50_s=float(np.median(warm_s)),
        warm_worst_s=max(warm_s),
        kept=kept / problems,
        in_time=in_time / (2 * problems),
        gap=max(gaps),
        shedding=shedding / problems,
    )


def _solved(solution: JointSolution | None) -> JointSolution:
    if solution is None:
        raise RuntimeError("a problem with an answer was given none in time")
    return solution


def grids(result: Result) -> Iterator[Grid]:
    """Yield one table."""
    yield Grid(
        "E4: what solving the joint allocation takes",
        [
            "cores × variants × classes",
            "memory",
            "gap asked",
            "problems",
            "kinds",
            "cold p50 ms",
            "worst",
            "warm p50 ms",
            "worst",
            "goal ms",
            "kept",
            "proven",
            "largest gap",
            "shed",
            "prepare ms",
        ],
        [
            [
                f"{cost.size.cores:,} × {cost.size.variants} × {cost.size.classes}",
                "ample" if cost.size.memory >= 1 else f"{cost.size.memory:.0%}",
                f"{cost.size.gap:.2%}",
                f"{cost.size.problems}",
                f"{cost.kinds}",
                *(
                    f"{value * 1e3:.1f}"
                    for value in (
                        cost.cold_p50_s,
                        cost.cold_worst_s,
                        cost.warm_p50_s,
                        cost.warm_worst_s,
                    )
                ),
                "" if cost.size.goal_s is None else f"{cost.size.goal_s * 1e3:g}",
                f"{cost.kept:.0%}",
                f"{cost.in_time:.0%}",
                f"{cost.gap:.3%}",
                f"{cost.shedding:.0%}",
                f"{cost.prepare_s * 1e3:.0f}",
            ]
            for cost in result.costs
        ],
        note="Random families on 1, 2 and 4 threads, in batches of 1 to 32, at 20 to 120 %, or 8 times, what the cores "
        "carry with the variant in the middle. Cold: nothing runs. Warm: the cold answer runs and 5 % more load comes; "
        "kept: all is left as it is. All of the solving counts, in Python and in HiGHS, but for pools and hulls, made "
        f"once (prepare). Time limit {TIME_LIMIT_S:g} s.",
    )
