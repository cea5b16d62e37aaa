"""The picture of ``overload``: goodput and effective accuracy against load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Course = Sequence[tuple[float, float, float]]
"""(load as a multiple of capacity, goodput in jobs/s, effective accuracy)."""

INK, GREY = "#222222", "#8A8F98"
COLOURS = {"poise": "#0072B2", "edf": "#D55E00"}
MARKS = {"poise": "o", "edf": "s"}
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def draw_overload(path: Path, courses: Mapping[str, Course], *, capacity_rps: float, title: str) -> None:
    """Write a PNG with two panels; each policy's line carries its name."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.2, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
        goodput, accuracy = figure.subplots(1, 2)
        factors = [factor for factor, _, _ in next(iter(courses.values()))]
        top = max(goodput_rps for course in courses.values() for _, goodput_rps, _ in course)
        offered = [f * capacity_rps for f in factors]
        goodput.plot(factors, offered, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        at = 1.12 * top / capacity_rps
        goodput.annotate(
            "offered", (at, at * capacity_rps), (6, -2), textcoords="offset points", color=GREY, fontsize=9
        )
        for column, axes in enumerate((goodput, accuracy)):
            for policy, course in courses.items():
                values = [point[1 + column] for point in course]
                axes.plot(
                    factors,
                    values,
                    color=COLOURS.get(policy, INK),
                    marker=MARKS.get(policy, "o"),
                    markersize=4.5,
                    linewidth=1.8,
                )
                axes.annotate(
                    policy,
                    (factors[-1], values[-1]),
                    (8, 0),
                    textcoords="offset points",
                    va="center",
                    color=COLOURS.get(policy, INK),
                    fontweight="bold",
                )
            axes.axvline(1.0, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
            axes.set_xlim(0, factors[-1] * 1.02)
            axes.set_xlabel(f"offered load, as a multiple of poise's capacity ({capacity_rps:.0f} jobs/s)")
        goodput.set_ylim(0, 1.2 * top)
        goodput.set_title("Goodput: jobs/s in time and at the floor")
        accuracy.set_ylim(0, 1)
        accuracy.set_title("Effective accuracy: right and in time, over all arrived")
        figure.savefig(path, dpi=150, facecolor="white")
