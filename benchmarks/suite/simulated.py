"""Runs in virtual time: the workload that live runs have too, and the highest load that holds."""

from __future__ import annotations

import statistics
from typing import Literal

import msgspec

from poise.domain.service import Service
from poise.domain.workload import Arrivals, Floor, Workload
from poise.simulation.search import highest_load
from poise.simulation.simulate import SimulationReport, simulate
from poise.workload import JobDraw, draw_jobs

from .bench import Bench
from .fluid_bound import fluid_bound_rps

TARGET = 0.99
POLICIES = ("edf", "poise")
Scope = Literal["class", "job"]
SCOPES: tuple[Scope, ...] = ("class", "job")


def draw_poisson(service: Service, load: float, duration_s: float, seed: int, floor: float) -> list[JobDraw]:
    """Draw Poisson arrivals at a floor, as ``poise load --rate --floor --seed`` does."""
    workload = Workload(
        format=1,
        arrivals=Arrivals(process="poisson", rate_rps=load, duration_s=duration_s),
        floor=Floor(uniform=(floor, floor)),
        seed=seed,
    )
    return draw_jobs(workload, classes=tuple(service.classes), index=service.modality_index)


def draws(bench: Bench, load: float, duration_s: float, seed: int) -> list[JobDraw]:
    """Draw Poisson arrivals on the example, at the demo's floor."""
    return draw_poisson(bench.service, load, duration_s, seed, bench.floor)


def simulated_run(
    bench: Bench, policy: str, load: float, duration_s: float, seed: int, scope: Scope | None = None
) -> SimulationReport:
    """Simulate one run; ``scope`` overrides the service file's."""
    service = bench.service
    if scope is not None:
        guarantee = msgspec.structs.replace(service.guarantee, scope=scope)
        service = msgspec.structs.replace(service, guarantee=guarantee)
    jobs = draws(bench, load, duration_s, seed)
    return simulate(service, bench.profile, jobs, duration_s=duration_s, policy=policy, seed=seed).report


def bound_rps(bench: Bench, scope: Scope) -> float:
    """Return the fluid bound of the one worker at the demo's floor, in jobs/s."""
    return fluid_bound_rps(bench.mean_model, bench.slo_s, bench.floor, each=scope == "job")


def run_length_s(bench: Bench, load: float, jobs: float, *, least_s: float = 40) -> float:
    """Return a duration of about so many jobs, at most 160 s (a third of it all in quick runs).

    What is still waiting at the end is served beyond it: a run is to be long against the SLO.
    """
    return round(min(160.0, max(least_s, jobs / load)) * bench.options.pick(1, 1 / 3), 1)


def simulated_capacity(bench: Bench, policy: str, scope: Scope) -> list[float]:
    """Return the highest load that holds, once for each seed; kept for later. Units: jobs/s.

    The first seed searches all below the fluid bound, the others around its answer, or everywhere if need be.
    """
    found = bench.capacities.get((policy, scope))
    if found is None:
        top = 1.1 * (bench.all_modalities_rps if policy == "edf" else bound_rps(bench, scope))
        duration_s = run_length_s(bench, top, 20_000)
        found = []
        for seed in bench.seeds:
            found.append(_search(bench, policy, scope, duration_s, seed, top, found[0] if found else None))
            bench.say(f"simulated {policy}, scope {scope}, seed {seed}: {found[-1]:.1f} jobs/s")
        bench.capacities[policy, scope] = found
    return found


def median_capacity(bench: Bench, policy: str, scope: Scope | None = None) -> float:
    """Return the median over the seeds; the service's own scope unless another is given. Units: jobs/s."""
    return statistics.median(simulated_capacity(bench, policy, scope or bench.service.guarantee.scope))


def _search(
    bench: Bench, policy: str, scope: Scope, duration_s: float, seed: int, top: float, around: float | None
) -> float:
    tolerance = bench.options.pick(0.01, 0.03)

    def attainment(load: float) -> float:
        return simulated_run(bench, policy, load, duration_s, seed, scope).attainment

    if around:
        near = highest_load(attainment, 0.94 * around, 1.06 * around, TARGET, tolerance)
        if near.ended == "found":
            return near.load
    return highest_load(attainment, 0.05 * top, top, TARGET, tolerance).load
