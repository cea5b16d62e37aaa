"""What a request costs the front end in processor time, with workers that cost next to nothing.

The service has the example's modalities and an emulated variant, which sleeps for a fraction of a millisecond. The
front end is the server's own process: HTTP, decoding, the copy into shared memory, the scheduler, the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from poise.profiling import write_profile
from poise.runtimes.tensors import item_bytes

from .bench import Bench, link_or_copy, write_service
from .emulated import emulated
from .grid import Grid
from .live import Sent, Server, send, server
from .spread import Spread, spread_of

RATES_RPS = (400.0, 1000.0)
HEAVY = "clip"
"""The modality that the light requests leave out."""
BATCH_S, ITEM_S = 0.2e-3, 0.01e-3
"""What the emulated variant sleeps for a batch, and for each item and modality."""


class Cost(msgspec.Struct, frozen=True):
    """One kind of request at one rate. Units: processor seconds of a request; ``tensor_bytes`` of a request."""

    request: str
    tensor_bytes: int
    rate_rps: float
    front_end_s: Spread
    generator_s: Spread
    workers_s: Spread
    attainment: Spread
    others_cores: Spread
    valid: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: ``duration_s`` of each run, in seconds."""

    duration_s: float
    costs: list[Cost]


def measure(bench: Bench) -> Result:
    """Send both kinds of request at each rate, in turn, to servers that are started anew."""
    folder = _service(bench)
    names = tuple(bench.service.modalities)
    light = "+".join(name for name in names if name != HEAVY)
    kinds: dict[str, tuple[str, ...]] = {light: ("--missing", f"{HEAVY}=1"), "+".join(names): ()}
    duration_s = bench.options.pick(8, 2)
    found: dict[tuple[str, float], list[Sent]] = {}
    for repeat in range(bench.options.repeats):
        for kind, flags in kinds.items():
            with server(folder, "poise", bench.options.work / "server.log") as target:
                for rate in RATES_RPS:
                    sent = _send(target, folder, rate, duration_s, repeat, *flags)
                    found.setdefault((kind, rate), []).append(sent)
                    bench.say(f"front end, {kind} at {rate:g} jobs/s: {_each_s(sent) * 1e6:.0f} µs a request")
    return Result(
        duration_s=duration_s, costs=[_cost(bench, kind, rate, runs) for (kind, rate), runs in found.items()]
    )


def _send(target: Server, folder: Path, rate: float, duration_s: float, seed: int, *flags: str) -> Sent:
    return send(
        target, folder, "--rate", str(rate), "--duration", str(duration_s), "--seed", str(seed),
        "--min-jobs", "100", *flags,
    )  # fmt: skip


def _each_s(sent: Sent) -> float:
    return sent.front_end_cpu_s / sent.report.run.jobs


def _cost(bench: Bench, kind: str, rate: float, runs: list[Sent]) -> Cost:
    modalities = bench.service.modalities
    return Cost(
        request=kind,
        tensor_bytes=sum(
            item_bytes(spec) for name in kind.split("+") for spec in modalities[name].inputs.values()
        ),
        rate_rps=rate,
        front_end_s=spread_of(map(_each_s, runs)),
        generator_s=spread_of(run.report.generator.cpu_per_job_s for run in runs),
        workers_s=spread_of(run.workers_cpu_s / run.report.run.jobs for run in runs),
        attainment=spread_of(run.report.run.attainment for run in runs),
        others_cores=spread_of(run.others_cores for run in runs),
        valid=all(run.report.generator.valid for run in runs),
    )


def _service(bench: Bench) -> Path:
    """Write the emulated service, with the example's test items."""
    test = bench.service.test
    if test is None:
        raise ValueError("the service names no test items")
    service, profile = emulated(bench.service, batch_s=BATCH_S, item_s=ITEM_S)
    folder = bench.options.work / "emulated"
    write_service(service, folder)
    link_or_copy(bench.folder.resolve(test, "test"), folder / test)
    write_profile(profile, folder / service.profile)
    return folder


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    yield Grid(
        "Processor time of a request, µs",
        [
            "request",
            "tensors, bytes",
            "jobs/s",
            "front end",
            "generator",
            "worker",
            "attainment",
            "others",
            "valid",
        ],
        [
            [
                c.request,
                f"{c.tensor_bytes:,}",
                f"{c.rate_rps:g}",
                c.front_end_s.text(".0f", 1e6),
                c.generator_s.text(".0f", 1e6),
                c.workers_s.text(".0f", 1e6),
                f"{c.attainment.median:.2%}",
                f"{c.others_cores.median:.2f}",
                "yes" if c.valid else "no",
            ]
            for c in result.costs
        ],
        note="Front end: the server's own process. Worker: sleeps in place of a model. Others: cores "
        "taken by everything else on the machine.",
    )
