"""The tables of the comparison."""

from __future__ import annotations

from collections.abc import Iterator

from suite.grid import Grid

from .figures import Capacity, Result
from .trials import Trial

PEERS_OWN = ("bare", "poise")
"""What is no peer."""


def grids(result: Result) -> Iterator[Grid]:
    """Yield the tables."""
    yield _capacities(result)
    yield _side_by_side(result)
    yield _overloads(result)
    yield _goals(result)
    yield _settings(result)
    yield _trials(result.trials)


def _capacities(result: Result) -> Grid:
    left_out = "".join(f" {name} is left out: {why}." for name, why in result.left_out.items())
    return Grid(
        f"Highest load with {result.target:.0%} right and within {result.slo_s * 1e3:g} ms, jobs/s, "
        "Poisson arrivals, one core for the server",
        ["system", "load", "of the bare loop", "attainment", "p50 ms", "p99 ms", "core taken"],
        [
            [
                c.system,
                _load(c),
                f"{c.share:.2f}",
                c.attainment.text(".1%"),
                c.p50_s.text(".1f", 1e3),
                c.p99_s.text(".1f", 1e3),
                c.server_cores.text(".0%") if c.system != "bare" else "",
            ]
            for c in result.capacities
        ],
        note="Latencies from when a job was planned to be sent. *: the median of the repeats is below the target; "
        f"†: in a repeat the generator did not keep up, or others took more than .1 cores.{left_out}",
    )


def _side_by_side(result: Result) -> Grid:
    names = list(result.side_by_side[0].attainment) if result.side_by_side else []
    return Grid(
        "Side by side: attainment at the same loads, sent to one after the other within the minute",
        ["of the bare loop's capacity", "jobs/s", *names],
        [
            [
                f"{each.share:.2f}" + ("" if each.valid else "†"),
                f"{each.load_rps:.0f}",
                *[each.attainment[name].text(".1%") for name in names],
            ]
            for each in result.side_by_side
        ],
        note="Each load at one pace of the machine for all, whatever that did meanwhile.",
    )


def held_side_by_side(result: Result, system: str) -> float:
    """Return the highest share of the bare loop's capacity up to which a system attains the target; 0 for none."""
    held = 0.0
    for each in sorted(result.side_by_side, key=lambda each: each.share):
        if system not in each.attainment or each.attainment[system].median < result.target:
            break
        held = each.share
    return held


def _overloads(result: Result) -> Grid:
    factors = sorted({each.factor for each in result.overloads})
    loads = {each.factor: each.load_rps for each in result.overloads}
    found = {(each.system, each.factor): each for each in result.overloads}
    peak_rps = _peak_rps(result, "poise")
    rows = []
    for c in result.capacities:
        row = [c.system, f"{c.load_rps * c.attainment.median:.0f}"]
        for factor in factors:
            each = found.get((c.system, factor))
            if each is None:
                row += ["", ""]
                continue
            row.append(each.goodput_rps.text(".0f") + ("" if each.valid else "†"))
            row.append(f"{each.goodput_rps.median / peak_rps:.2f}")
        rows.append(row)
    header = [
        part for factor in factors for part in (f"at {factor:g} × ({loads[factor]:.0f})", "of poise's peak")
    ]
    return Grid(
        "Goodput under overload: right answers in time, a second, at multiples of poise's capacity",
        ["system", "at its own capacity", *header],
        rows,
        note=f"poise's peak: {peak_rps:.0f}/s, the most of any of its loads.",
    )


def _goals(result: Result) -> Grid:
    low = result.low_load
    rows = [
        [
            f"front end, µs a job of {each.body_bytes:,} bytes: {each.service}, {each.load_rps:.0f} jobs/s",
            "≤ 100",
            each.job_s.text(".0f", 1e6) + ("" if each.valid else "†"),
        ]
        for each in result.front_end
    ]
    capacities = {each.system: each for each in result.capacities}
    peers = [each for each in result.capacities if each.system not in PEERS_OWN]
    if "poise" in capacities:
        own = capacities["poise"]
        rows.append(["capacity, of the bare loop's", "≥ 0.9", f"{own.share:.2f}"])
        if peers:
            best = max(peers, key=lambda each: each.load_rps)
            rows.append(
                [
                    f"capacity, of the best peer's ({best.system})",
                    "≥ 1",
                    f"{own.load_rps / best.load_rps:.2f}",
                ]
            )
    held = {
        name: held_side_by_side(result, name) for each in result.side_by_side[:1] for name in each.attainment
    }
    if held.get("bare"):
        rows.append(
            ["the same side by side, of the bare loop's", "≥ 0.9", f"{held['poise'] / held['bare']:.2f}"]
        )
        rows += [
            [f"the same side by side, of {name}'s", "≥ 1", f"{held['poise'] / held[name]:.2f}"]
            for name in held
            if name not in PEERS_OWN and held[name]
        ]
    rows += _overload_goals(result)
    rows.append(
        [
            f"p50 at {low.rate_rps:g} jobs/s less bare loop and echo, ms "
            f"({low.poise_s.text('.2f', 1e3)} − {low.bare_s.text('.2f', 1e3)} − {low.echo_s.text('.2f', 1e3)})",
            "≤ 0.5",
            low.gap_s.text(".2f", 1e3),
        ]
    )
    rows += [
        [
            f"{each.service} at floor {each.floor:g}: {each.load_rps:.0f} jobs/s of the fluid bound's "
            f"{each.bound_rps:.0f} (front end {each.front_end_cores.median:.0%} of the core)",
            "≥ 0.85",
            f"{each.share:.2f}" + ("" if each.held else "*") + ("" if each.valid else "†"),
        ]
        for each in result.floors
    ]
    return Grid("Goals", ["what", "goal", "measured"], rows)


def _overload_goals(result: Result) -> Iterator[list[str]]:
    peak_rps = _peak_rps(result, "poise")
    for factor in sorted({each.factor for each in result.overloads}):
        at = {each.system: each.goodput_rps.median for each in result.overloads if each.factor == factor}
        if "poise" not in at:
            continue
        yield [f"goodput at {factor:g} ×, of its peak", "≥ 0.9", f"{at['poise'] / peak_rps:.2f}"]
        peers = {name: goodput for name, goodput in at.items() if name not in PEERS_OWN}
        if peers:
            best = max(peers, key=lambda name: peers[name])
            ratio = at["poise"] / peers[best] if peers[best] else float("inf")
            yield [f"goodput at {factor:g} ×, of the best peer's ({best})", "≥ 2", f"{ratio:.2f}"]


def _settings(result: Result) -> Grid:
    return Grid(
        "Settings",
        ["peer", "largest batch", "waits for a batch, ms", "queue", "gives up after, ms"],
        [
            [
                name,
                f"{each.max_batch}",
                f"{each.wait_ms:g}",
                "none" if each.queue is None else f"{each.queue}",
                "none" if each.timeout_ms is None else f"{each.timeout_ms}",
            ]
            for name, each in result.settings.items()
        ],
    )


def _trials(trials: list[Trial]) -> Grid:
    return Grid(
        "Trials",
        ["system", "", "jobs/s", "pace", "attain", "goodput", "p50 ms", "p99 ms", "late", "wrong", "other", "core",
         "generator", "lateness p99 ms", "others", "valid"],
        [
            [
                t.system,
                t.purpose,
                f"{t.load_rps:g}",
                f"{t.seen.pace:.2f}",
                f"{t.seen.attainment:.2%}",
                f"{t.goodput_rps:.0f}",
                f"{t.seen.latency_s.p50 * 1e3:.1f}" if t.seen.latency_s else "",
                f"{t.seen.latency_s.p99 * 1e3:.1f}" if t.seen.latency_s else "",
                f"{t.seen.late}",
                f"{t.seen.wrong}",
                " ".join(f"{name} {count}" for name, count in t.seen.errors.items()),
                f"{t.seen.server_cores:.0%}",
                f"{t.seen.generator.cpu_frac:.0%}" if t.seen.generator else "",
                f"{t.seen.generator.lateness_s.p99 * 1e3:.1f}"
                if t.seen.generator and t.seen.generator.lateness_s
                else "",
                f"{t.seen.others_cores:.2f}",
                "yes" if t.valid else "no",
            ]
            for t in trials
        ],
        detail=True,
    )  # fmt: skip


def _peak_rps(result: Result, system: str) -> float:
    """The most goodput that a system had at any of its loads: the median where a load was repeated."""
    own = [each.load_rps * each.attainment.median for each in result.capacities if each.system == system]
    own += [each.goodput_rps.median for each in result.overloads if each.system == system]
    return max(own, default=float("nan"))


def _load(found: Capacity) -> str:
    return f"{found.load_rps:.0f}" + ("" if found.held else "*") + ("" if found.valid else "†")
