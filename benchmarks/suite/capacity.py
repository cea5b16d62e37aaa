"""The highest load at which 99 % of the jobs attain: live, simulated, and against the fluid bound."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import msgspec

from .bench import Bench
from .fluid_bound import fluid_bound_rps
from .grid import Grid
from .live import send_poisson
from .load_search import highest_held
from .simulated import (
    POLICIES,
    SCOPES,
    TARGET,
    bound_rps,
    median_capacity,
    simulated_capacity,
    simulated_run,
)
from .spread import Spread, spread_of

FLOORS_OF_RANGE = (0.5, 0.6, 2 / 3, 0.7, 0.8, 0.9, 1.0)
STEP_DOWN = 0.97
"""A load that the repeats do not hold is lowered by this factor, and repeated."""
MOST_STEPS_DOWN = 2


class Simulated(msgspec.Struct, frozen=True):
    """A policy's simulated capacity in one scope. Units: jobs/s; ``share`` of the scope's fluid bound."""

    policy: str
    scope: str
    load_rps: Spread
    share: float


class Trial(msgspec.Struct, frozen=True):
    """One live run, and the same jobs simulated. Units: jobs/s, seconds; shares of one core.

    ``others_cores``: cores that everything else on the machine took meanwhile, on average.
    ``late``, ``refused``, ``below_floor``: jobs that did not attain, by what became of them; ``below_floor`` are those
    in time that are left out for the mean of the others to reach the floor.
    ``valid``: whether the generator kept up; ``again``: it did not at first, and this is the second try.
    """

    policy: str
    purpose: str
    load_rps: float
    seed: int
    duration_s: float
    attainment: float
    simulated_attainment: float
    mean_accuracy: float
    simulated_accuracy: float
    served_accuracy: float | None
    p99_latency_s: float
    front_end_frac: float
    generator_frac: float
    others_cores: float
    late: int
    refused: int
    below_floor: int
    valid: bool
    reasons: list[str]
    again: bool


class Live(msgspec.Struct, frozen=True):
    """A policy's live capacity. ``held``: the median of the repeats at this load attains the target."""

    policy: str
    load_rps: float
    share: float
    attainment: Spread
    held: bool
    valid: bool


class Bound(msgspec.Struct, frozen=True):
    """The fluid bound at another floor: at ``of_range`` of the modes' accuracies. Units: jobs/s."""

    of_range: float
    floor: float
    bound_rps: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: seconds, jobs/s; ``bound_rps`` by guarantee scope; ``ratio_*``: poise over edf."""

    service: str
    slo_s: float
    floor: float
    target: float
    live_scope: str
    all_modalities_rps: float
    bounds: list[Bound]
    bound_rps: dict[str, float]
    simulated: list[Simulated]
    live: list[Live]
    ratio_simulated: float
    ratio_live: float | None
    trials: list[Trial]


def measure(bench: Bench) -> Result:
    """Search in virtual time first, then live from there."""
    bounds: dict[str, float] = {scope: bound_rps(bench, scope) for scope in SCOPES}
    simulated = []
    for scope in SCOPES:
        for policy in POLICIES:
            loads = spread_of(simulated_capacity(bench, policy, scope))
            simulated.append(Simulated(policy, scope, loads, loads.median / bounds[scope]))
    scope = bench.service.guarantee.scope
    trials: list[Trial] = []
    live = [_search_live(bench, policy, bounds[scope], trials) for policy in POLICIES]
    medians = {policy: median_capacity(bench, policy) for policy in POLICIES}
    found = {each.policy: each.load_rps for each in live}
    bench.live_capacity_rps = {policy: load for policy, load in found.items() if load}
    low, high = min(bench.plans.expected_accuracy), max(bench.plans.expected_accuracy)
    floors = [(share, min(high, round(low + share * (high - low), 3))) for share in FLOORS_OF_RANGE]
    return Result(
        service=bench.service.service,
        slo_s=bench.slo_s,
        floor=bench.floor,
        target=TARGET,
        live_scope=scope,
        all_modalities_rps=bench.all_modalities_rps,
        bounds=[
            Bound(share, floor, fluid_bound_rps(bench.mean_model, bench.slo_s, floor))
            for share, floor in floors
        ],
        bound_rps=bounds,
        simulated=simulated,
        live=live,
        ratio_simulated=medians["poise"] / medians["edf"],
        ratio_live=found["poise"] / found["edf"] if found["edf"] else None,
        trials=trials,
    )


def _search_live(bench: Bench, policy: str, bound: float, trials: list[Trial]) -> Live:
    """Find the load, then repeat it with other seeds, and lower it while the median does not attain."""

    def holds(load: float) -> bool:
        trials.append(_trial(bench, policy, load, 100 + len(trials), "search"))
        return trials[-1].attainment >= TARGET

    load = highest_held(
        holds,
        median_capacity(bench, policy),
        tolerance=bench.options.pick(0.03, 0.1),
        most=int(bench.options.pick(8, 4)),
    )
    if not load:
        lowest = min((t for t in trials if t.policy == policy), key=lambda trial: trial.load_rps)
        return Live(policy, 0.0, 0.0, spread_of([lowest.attainment]), False, lowest.valid)
    for step in range(1 + MOST_STEPS_DOWN):
        if step:
            load *= STEP_DOWN
        repeats = [
            _trial(bench, policy, load, 200 + 10 * step + at, "repeat")
            for at in range(max(2, bench.options.repeats))
        ]
        trials += repeats
        held = statistics.median(t.attainment for t in repeats) >= TARGET
        if held:
            break
    attainment = spread_of(t.attainment for t in repeats)
    return Live(policy, load, load / bound, attainment, held, all(t.valid for t in repeats))


def _trial(bench: Bench, policy: str, load: float, seed: int, purpose: str) -> Trial:
    """Run one load live, once more if the generator did not keep up, and simulate the same jobs."""
    duration_s = round(max(bench.options.pick(12, 4), bench.options.pick(1300, 150) / load), 1)
    sent = send_poisson(bench, policy, load, duration_s, seed)
    again = not sent.report.generator.valid
    if again:
        sent = send_poisson(bench, policy, load, duration_s, seed)
    report = sent.report
    twin = simulated_run(bench, policy, load, duration_s, seed)
    bench.say(
        f"live {policy} at {load:.1f} jobs/s: attainment {report.run.attainment:.2%} (simulated "
        f"{twin.attainment:.2%}){'' if report.generator.valid else ', the generator did not keep up'}"
    )
    return Trial(
        policy=policy,
        purpose=purpose,
        load_rps=load,
        seed=seed,
        duration_s=duration_s,
        attainment=report.run.attainment,
        simulated_attainment=twin.attainment,
        mean_accuracy=report.run.mean_accuracy or 0.0,
        simulated_accuracy=twin.mean_accuracy or 0.0,
        served_accuracy=report.run.served_accuracy,
        p99_latency_s=report.run.latency_s.p99 if report.run.latency_s else 0.0,
        front_end_frac=sent.front_end_frac,
        generator_frac=report.generator.cpu_frac,
        others_cores=sent.others_cores,
        late=report.run.late,
        refused=sum(report.run.refused.values()),
        below_floor=report.run.answered - report.run.late - report.run.attained,
        valid=report.generator.valid,
        reasons=report.generator.reasons,
        again=again,
    )


def grids(result: Result) -> Iterator[Grid]:
    """Yield the summary and the live trials."""
    live = {each.policy: each for each in result.live}
    rows = []
    for each in result.simulated:
        own = live[each.policy] if each.scope == result.live_scope else None
        rows.append(
            [
                each.policy,
                each.scope,
                f"{result.bound_rps[each.scope]:.0f}",
                each.load_rps.text(".0f"),
                f"{each.share:.1%}",
                _load(own) if own else "",
                f"{own.share:.1%}" if own and own.load_rps else "",
                own.attainment.text(".1%") if own else "",
            ]
        )
    ratio = "–" if result.ratio_live is None else f"{result.ratio_live:.1f}"
    rows.append(["poise / edf", result.live_scope, "", f"{result.ratio_simulated:.1f}", "", ratio, "", ""])
    yield Grid(
        f"Highest load with {result.target:.0%} attainment, jobs/s: {result.service}, SLO "
        f"{result.slo_s * 1e3:g} ms, accuracy floor {result.floor:.3f}, Poisson arrivals, one worker core",
        [
            "policy",
            "floor held by",
            "fluid bound",
            "simulated",
            "of bound",
            "live",
            "of bound",
            "live attainment",
        ],
        rows,
        note="All modalities for every item, without queueing, would be "
        f"{result.all_modalities_rps:.0f} jobs/s. Live attainment: the repeats at that load. "
        "Jobs that miss count in the load, and what waits at the end is still served: a share may be a little above "
        "100 %. *: the median of the repeats is below the target; †: the generator did not keep up in a repeat.",
    )
    yield Grid(
        "The fluid bound at other floors, held by the class",
        ["of the range of accuracies", *(f"{b.of_range:.0%}" for b in result.bounds)],
        [
            ["floor", *(f"{b.floor:.3f}" for b in result.bounds)],
            ["fluid bound, jobs/s", *(f"{b.bound_rps:.0f}" for b in result.bounds)],
            [
                "to all modalities",
                *(f"{b.bound_rps / result.bounds[-1].bound_rps:.1f}" for b in result.bounds),
            ],
        ],
    )
    yield Grid(
        "Live trials, and the same jobs simulated",
        [
            "policy", "", "jobs/s", "attainment", "simulated", "late", "refused", "below floor", "accuracy",
            "simulated", "p99 ms", "front end", "generator", "others", "valid",
        ],
        [
            [
                t.policy,
                t.purpose,
                f"{t.load_rps:.1f}",
                f"{t.attainment:.2%}",
                f"{t.simulated_attainment:.2%}",
                f"{t.late}",
                f"{t.refused}",
                f"{t.below_floor}",
                f"{t.mean_accuracy:.4f}",
                f"{t.simulated_accuracy:.4f}",
                f"{t.p99_latency_s * 1e3:.0f}",
                f"{t.front_end_frac:.0%}",
                f"{t.generator_frac:.0%}",
                f"{t.others_cores:.2f}",
                ("yes" if t.valid else "no") + (", 2nd try" if t.again else ""),
            ]
            for t in result.trials
        ],
        note="Front end and generator: shares of a core. Others: cores taken by everything else on the machine.",
        detail=True,
    )  # fmt: skip


def _load(live: Live) -> str:
    if not live.load_rps:
        return "none held"
    return f"{live.load_rps:.0f}" + ("" if live.held else "*") + ("" if live.valid else "†")
