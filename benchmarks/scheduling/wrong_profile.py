"""What a wrong profile costs, and what calibration gives back. Simulated.

``error``: batches really take 0.5 to 2 times what the profile says. The reference is a profile that says so: the same
latencies, known. ``slow``: one of two workers takes twice as long from the middle of the run on.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.spread import Spread, spread_of

from .common import capacity_rps, length_s, open_cells, policies, search, seeds, setting_named
from .plots import Line, Panel, draw_panels
from .settings import Scope
from .tasks import SETTLING_BATCHES, Answer, Run, Sample, Wrong

ERRORS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0)
QUICK_ERRORS = (0.5, 2.0)
SLOW = 2.0
LOAD = 0.9
"""Of what poise carries with the right profile, over the error."""
SLOW_LOAD = 0.9
"""Of 1.5 such workers."""
FLOOR_SHARE = 0.75
SCOPE: Scope = "class"
COMPARED = ("edf", "cheapest", "poise")
GOAL = 0.99
"""Of the right profile's attainment, once settled."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A policy with an error, or with a worker that slows. Units: jobs/s.

    ``settling``: jobs that arrive before the 50th batch (after the worker slowed) is done; ``settled``: those after
    them; ``right``: the same jobs with a profile that is right.
    """

    policy: str
    kind: str
    error: float
    calibrate: bool
    load_rps: float
    settling: Spread | None
    settled: Spread
    settled_accuracy: float
    right: float | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: jobs/s."""

    floor: float
    capacity_rps: float
    settling_batches: int
    points: list[Point]


def measure(bench: Bench) -> Result:
    """Simulate errors, then a slow worker; each with and without calibration."""
    cells = open_cells(bench)
    setting = setting_named(bench, "flagship")
    capacity = capacity_rps(cells, search(bench, setting, "poise", FLOOR_SHARE, SCOPE))
    errors = QUICK_ERRORS if bench.options.quick else ERRORS
    wrong: dict[tuple[str, str, float, bool], Wrong] = {}
    right: dict[tuple[str, float], Sample] = {}
    for policy in policies(bench, COMPARED):
        for error in errors:
            load = round(LOAD * capacity / error, 4)
            common = {
                "setting": setting.name,
                "policy": policy,
                "floor_share": FLOOR_SHARE,
                "scope": SCOPE,
                "seeds": seeds(bench),
                "load_rps": load,
                "duration_s": length_s(bench, setting, load),
            }
            right[policy, error] = msgspec.convert({"type": "Sample", **common, "scale": error}, Sample)
            for calibrate in (True, False):
                wrong[policy, "error", error, calibrate] = msgspec.convert(
                    {"type": "Wrong", **common, "error": error, "calibrate": calibrate}, Wrong
                )
        load = round(SLOW_LOAD * 1.5 * capacity, 4)
        for calibrate in (True, False):
            wrong[policy, "slow worker", SLOW, calibrate] = Wrong(
                setting=setting.name,
                policy=policy,
                floor_share=FLOOR_SHARE,
                scope=SCOPE,
                seeds=seeds(bench),
                cores=2,
                load_rps=load,
                duration_s=2 * length_s(bench, setting, load),
                calibrate=calibrate,
                slow=SLOW,
            )
    answers = cells.run([*wrong.values(), *right.values()])
    points = [
        _point(
            key, task.load_rps, answers[task], answers[right[key[0], key[2]]] if key[1] == "error" else None
        )
        for key, task in wrong.items()
    ]
    result = Result(
        floor=setting.floor_at(FLOOR_SHARE),
        capacity_rps=capacity,
        settling_batches=SETTLING_BATCHES,
        points=points,
    )
    _draw(bench, result)
    return result


def _point(key: tuple[str, str, float, bool], load: float, found: Answer, right: Answer | None) -> Point:
    policy, kind, error, calibrate = key
    settling = _attainments(found.runs, "settling")
    settled = [run.parts["settled"] for run in found.runs if "settled" in run.parts]
    return Point(
        policy=policy,
        kind=kind,
        error=error,
        calibrate=calibrate,
        load_rps=load,
        settling=spread_of(settling) if settling else None,
        settled=spread_of(f.attainment for f in settled),
        settled_accuracy=statistics.median(f.mean_accuracy for f in settled),
        right=None if right is None else statistics.median(r.whole.attainment for r in right.runs),
    )


def _attainments(runs: Sequence[Run], part: str) -> list[float]:
    return [run.parts[part].attainment for run in runs if part in run.parts]


def _draw(bench: Bench, result: Result) -> None:
    panels = []
    for policy in dict.fromkeys(p.policy for p in result.points):
        own = [p for p in result.points if p.policy == policy and p.kind == "error"]
        panels.append(
            Panel(
                title=policy,
                x_label="real latency, as a multiple of the profile's",
                y_label="attainment once settled, %",
                lines=(
                    Line("calibrated", [(p.error, 100 * p.settled.median) for p in own if p.calibrate]),
                    Line(
                        "not calibrated",
                        [(p.error, 100 * p.settled.median) for p in own if not p.calibrate],
                        True,
                    ),
                    Line("right profile", [(p.error, 100 * (p.right or 0)) for p in own if p.calibrate]),
                ),
            )
        )
    title = f"A wrong profile, at {LOAD:g} of poise's capacity, simulated: floor {result.floor:.4f}"
    draw_panels(bench.options.results / "wrong_profile.png", title, panels, columns=len(panels))


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    rows = []
    for p in result.points:
        share = p.settled.median / p.right if p.right else None
        missed = share is not None and p.calibrate and share < GOAL
        rows.append(
            [
                p.policy,
                f"× {p.error:g}" if p.kind == "error" else f"one of two workers × {p.error:g}",
                "yes" if p.calibrate else "no",
                f"{p.load_rps:.0f}",
                p.settling.text(".1%") if p.settling else "–",
                p.settled.text(".1%"),
                f"{p.settled_accuracy:.4f}",
                "–" if p.right is None else f"{p.right:.1%}",
                "–" if share is None else f"{share:.1%}" + (" †" if missed else ""),
            ]
        )
    yield Grid(
        f"A wrong profile: flagship, floor {result.floor:.4f} held by the class",
        [
            "policy", "latencies", "calibrated", "jobs/s", f"first {result.settling_batches} batches",
            "attainment after", "accuracy after", "with the right profile", "of that",
        ],
        rows,
        note=f"Load: {LOAD:g} of poise's capacity of {result.capacity_rps:.0f} jobs/s, over the error; of 1.5 workers, "
        f"where one of two slows. †: calibrated, and below {GOAL:.0%} of what the right profile attains.",
    )  # fmt: skip
