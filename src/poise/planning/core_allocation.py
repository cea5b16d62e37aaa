"""E3: how many cores each variant gets, and which share of the load (InfAdapter, EuroMLSys 2023, equation 1).

A variant runs on its own workers, one core each; the load goes to the most accurate running variant first. What a
worker could do with several variants resident is another programme (E4).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import msgspec

from poise.planning.milp import Programme, Status

TOLERANCE = 1e-9


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A variant that may get cores. Units: seconds, requests/s.

    Shapes: ``capacity_rps[n]`` is the load that *n* cores carry within the SLO, from 0 on; 0 where they carry none.
    """

    name: str
    accuracy: float
    load_time_s: float
    capacity_rps: tuple[float, ...]


class CoreProblem(msgspec.Struct, frozen=True, kw_only=True):
    """What E3 is to decide. Units: requests/s.

    ``current``: the cores that variants have now, by name; ``alpha``, ``beta`` and ``gamma`` weigh accuracy, cores and
    loading. No running variant has less than ``min_cores``.
    """

    candidates: tuple[Candidate, ...]
    cores: int
    load_rps: float
    current: Mapping[str, int] = {}
    min_cores: int = 1
    alpha: float = 1.0
    beta: float = 0.05
    gamma: float = 0.001

    def choices(self, candidate: Candidate) -> range:
        """The numbers of cores that a variant may have, if it runs at all."""
        return range(max(1, self.min_cores), min(self.cores, len(candidate.capacity_rps) - 1) + 1)

    @property
    def longest_load_s(self) -> float:
        """The largest load time of all variants; 1 where nothing takes time to load."""
        return max((c.load_time_s for c in self.candidates), default=0.0) or 1.0


class CoreAllocation(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to E3. Units: requests/s, seconds.

    ``accuracy``, ``resource`` and ``loading`` are the three terms before they are weighed: the mean accuracy of what
    is answered, the share of the cores in use, the share of the largest load time. ``gap``: see ``Solved``.
    """

    cores: Mapping[str, int]
    load_rps: Mapping[str, float]
    shed_rps: float
    objective: float
    accuracy: float
    resource: float
    loading: float
    status: Status = "optimal"
    gap: float = 0.0
    solve_s: float = 0.0


def judge(problem: CoreProblem, cores: Mapping[str, int]) -> CoreAllocation:
    """Return what some cores for each variant come to: the most accurate running variant is filled first.

    Where there is no load, accuracy is that of the most accurate running variant, and 0 where none runs.
    """
    running = [c for c in problem.candidates if cores.get(c.name, 0)]
    running.sort(key=lambda c: -c.accuracy)
    left = problem.load_rps
    shares: dict[str, float] = {}
    for candidate in running:
        shares[candidate.name] = min(left, candidate.capacity_rps[cores[candidate.name]])
        left -= shares[candidate.name]
    served = problem.load_rps - left
    if served > 0:
        accuracy = sum(c.accuracy * shares[c.name] for c in running) / served
    else:
        accuracy = running[0].accuracy if running and problem.load_rps == 0 else 0.0
    resource = sum(cores.get(c.name, 0) for c in running) / problem.cores
    loaded = [c.load_time_s for c in running if problem.current.get(c.name, 0) != cores[c.name]]
    loading = max(loaded, default=0.0) / problem.longest_load_s
    return CoreAllocation(
        cores={c.name: cores[c.name] for c in problem.candidates if cores.get(c.name, 0)},
        load_rps=shares,
        shed_rps=left if left > TOLERANCE * max(1.0, problem.load_rps) else 0.0,
        objective=problem.alpha * accuracy - problem.beta * resource - problem.gamma * loading,
        accuracy=accuracy,
        resource=resource,
        loading=loading,
    )


def allocate_cores(
    problem: CoreProblem, *, time_limit_s: float = inf, gap: float = 0.0
) -> CoreAllocation | None:
    """Return the best allocation; above what all cores carry, one of the largest capacity, and the rest is shed.

    None where the solver fails or finds nothing in time.
    """
    programme = Programme()
    chosen = {
        (c.name, n): programme.column(upper=1.0, whole=True)
        for c in problem.candidates
        for n in problem.choices(c)
    }
    if not chosen:
        return judge(problem, {})
    capacity = {(c.name, n): c.capacity_rps[n] for c in problem.candidates for n in problem.choices(c)}
    for candidate in problem.candidates:
        programme.row([(chosen[candidate.name, n], 1.0) for n in problem.choices(candidate)], upper=1.0)
    programme.row([(column, float(n)) for (_, n), column in chosen.items()], upper=float(problem.cores))
    load_rps, spent_s, served = problem.load_rps, 0.0, 1.0
    most_rps = _no_more_than(problem)
    if load_rps > most_rps * (1 - TOLERANCE):
        programme.price({column: capacity[key] for key, column in chosen.items()})
        largest = programme.solve(time_limit_s=time_limit_s)
        spent_s += largest.solve_s
        if not largest.found:
            return None
        if load_rps >= largest.objective:
            most_rps = sum(capacity[key] for key, column in chosen.items() if largest.values[column] > 0.5)
            served = most_rps / load_rps if load_rps else 1.0
            terms = [(column, capacity[key]) for key, column in chosen.items()]
            programme.row(terms, lower=most_rps * (1 - TOLERANCE))
    shares: dict[str, int] = {}
    for candidate in problem.candidates:
        share = shares[candidate.name] = programme.column(upper=1.0)
        own = [(chosen[candidate.name, n], n) for n in problem.choices(candidate)]
        programme.row([(share, 1.0), *((column, -1.0) for column, _ in own)], upper=0.0)
        if load_rps:
            fits = [(column, -candidate.capacity_rps[n] / load_rps) for column, n in own]
            programme.row([(share, 1.0), *fits], upper=0.0)
    # An equation: with bounds 1e-9 apart HiGHS 1.15 called answers optimal that were not, one in two thousand.
    least = served if load_rps and served else 0.0
    programme.row([(share, 1.0) for share in shares.values()], lower=least, upper=served or 1.0)
    loading = programme.column()
    for candidate in problem.candidates:
        changed = [
            (chosen[candidate.name, n], -candidate.load_time_s / problem.longest_load_s)
            for n in problem.choices(candidate)
            if n != problem.current.get(candidate.name, 0)
        ]
        programme.row([(loading, 1.0), *changed], lower=0.0)
    programme.price(
        {
            **{column: -problem.beta * n / problem.cores for (_, n), column in chosen.items()},
            **{shares[c.name]: problem.alpha * c.accuracy / (served or 1.0) for c in problem.candidates},
            loading: -problem.gamma,
        }
    )
    solved = programme.solve(time_limit_s=max(0.0, time_limit_s - spent_s), gap=gap)
    if not solved.found:
        return None
    cores = {name: n for (name, n), column in chosen.items() if solved.values[column] > 0.5}
    return msgspec.structs.replace(
        judge(problem, cores), status=solved.status, gap=solved.gap, solve_s=spent_s + solved.solve_s
    )


def _no_more_than(problem: CoreProblem) -> float:
    """A load that can be carried for sure: that of the best single variant."""
    return max(
        (c.capacity_rps[n] for c in problem.candidates for n in problem.choices(c)),
        default=0.0,
    )
