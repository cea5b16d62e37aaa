"""The load that each policy carries with 99 % attainment and the floor kept, beside the fluid bound. Simulated."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.spread import Spread, spread_of

from poise.scheduling.policies import POLICIES

from .common import ORDER, open_cells, policies, search, settings
from .plots import Line, Panel, draw_panels
from .settings import SCOPES
from .tasks import TARGET

GOAL = 0.85
"""The share of the fluid bound that poise is to carry."""

MOST_PLANNED_RPS = 2000


class Bound(msgspec.Struct, frozen=True):
    """The fluid bound of a setting at a floor. Units: jobs/s."""

    setting: str
    scope: str
    floor_share: float
    floor: float
    bound_rps: float


class Held(msgspec.Struct, frozen=True):
    """What a policy carries there. Units: jobs/s; ``share`` of the bound."""

    setting: str
    scope: str
    floor_share: float
    policy: str
    load_rps: Spread
    share: float


class Declared(msgspec.Struct, frozen=True):
    """A setting in a line. Units: seconds, jobs/s."""

    setting: str
    slo_s: float
    item_s: float
    mean_items: float
    all_modalities_rps: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``absent``: policies and settings that were left out since they are not there."""

    target: float
    settings: list[Declared]
    bounds: list[Bound]
    held: list[Held]
    absent: list[str]


def measure(bench: Bench) -> Result:
    """Search every policy's load at every floor, in both scopes, on every setting."""
    cells = open_cells(bench)
    known = settings(bench)
    present = policies(bench)
    places = [
        (setting, scope, share)
        for setting in known
        for scope in SCOPES
        for share in (setting.floors[-1:] if bench.options.quick else setting.floors)
    ]
    tasks = {
        (setting.name, scope, share, policy): search(bench, setting, policy, share, scope)
        for setting, scope, share in places
        for policy in present
        if not _too_many(policy, setting.bound_rps(setting.floor_at(share), scope))
    }
    answers = cells.run(tasks.values())
    bounds, held = [], []
    for setting, scope, share in places:
        floor = setting.floor_at(share)
        bound = setting.bound_rps(floor, scope)
        bounds.append(Bound(setting.name, scope, share, floor, bound))
        for policy in present:
            if (setting.name, scope, share, policy) not in tasks:
                continue
            loads = spread_of(answers[tasks[setting.name, scope, share, policy]].loads_rps)
            held.append(Held(setting.name, scope, share, policy, loads, loads.median / bound))
    result = Result(
        target=TARGET,
        settings=[
            Declared(
                s.name,
                s.slo_s,
                s.best_s(1),
                sum(n * p for n, p in s.sizes.items()),
                s.all_modalities_rps,
            )
            for s in known
        ],
        bounds=bounds,
        held=held,
        absent=[p for p in ORDER if p not in present] + ([] if bench.sensors else ["sensors"]),
    )
    _draw(bench, result)
    return result


def _too_many(policy: str, bound_rps: float) -> bool:
    """Whether a policy goes through the whole queue at each step, and thousands of jobs may wait: that takes hours."""
    return bound_rps > MOST_PLANNED_RPS and (POLICIES[policy].plans_ahead or policy == "slackfit")


def _draw(bench: Bench, result: Result) -> None:
    for scope in SCOPES:
        panels = [
            Panel(
                title=declared.setting,
                x_label="floor, % of the range of accuracies",
                y_label="load held, % of the fluid bound",
                lines=tuple(_line(result, declared.setting, scope, policy) for policy in _names(result)),
                mark_y=100 * GOAL,
            )
            for declared in result.settings
        ]
        title = (
            f"Load held with {result.target:.0%} attainment, floor held by the {scope}, simulated, one worker"
        )
        draw_panels(bench.options.results / f"held_{scope}.png", title, panels, columns=4)


def _line(result: Result, setting: str, scope: str, policy: str) -> Line:
    own = [h for h in result.held if (h.setting, h.scope, h.policy) == (setting, scope, policy)]
    return Line(policy, [(100 * h.floor_share, 100 * h.share) for h in own])


def _names(result: Result) -> list[str]:
    return list(dict.fromkeys(h.policy for h in result.held))


def grids(result: Result) -> Iterator[Grid]:
    """Yield a table of the settings, then one for each setting, then poise's ratios."""
    yield Grid(
        "The settings",
        [
            "setting",
            "SLO, ms",
            "batch 1, all modalities, ms",
            "items in a job",
            "all modalities at most, jobs/s",
        ],
        [
            [
                s.setting,
                f"{s.slo_s * 1e3:.0f}",
                f"{s.item_s * 1e3:.2f}",
                f"{s.mean_items:.2f}",
                f"{s.all_modalities_rps:.1f}",
            ]
            for s in result.settings
        ],
        note=f"Left out, since not there: {', '.join(result.absent)}." if result.absent else "",
    )
    for declared in result.settings:
        yield _table(result, declared.setting)
    yield _ratios(result)


def _table(result: Result, setting: str) -> Grid:
    bounds = [b for b in result.bounds if b.setting == setting]
    columns = [(b.scope, b.floor_share) for b in bounds]
    by_place = {(h.scope, h.floor_share, h.policy): h for h in result.held if h.setting == setting}
    rows = [
        ["floor", *(f"{b.floor:.4f}" for b in bounds)],
        ["fluid bound", *(_rate(b.bound_rps) for b in bounds)],
    ]
    for policy in _names(result):
        each = [by_place.get((scope, share, policy)) for scope, share in columns]
        rows.append(
            [policy, *("–" if h is None else f"{_rate(h.load_rps.median)} ({h.share:.0%})" for h in each)]
        )
    return Grid(
        f"Load held with {result.target:.0%} attainment, jobs/s (share of the fluid bound): {setting}",
        ["policy", *(f"{share:.0%} {scope}" for scope, share in columns)],
        rows,
        note="Columns: the floor, as a share of the range of the modes' accuracies, and what holds it. Medians of "
        f"{result.held[0].load_rps.runs} seeds. –: not run, since the policy goes through the queue at each step, and "
        f"above {MOST_PLANNED_RPS:g} jobs/s that takes hours.",
    )


def _ratios(result: Result) -> Grid:
    known = {(h.setting, h.scope, h.floor_share, h.policy): h.load_rps.median for h in result.held}
    others = [p for p in ("edf", "cheapest", "mosel") if any(h.policy == p for h in result.held)]
    rows = []
    for b in result.bounds:
        at = (b.setting, b.scope, b.floor_share)
        poise = known.get((*at, "poise"), 0.0)
        best, best_policy = max(
            (load, policy)
            for (*place, policy), load in known.items()
            if tuple(place) == at and policy != "poise"
        )
        rows.append(
            [
                f"{b.setting}, {b.scope}, {b.floor_share:.0%}",
                f"{poise / b.bound_rps:.0%}" + ("" if poise >= GOAL * b.bound_rps else " †"),
                *(
                    f"{poise / known[(*at, other)]:.2f}" if known.get((*at, other)) else "–"
                    for other in others
                ),
                f"{poise / best:.2f} ({best_policy})" if best else "–",
            ]
        )
    shares = statistics.median(h.share for h in result.held if h.policy == "poise")
    return Grid(
        "poise against the bound and the others",
        ["setting", "of the bound", *(f"to {other}" for other in others), "to the best other"],
        rows,
        note=f"†: below the goal of {GOAL:.0%}. The median share is {shares:.0%}. The bound knows no queueing and lets "
        "every batch be full: with deadlines of one or two batches' length it cannot be reached.",
    )


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
