"""Both decisions at once: variants, cores and modalities, on the flagship with two variants under a growing load.

``poise`` decides variants and modality sets in one programme (E4). It is compared with one after the other (E3 chooses
variants and cores by their best modes, then each variant's workers choose modalities), and with each alone. Simulated,
from a profile that is measured here; eight cores, each as fast as one of this machine's.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from suite.bench import Bench, link_or_copy, poise_command, write_service
from suite.bench import run as run_command
from suite.grid import Grid
from suite.spread import Spread, spread_of

from poise.adapting.policies import Served
from poise.domain.service import Service
from poise.files import ServiceFolder, open_service
from poise.forecasting.burst import Burst
from poise.simulation.adapted import AdaptedRun, simulate_adapted
from poise.simulation.rate_table import build_rate_table
from poise.workload.arrivals import poisson_in_rates
from poise.workload.jobs import JobDraw

CORES = 8
STEP_S = 20
LOADS = (50, 100, 200, 400, 800, 1600, 3200, 4800)
"""Jobs per second of each step of the load."""
SYSTEMS = {
    "poise (E4)": ("poise", "poise", False),
    "E3, then E1": ("infadapter", "poise", False),
    "E3 alone": ("infadapter", "weighted", False),
    "E1 alone": ("static", "poise", True),
}
"""Name -> (allocation policy, scheduling policy, only the first variant)."""
SEEDS = (1, 2, 3)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A system at one step of the load. Shares as shares; units: jobs/s, cores."""

    system: str
    load_rps: float
    attainment: Spread
    accuracy: Spread
    cores: Spread


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; ``floor`` of the class, ``accuracies`` of the two variants' best modes."""

    floor: float
    accuracies: dict[str, float]
    seeds: int
    steps: list[Step]


def measure(bench: Bench) -> Result:
    """Profile the two variants here, then simulate a load that grows step by step."""
    folder = _folder(bench)
    profile = folder.load_profile()
    seeds = SEEDS[: int(bench.options.pick(len(SEEDS), 1))]
    step_s = int(bench.options.pick(STEP_S, 10))
    rates = build_rate_table(folder.service, profile)
    steps = []
    for name, (adapter, policy, first_only) in SYSTEMS.items():
        service = _service(folder.service, adapter, policy, first_only=first_only)
        found: list[AdaptedRun] = []
        for seed in seeds:
            arrivals = poisson_in_rates(
                np.repeat(np.array(LOADS, np.float64), step_s), np.random.default_rng(seed)
            )
            everything = service.modality_index.all
            draws = [
                JobDraw(i, at_s, service.default_class, 1, None, None, everything)
                for i, at_s in enumerate(arrivals.tolist())
            ]
            found.append(
                simulate_adapted(
                    Served(service, profile, rates if adapter == "poise" else None),
                    draws,
                    duration_s=float(step_s * len(LOADS)),
                    adapter=adapter,
                    forecaster=Burst(),
                    seed=seed,
                )
            )
            bench.say(f"{name}, seed {seed}: {found[-1].report.attainment:.1%}")
        steps += [_step(name, found, at, step_s) for at in range(len(LOADS))]
    return Result(
        floor=folder.service.classes[folder.service.default_class].accuracy_floor,
        accuracies={v.name: max(mode.accuracy for mode in v.modes) for v in profile.variants},
        seeds=len(seeds),
        steps=steps,
    )


def _folder(bench: Bench) -> ServiceFolder:
    """Copy the example of two variants, and profile it with one worker."""
    bench.say(f"copying {bench.folder.service.service}")  # its arrays are derived with it
    origin = bench.options.service
    family = open_service(origin / "service-family.yaml")
    target = bench.options.work / "digits-family"
    one_core = msgspec.structs.replace(family.service.budget, cores=1)
    write_service(msgspec.structs.replace(family.service, budget=one_core), target)
    files = [
        path for variant in family.service.variants.values() for path in family.model_files(variant).values()
    ]
    files += [path for path in (family.service.validation, family.service.test) if path]
    files.append(str(Path(family.service.validation or "").with_suffix(".independent.json")))
    for path in files:
        if (origin / path).is_file():
            link_or_copy(origin / path, target / path)
    budget_s = bench.options.pick(90, 20)
    bench.say(f"profiling {family.service.service}, about {budget_s:g} s")
    run_command(poise_command("profile", str(target), "--budget-s", str(budget_s)))
    return open_service(target)


def _service(service: Service, adapter: str, policy: str, *, first_only: bool) -> Service:
    replace = msgspec.structs.replace
    variants = dict(list(service.variants.items())[:1]) if first_only else service.variants
    return replace(
        service,
        variants=variants,
        budget=replace(service.budget, cores=CORES, memory="64GiB"),
        scheduler=replace(service.scheduler, policy=policy),
        adapter=replace(service.adapter, policy=adapter, interval_s=10.0, stabilise=2),
    )


def _step(name: str, runs: list[AdaptedRun], at: int, step_s: int) -> Step:
    parts = [run.beats[at * step_s : (at + 1) * step_s] for run in runs]
    outcomes = [max(1, sum(b.met + b.missed for b in part)) for part in parts]
    items = [max(1, sum(b.answered_items for b in part)) for part in parts]
    return Step(
        system=name,
        load_rps=float(LOADS[at]),
        attainment=spread_of(sum(b.met for b in p) / n for p, n in zip(parts, outcomes, strict=True)),
        accuracy=spread_of(sum(b.accuracy_sum for b in p) / n for p, n in zip(parts, items, strict=True)),
        cores=spread_of(sum(b.cores + b.surge_cores for b in p) / max(1, len(p)) for p in parts),
    )


def grids(result: Result) -> list[Grid]:
    """Return the table: in time %, accuracy % and cores, by load."""
    known = {(step.system, step.load_rps): step for step in result.steps}
    return [
        Grid(
            "Variants, cores and modalities at once: in time % / accuracy % / cores",
            ("jobs/s", *SYSTEMS),
            [
                [f"{load:g}", *(_cell(known[name, load]) for name in SYSTEMS)]
                for load in dict.fromkeys(step.load_rps for step in result.steps)
            ],
            f"Medians of {result.seeds} seeds; floor {result.floor:g}, SLO 250 ms, {CORES} cores; best modes "
            + ", ".join(f"{name} {100 * a:.1f} %" for name, a in result.accuracies.items())
            + ". In time: within deadline, whatever the accuracy.",
        )
    ]


def _cell(step: Step) -> str:
    return f"{100 * step.attainment.median:.1f} / {100 * step.accuracy.median:.1f} / {step.cores.median:.1f}"
