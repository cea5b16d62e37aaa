"""Whether a profile repeats: the same service, profiled several times with the same budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import msgspec

from poise.domain.decoding import decode_json
from poise.domain.profile import LatencyPoint, Profile

from .bench import Bench, copy_service, poise_command, run
from .grid import Grid
from .spread import within

P50_WITHIN, P99_WITHIN = 0.10, 0.30


class Agreement(msgspec.Struct, frozen=True):
    """How a stage's points agree, over all pairs of profiles. Shares in [0, 1].

    ``worst_p50``, ``worst_p99``: the largest ratio of a pair, less one; ``disturbed``: points marked as
    contaminated by other load, of all points of all profiles.
    """

    stage: str
    points: int
    p50: float
    p99: float
    worst_p50: float
    worst_p99: float
    disturbed: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Units: ``budget_s`` in seconds. ``all`` is over the points of all stages."""

    service: str
    budget_s: float
    profiles: int
    p50_within: float
    p99_within: float
    stages: list[Agreement]
    all: Agreement


def measure(bench: Bench) -> Result:
    """Profile in processes of their own, one after another; accuracies are measured once."""
    folder = bench.options.work / "repeated"
    copy_service(bench.folder, folder)
    budget_s = bench.options.pick(45, 8)
    count = max(2, bench.options.repeats)
    profiles = []
    for number in range(count):
        keep = () if number == 0 else ("--keep-accuracy",)
        bench.say(f"profile {number + 1} of {count}")
        printed = run(poise_command("profile", str(folder), "--budget-s", str(budget_s), "--json", *keep))
        profiles.append(decode_json(printed, Profile, "profile.json"))
    by_stage = {
        stage.name: [_points(profile, stage.name) for profile in profiles]
        for stage in profiles[0].variants[0].stages
    }
    everything = [[p for runs in by_stage.values() for p in runs[at]] for at in range(count)]
    return Result(
        service=bench.service.service,
        budget_s=budget_s,
        profiles=count,
        p50_within=P50_WITHIN,
        p99_within=P99_WITHIN,
        stages=[agreement(name, runs) for name, runs in by_stage.items()],
        all=agreement("all", everything),
    )


def _points(profile: Profile, stage: str) -> list[LatencyPoint]:
    return next(list(each.latency) for each in profile.variants[0].stages if each.name == stage)


def agreement(name: str, runs: Sequence[Sequence[LatencyPoint]]) -> Agreement:
    """Compare the same points of several profiles, pair by pair."""
    pairs = [pair for a, b in combinations(runs, 2) for pair in zip(a, b, strict=True)]
    p50 = [(a.statistic("p50"), b.statistic("p50")) for a, b in pairs]
    p99 = [(a.statistic("p99"), b.statistic("p99")) for a, b in pairs]
    every = [point for points in runs for point in points]
    return Agreement(
        stage=name,
        points=len(runs[0]),
        p50=sum(within(pair, P50_WITHIN) for pair in p50) / len(pairs),
        p99=sum(within(pair, P99_WITHIN) for pair in p99) / len(pairs),
        worst_p50=max(max(pair) / min(pair) for pair in p50) - 1,
        worst_p99=max(max(pair) / min(pair) for pair in p99) - 1,
        disturbed=sum(point.contaminated for point in every) / len(every),
    )


def grids(result: Result) -> Iterator[Grid]:
    """Yield the table."""
    yield Grid(
        f"{result.profiles} profiles of {result.service}, {result.budget_s:g} s each: points that agree",
        [
            "stage", "points", f"p50 within {result.p50_within:.0%}", f"p99 within {result.p99_within:.0%}",
            "worst p50", "worst p99", "disturbed",
        ],
        [
            [
                a.stage,
                f"{a.points}",
                f"{a.p50:.0%}",
                f"{a.p99:.0%}",
                f"{a.worst_p50:+.0%}",
                f"{a.worst_p99:+.0%}",
                f"{a.disturbed:.0%}",
            ]
            for a in (*result.stages, result.all)
        ],
        note="Over all pairs of profiles. The goal is 95 % of all points, for either.",
    )  # fmt: skip
