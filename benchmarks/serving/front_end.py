"""What a job costs poise's own process: with the model on the same core, and with workers that only sleep."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from suite.bench import Bench, write_service
from suite.emulated import emulated
from suite.spread import spread_of

from poise.files import open_service
from poise.profiling import write_profile

from .cells import Cells
from .comparison import FIRST_SEED
from .figures import FrontEnd
from .served import Served
from .systems import POISE
from .trials import Trial, Trials

RATES_RPS = (400.0, 1000.0, 2000.0, 4000.0)
BATCH_S, ITEM_S = 2e-3, 0.1e-3
"""What the emulated variant sleeps for a batch, and for each item."""
OF_CAPACITY = 0.5


def front_end_cost(
    bench: Bench, cells: Cells, made: Served, capacity_rps: float, trials: list[Trial]
) -> list[FrontEnd]:
    """Send loads that it holds easily to the model and to sleeping workers, in turns."""
    sleeping = msgspec.structs.replace(made, service=emulated_service(made))
    duration_s = bench.options.pick(5, 3)
    runs: dict[tuple[str, float], list[Trial]] = {}
    for repeat in range(bench.options.repeats):
        with Trials(bench, cells, made, POISE, trials) as on:
            load = round(OF_CAPACITY * capacity_rps, 1)
            trial = on.load("front end", load, FIRST_SEED + repeat, duration_s)
            runs.setdefault(("model", load), []).append(trial)
        with Trials(bench, cells, sleeping, POISE, trials, sleeps=True) as on:
            for load in RATES_RPS:
                trial = on.load("front end", load, FIRST_SEED + repeat, duration_s)
                runs.setdefault(("sleeping workers", load), []).append(trial)
    return [
        FrontEnd(
            service=service,
            load_rps=load,
            body_bytes=4 * made.shape[0] * made.shape[1],
            job_s=spread_of(t.seen.front_end_cores * t.duration_s / t.seen.jobs for t in of),
            valid=all(t.valid for t in of),
        )
        for (service, load), of in runs.items()
    ]


def emulated_service(made: Served) -> Path:
    """Write the service with workers that sleep."""
    folder = made.service.with_name("sleeping")
    shutil.rmtree(folder, ignore_errors=True)
    service, profile = emulated(open_service(made.service).service, batch_s=BATCH_S, item_s=ITEM_S)
    write_service(msgspec.structs.replace(service, test=None), folder)
    write_profile(profile, folder / service.profile)
    return folder
