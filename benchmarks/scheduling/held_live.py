"""The load that ``edf``, ``mosel`` and ``poise`` carry live on the flagship, at two floors, one worker core."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.load_search import highest_held
from suite.spread import Spread, spread_of

from .cells import Cells
from .common import capacity_rps, open_cells, policies, search, setting_named
from .live_runs import Trial, served_folder, trial
from .plots import Line, Panel, draw_panels
from .settings import Scope, Setting
from .tasks import TARGET

COMPARED = ("edf", "mosel", "poise")
FLOOR_SHARES = (0.75, 0.95)
SCOPE: Scope = "class"
STEP_DOWN = 0.97
"""A load that the repeats do not hold is lowered by this factor once, and repeated."""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's load. Units: jobs/s; ``held``: the median of the repeats at this load attains the target."""

    policy: str
    floor_share: float
    floor: float
    bound_rps: float
    simulated_rps: float
    load_rps: float
    attainment: Spread
    held: bool
    valid: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: seconds."""

    target: float
    scope: str
    slo_s: float
    live: list[Live]
    trials: list[Trial]


def measure(bench: Bench) -> Result:
    """Search each policy's load from its simulated one."""
    cells = open_cells(bench)
    setting = setting_named(bench, "flagship")
    live: list[Live] = []
    trials: list[Trial] = []
    for share in FLOOR_SHARES:
        for policy in policies(bench, COMPARED):
            live.append(_search_live(bench, cells, setting, policy, share, trials))
    result = Result(target=TARGET, scope=SCOPE, slo_s=setting.slo_s, live=live, trials=trials)
    _draw(bench, result)
    return result


def _search_live(
    bench: Bench, cells: Cells, setting: Setting, policy: str, share: float, trials: list[Trial]
) -> Live:
    floor = setting.floor_at(share)
    folder = served_folder(bench, setting.served(floor, SCOPE), f"live-{share:g}")
    simulated = capacity_rps(cells, search(bench, setting, policy, share, SCOPE))
    seed = 100

    def holds(load: float) -> bool:
        nonlocal seed
        seed += 1
        trials.append(trial(bench, cells, folder, policy, load, seed))
        return trials[-1].attainment >= TARGET

    load = highest_held(
        holds, simulated, tolerance=bench.options.pick(0.03, 0.1), most=int(bench.options.pick(7, 3))
    )
    attainment, held, valid = spread_of([trials[-1].attainment]), False, trials[-1].valid
    for step in range(2 if load else 0):
        load *= STEP_DOWN if step else 1.0
        repeats = [
            trial(bench, cells, folder, policy, load, 200 + 10 * step + at)
            for at in range(int(bench.options.pick(3, 1)))
        ]
        trials += repeats
        attainment = spread_of(t.attainment for t in repeats)
        held = statistics.median(t.attainment for t in repeats) >= TARGET
        valid = all(t.valid for t in repeats)
        if held:
            break
    return Live(
        policy=policy,
        floor_share=share,
        floor=floor,
        bound_rps=setting.bound_rps(floor, SCOPE),
        simulated_rps=simulated,
        load_rps=load,
        attainment=attainment,
        held=held,
        valid=valid,
    )


def _draw(bench: Bench, result: Result) -> None:
    panels = [
        Panel(
            title=f"floor at {share:.0%} of the range",
            x_label="load, jobs/s",
            y_label="attainment, %",
            lines=tuple(
                line
                for each in result.live
                if each.floor_share == share
                for line in _lines(result.trials, each)
            ),
            mark_y=100 * result.target,
        )
        for share in dict.fromkeys(each.floor_share for each in result.live)
    ]
    title = "Live trials of the search (solid), and the same jobs simulated (dashed)"
    draw_panels(bench.options.results / "held_live.png", title, panels, columns=len(panels))


def _lines(trials: list[Trial], each: Live) -> list[Line]:
    own = sorted(
        (t for t in trials if (t.policy, t.floor) == (each.policy, each.floor)),
        key=lambda t: t.load_rps,
    )
    return [
        Line(each.policy, [(t.load_rps, 100 * t.attainment) for t in own]),
        Line(each.policy, [(t.load_rps, 100 * t.simulated_attainment) for t in own], dashed=True),
    ]


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table, poise's ratios, and the trials."""
    yield Grid(
        f"Load held live with {result.target:.0%} attainment, jobs/s: flagship, SLO {result.slo_s * 1e3:.0f} ms, one "
        f"worker core, floor held by the {result.scope}",
        ["floor", "policy", "fluid bound", "simulated", "of bound", "live", "of bound", "live attainment"],
        [
            [
                f"{each.floor_share:.0%}: {each.floor:.4f}",
                each.policy,
                f"{each.bound_rps:.0f}",
                f"{each.simulated_rps:.0f}",
                f"{each.simulated_rps / each.bound_rps:.0%}",
                f"{each.load_rps:.0f}" + ("" if each.held else "*") + ("" if each.valid else "†"),
                f"{each.load_rps / each.bound_rps:.0%}",
                each.attainment.text(".1%"),
            ]
            for each in result.live
        ],
        note="*: the median of the repeats is below the target; †: the generator did not keep up in one of them.",
    )
    loads = {(each.floor_share, each.policy): each.load_rps for each in result.live}
    shares = list(dict.fromkeys(each.floor_share for each in result.live))
    others = [p for p in ("edf", "mosel") if any(each.policy == p for each in result.live)]
    yield Grid(
        "poise live, against the others live",
        ["floor", *(f"to {other}" for other in others)],
        [
            [
                f"{share:.0%}",
                *(
                    f"{loads[share, 'poise'] / loads[share, other]:.2f}" if loads[share, other] else "–"
                    for other in others
                ),
            ]
            for share in shares
        ],
    )
    yield trials_grid("Live trials, and the same jobs simulated", result.trials)


def trials_grid(title: str, trials: list[Trial]) -> Grid:
    """Return the trials one by one."""
    return Grid(
        title,
        [
            "policy", "floor", "jobs/s", "attainment", "simulated", "charged", "late", "refused", "accuracy",
            "simulated", "p99 ms", "front end µs", "others", "valid",
        ],
        [
            [
                t.policy,
                f"{t.floor:.4f}",
                f"{t.load_rps:.1f}",
                f"{t.attainment:.2%}",
                f"{t.simulated_attainment:.2%}",
                f"{t.charged_attainment:.2%}",
                f"{t.late}",
                f"{t.refused}",
                f"{t.mean_accuracy:.4f}",
                f"{t.simulated_accuracy:.4f}",
                f"{t.p99_latency_s * 1e3:.0f}",
                f"{t.front_end_s * 1e6:.0f}",
                f"{t.others_cores:.2f}",
                ("yes" if t.valid else "no") + (", 2nd try" if t.again else ""),
            ]
            for t in trials
        ],
        detail=True,
    )  # fmt: skip
