"""Several classes on one worker, simulated: a burst of one; long batches of one beside short deadlines of the other.

``burst``: on the flagship, an interactive class, and a background class with four times the SLO and a lower floor. In
the middle third of the run more than the whole capacity arrives for the background class in addition.
``blocking``: a full batch takes 400 ms, jobs of the urgent class are due after 100 ms, those of the bulk class after
two seconds; alone, the urgent class is a light load.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.spread import Spread, spread_of

from .common import length_s, open_cells, policies, seeds, setting_named
from .plots import Line, Panel, draw_panels
from .settings import Scope, Setting, blocking
from .tasks import TenantClass, Tenants

SCOPE: Scope = "class"
NAMES = ("burst", "blocking")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A class under a policy, alone or undisturbed (``without``), and disturbed (``disturbed``) by the other.

    ``floor_kept``: its mean accuracy is at its floor in the median seed, when disturbed.
    """

    scenario: str
    policy: str
    slo_class: str
    load_rps: float
    floor: float
    without: Spread | None
    disturbed: Spread
    in_burst: Spread | None
    mean_accuracy: Spread
    floor_kept: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: seconds, jobs/s. ``classes`` by scenario."""

    scope: str
    classes: dict[str, list[TenantClass]]
    parts: list[Part]


def measure(bench: Bench) -> Result:
    """Simulate both scenarios with and without the disturbance, for all policies."""
    cells = open_cells(bench)
    tasks: dict[tuple[str, str, bool], Tenants] = {}
    scenarios = {"burst": _burst(setting_named(bench, "flagship")), "blocking": _blocking(blocking())}
    settings = {"burst": setting_named(bench, "flagship"), "blocking": blocking()}
    for scenario, classes in scenarios.items():
        setting = settings[scenario]
        load = sum(each.load_rps for each in classes)
        third_s = max(bench.options.pick(20, 5), length_s(bench, setting, load))
        for policy in policies(bench):
            for disturbed in (False, True):
                tasks[scenario, policy, disturbed] = Tenants(
                    setting=setting.name,
                    policy=policy,
                    floor_share=0.0,
                    scope=SCOPE,
                    seeds=seeds(bench),
                    classes=tuple(classes if disturbed else _undisturbed(scenario, classes)),
                    duration_s=3 * third_s,
                    burst_from_s=third_s,
                    burst_to_s=2 * third_s,
                )
    answers = cells.run(tasks.values())
    parts = []
    for (scenario, policy, disturbed), task in tasks.items():
        if not disturbed:
            continue
        calm = answers[tasks[scenario, policy, False]].runs
        runs = answers[task].runs
        for each in scenarios[scenario]:
            name = each.name
            accuracy = spread_of(run.parts[name].mean_accuracy for run in runs)
            floor = settings[scenario].floor_at(each.floor_share)
            undisturbed = [run.parts[name].attainment for run in calm if name in run.parts]
            meanwhile = [run.parts[f"{name}, burst"].attainment for run in runs]
            parts.append(
                Part(
                    scenario=scenario,
                    policy=policy,
                    slo_class=name,
                    load_rps=each.load_rps,
                    floor=floor,
                    without=spread_of(undisturbed) if undisturbed else None,
                    disturbed=spread_of(run.parts[name].attainment for run in runs),
                    in_burst=spread_of(meanwhile) if scenario == "burst" else None,
                    mean_accuracy=accuracy,
                    floor_kept=accuracy.median >= floor - 1e-9,
                )
            )
    result = Result(scope=SCOPE, classes=scenarios, parts=parts)
    _draw(bench, result)
    return result


def _burst(setting: Setting) -> list[TenantClass]:
    high, low = (setting.bound_rps(setting.floor_at(share), SCOPE) for share in (0.75, 0.7))
    return [
        TenantClass("interactive", setting.slo_s, 0.75, 2.0, round(0.4 * high, 3)),
        TenantClass("background", 4 * setting.slo_s, 0.7, 1.0, round(0.3 * low, 3), round(1.2 * low, 3)),
    ]


def _blocking(setting: Setting) -> list[TenantClass]:
    bound = setting.bound_rps(setting.floor_at(0.25), SCOPE)
    return [
        TenantClass("urgent", 0.1, 0.25, 2.0, 2.0),
        TenantClass("bulk", setting.slo_s, 0.25, 1.0, round(0.6 * bound, 3)),
    ]


def _undisturbed(scenario: str, classes: list[TenantClass]) -> list[TenantClass]:
    """Return the classes without the burst, or with the urgent one alone."""
    if scenario == "burst":
        return [msgspec.structs.replace(each, burst_rps=0.0) for each in classes]
    return [msgspec.structs.replace(each, load_rps=0.0) if each.name == "bulk" else each for each in classes]


def _draw(bench: Bench, result: Result) -> None:
    panels = []
    for scenario in NAMES:
        for slo_class in dict.fromkeys(p.slo_class for p in result.parts if p.scenario == scenario):
            own = [p for p in result.parts if (p.scenario, p.slo_class) == (scenario, slo_class)]
            panels.append(
                Panel(
                    title=f"{scenario}: {slo_class}",
                    x_label="the disturbance",
                    x_names=("without", "with"),
                    y_label="attainment, %",
                    lines=tuple(
                        Line(
                            p.policy,
                            [
                                *([(0.0, 100 * p.without.median)] if p.without else []),
                                (1.0, 100 * p.disturbed.median),
                            ],
                        )
                        for p in own
                    ),
                )
            )
    draw_panels(
        bench.options.results / "tenants.png", "Several classes on one worker, simulated", panels, columns=4
    )


def grids(result: Result) -> Iterator[Grid]:
    """Yield a table for each scenario."""
    for scenario in NAMES:
        classes = "; ".join(
            f"{c.name}: SLO {c.slo_s * 1e3:.0f} ms, floor at {c.floor_share:.0%} of the range, weight {c.weight:g}, "
            f"{c.load_rps:.1f} jobs/s" + (f", in its burst {c.burst_rps:.1f} more" if c.burst_rps else "")
            for c in result.classes[scenario]
        )
        yield Grid(
            f"Several classes on one worker: {scenario}",
            [
                "policy",
                "class",
                "without",
                "with",
                "in the burst",
                "change, points",
                "accuracy",
                "floor",
                "kept",
            ],
            [
                [
                    p.policy,
                    p.slo_class,
                    f"{p.without.median:.1%}" if p.without else "–",
                    p.disturbed.text(".1%"),
                    f"{p.in_burst.median:.1%}" if p.in_burst else "–",
                    f"{(p.disturbed.median - p.without.median) * 100:+.1f}" if p.without else "–",
                    f"{p.mean_accuracy.median:.4f}",
                    f"{p.floor:.4f}",
                    "yes" if p.floor_kept else "no",
                ]
                for p in result.parts
                if p.scenario == scenario
            ],
            note=f"Attainment. {classes}. Floors are held by the {result.scope}.",
        )
