"""Live against simulated on the demo service, at three loads; at one of them live attainment is 90 to 97 %."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from suite.bench import Bench
from suite.grid import Grid
from suite.simulated import bound_rps
from suite.spread import Spread, spread_of

from poise.simulation.search import highest_load
from poise.simulation.simulate import simulate

from .cells import Cells
from .common import open_cells, policies
from .held_live import trials_grid
from .live_runs import Trial, poisson_draws, trial
from .plots import Line, Panel, draw_panels
from .tasks import TARGET

COMPARED = ("edf", "poise")
FACTORS = (0.5, 0.8)
"""The two lower loads, as multiples of the simulated capacity."""
BAND = (0.90, 0.97)
"""Live attainment at the third load."""
MOST_TRIES = 8
ATTAINMENT_POINTS, ACCURACY_POINTS = 2.0, 0.5
"""How far live and simulated may lie apart."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A policy at a load: medians over the repeats' runs, live and simulated. Units: jobs/s.

    ``charged``: simulated with the front end's measured time for each job. ``in_band``: the load was searched for, and
    live attainment is in the band.
    """

    policy: str
    load_rps: float
    searched: bool
    in_band: bool
    live: Spread
    simulated: Spread
    charged: Spread
    live_accuracy: Spread
    simulated_accuracy: Spread
    charged_accuracy: Spread


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: seconds, jobs/s; ``capacity_rps`` simulated, by policy."""

    service: str
    slo_s: float
    floor: float
    capacity_rps: dict[str, float]
    compared: list[Compared]
    trials: list[Trial]


def measure(bench: Bench) -> Result:
    """Run the demo service live at each load, and simulate the same jobs."""
    cells = open_cells(bench)
    compared: list[Compared] = []
    trials: list[Trial] = []
    capacities: dict[str, float] = {}
    for policy in policies(bench, COMPARED):
        capacity = capacities[policy] = _capacity(bench, cells, policy)
        for factor in FACTORS:
            compared.append(_compare(bench, cells, policy, round(factor * capacity, 2), False, trials))
        load = _load_in_band(bench, cells, policy, capacity, trials)
        compared.append(_compare(bench, cells, policy, load, True, trials))
    result = Result(
        service=bench.service.service,
        slo_s=bench.slo_s,
        floor=bench.service.classes[bench.service.default_class].accuracy_floor,
        capacity_rps=capacities,
        compared=compared,
        trials=trials,
    )
    _draw(bench, result)
    return result


def _capacity(bench: Bench, cells: Cells, policy: str) -> float:
    """Return the simulated capacity of the service as it is."""
    service, profile = bench.service, bench.profile

    def search() -> float:
        def attainment(load: float) -> float:
            duration_s = max(20.0, 4000 / load)
            jobs = poisson_draws(service, load, duration_s, 1)
            return simulate(
                service, profile, jobs, duration_s=duration_s, policy=policy, seed=1
            ).report.attainment

        top = 1.2 * (bench.all_modalities_rps if policy == "edf" else bound_rps(bench, "class"))
        return highest_load(attainment, 0.05 * top, top, TARGET, 0.02).load

    return cells.once(f"capacity {policy} {bench.options.quick}", float, search)


def _load_in_band(bench: Bench, cells: Cells, policy: str, start: float, trials: list[Trial]) -> float:
    """Return a load at which one live run attains within the band, else the one that came nearest."""
    middle = sum(BAND) / 2
    low, high, load = 0.0, 0.0, start
    tried: list[tuple[float, float]] = []
    for at in range(int(bench.options.pick(MOST_TRIES, 3))):
        run = trial(bench, cells, bench.folder, policy, round(load, 2), 400 + at)
        trials.append(run)
        tried.append((abs(run.attainment - middle), round(load, 2)))
        if BAND[0] <= run.attainment <= BAND[1]:
            break
        if run.attainment > BAND[1]:
            low = load
            load = (low + high) / 2 if high else load * 1.06
        else:
            high = load
            load = (low + high) / 2 if low else load * 0.94
    return min(tried)[1]


def _compare(
    bench: Bench, cells: Cells, policy: str, load: float, searched: bool, trials: list[Trial]
) -> Compared:
    runs = [
        trial(bench, cells, bench.folder, policy, load, 300 + at)
        for at in range(int(bench.options.pick(3, 1)))
    ]
    trials += runs
    live = spread_of(r.attainment for r in runs)
    return Compared(
        policy=policy,
        load_rps=load,
        searched=searched,
        in_band=BAND[0] <= live.median <= BAND[1],
        live=live,
        simulated=spread_of(r.simulated_attainment for r in runs),
        charged=spread_of(r.charged_attainment for r in runs),
        live_accuracy=spread_of(r.mean_accuracy for r in runs),
        simulated_accuracy=spread_of(r.simulated_accuracy for r in runs),
        charged_accuracy=spread_of(r.charged_accuracy for r in runs),
    )


def _draw(bench: Bench, result: Result) -> None:
    panels = []
    for policy, capacity in result.capacity_rps.items():
        own = sorted((c for c in result.compared if c.policy == policy), key=lambda c: c.load_rps)
        panels.append(
            Panel(
                title=f"{policy}, simulated capacity {capacity:.0f} jobs/s",
                x_label="load, jobs/s",
                y_label="attainment, %",
                lines=(
                    Line("live", [(c.load_rps, 100 * c.live.median) for c in own]),
                    Line("simulated", [(c.load_rps, 100 * c.simulated.median) for c in own], True),
                    Line(
                        "simulated, front end charged",
                        [(c.load_rps, 100 * c.charged.median) for c in own],
                        True,
                    ),
                ),
            )
        )
    title = f"Live and simulated: {result.service}, floor {result.floor:.3f}"
    draw_panels(bench.options.results / "agreement.png", title, panels, columns=len(panels))


def grids(result: Result) -> Iterator[Grid]:
    """Yield the comparison and the trials."""
    rows = []
    for c in result.compared:
        apart = 100 * (c.live.median - c.simulated.median)
        accuracy_apart = 100 * (c.live_accuracy.median - c.simulated_accuracy.median)
        agree = abs(apart) <= ATTAINMENT_POINTS and abs(accuracy_apart) <= ACCURACY_POINTS
        band = ("" if c.in_band else ", not in the band") if c.searched else ""
        rows.append(
            [
                c.policy,
                f"{c.load_rps:.1f}{band}",
                c.live.text(".1%"),
                c.simulated.text(".1%"),
                f"{apart:+.1f}",
                f"{c.charged.median:.1%}",
                f"{c.live_accuracy.median:.4f}",
                f"{c.simulated_accuracy.median:.4f}",
                f"{accuracy_apart:+.2f}",
                "yes" if agree else "no",
            ]
        )
    yield Grid(
        f"Live against simulated: {result.service}, SLO {result.slo_s * 1e3:.0f} ms, floor {result.floor:.3f}",
        [
            "policy", "jobs/s", "live", "simulated", "apart, points", "front end charged", "accuracy live", "simulated",
            "apart, points", "agree",
        ],
        rows,
        note=f"Agree: attainment within {ATTAINMENT_POINTS:g} points and mean accuracy within {ACCURACY_POINTS:g}. "
        f"The third load is searched for live attainment of {BAND[0]:.0%} to {BAND[1]:.0%}. Front end charged: "
        "simulated with the processor time that the front end took for a job, one job at a time.",
    )  # fmt: skip
    yield trials_grid("Live trials of the comparison", result.trials)
