"""The picture of ``serving``: capacities beside the physical limit, and goodput under overload."""

from __future__ import annotations

from pathlib import Path

from suite.overload_plot import GREY, INK, STYLE

from .figures import Result

BLUE = "#0072B2"
PALETTE = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C564B")


def draw_servers(path: Path, result: Result) -> None:
    """Write a PNG with two panels."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"One core, one model, SLO {result.slo_s * 1e3:g} ms: poise beside other servers",
            x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK,
        )  # fmt: skip
        bars, lines = figure.subplots(1, 2)
        _draw_capacities(bars, result)
        _draw_overloads(lines, result)
        figure.savefig(path, dpi=150, facecolor="white")


def colours(result: Result) -> dict[str, str]:
    """Return each system's colour."""
    found = {"bare": INK, "poise": BLUE}
    others = [each.system for each in result.capacities if each.system not in found]
    return found | {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(others)}


def label(system: str) -> str:
    """Return a system's name for people."""
    return "bare loop" if system == "bare" else system


def _draw_capacities(axes, result: Result) -> None:  # type: ignore[no-untyped-def]
    found = sorted(result.capacities, key=lambda each: each.load_rps)
    of = colours(result)
    axes.barh(
        [label(each.system) for each in found],
        [each.load_rps for each in found],
        color=[GREY if each.system == "bare" else of[each.system] for each in found],
        height=0.66,
    )
    for place, each in enumerate(found):
        text = f"{each.load_rps:.0f}" + ("" if each.held and each.valid else "*")
        axes.annotate(
            text, (each.load_rps, place), (4, 0), textcoords="offset points", va="center", color=INK
        )
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.12 * max(each.load_rps for each in found))
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.set_title(f"Capacity: highest load with {result.target:.0%} in time, jobs/s")


def _draw_overloads(axes, result: Result) -> None:  # type: ignore[no-untyped-def]
    of = colours(result)
    base = next((each.load_rps for each in result.capacities if each.system == "poise"), 1.0)
    ends: list[tuple[float, str]] = []
    top = 0.0
    for each in result.capacities:
        points = [(each.load_rps / base, each.load_rps * each.attainment.median)]
        points += [
            (o.load_rps / base, o.goodput_rps.median) for o in result.overloads if o.system == each.system
        ]
        points.sort()
        x, y = zip(*points, strict=True)
        top = max(top, *y)
        axes.plot(
            x,
            y,
            color=of[each.system],
            marker="o",
            markersize=4,
            linewidth=2.2 if each.system == "poise" else 1.4,
        )
        ends.append((y[-1], each.system))
    last = max((o.load_rps / base for o in result.overloads), default=1.0)
    for height, system in apart(ends, 0.052 * top):
        axes.annotate(label(system), (last, height), (8, 0), textcoords="offset points", va="center",
                      color=of[system], fontweight="bold", fontsize=9)  # fmt: skip
    axes.plot([0, 1.15 * top / base], [0, 1.15 * top], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "offered",
        (0.62 * top / base, 0.62 * top),
        (-8, 8),
        textcoords="offset points",
        ha="right",
        color=GREY,
    )
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlim(0, 1.22 * last)
    axes.set_ylim(0, 1.15 * top)
    axes.set_xlabel(f"offered load, as a multiple of poise's capacity ({base:.0f} jobs/s)")
    axes.set_title("Goodput: right and in time, jobs/s")


def apart(ends: list[tuple[float, str]], gap: float) -> list[tuple[float, str]]:
    """Return the labels' heights, moved upwards until they are a gap apart."""
    placed: list[tuple[float, str]] = []
    for height, system in sorted(ends):
        placed.append((max(height, placed[-1][0] + gap) if placed else height, system))
    return placed
