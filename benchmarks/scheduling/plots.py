"""Pictures of the comparisons: panels of lines, one for each policy, with one legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from suite.overload_plot import GREY, INK, STYLE

COLOURS = {
    "poise": "#0072B2",
    "cheapest": "#009E73",
    "slackfit": "#CC79A7",
    "jobwise": "#56B4E9",
    "mosel": "#E69F00",
    "mosel-max": "#B8860B",
    "edf": "#D55E00",
    "edf-open": "#E8A27C",
    "fifo": "#555555",
    "fifo-open": "#AAAAAA",
    "live": "#0072B2",
    "simulated": "#E69F00",
    "simulated, front end charged": "#D55E00",
    "calibrated": "#0072B2",
    "not calibrated": "#D55E00",
    "right profile": "#555555",
}
DASHED = ("edf-open", "fifo-open", "mosel-max")


class Line(msgspec.Struct, frozen=True):
    """A line: what it is called in the legend, and its points. ``dashed`` beside the policies that always are."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


class Panel(msgspec.Struct, frozen=True):
    """One pair of axes; ``mark_x`` and ``mark_y`` are thin lines across it. ``x_names``: what stands at 0, 1, …"""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    mark_x: float | None = None
    mark_y: float | None = None
    x_names: Sequence[str] = ()


def draw_panels(path: Path, title: str, panels: Sequence[Panel], *, columns: int) -> None:
    """Write a PNG of panels in rows of ``columns``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = math.ceil(len(panels) / columns)
    width = max(7.5, 3.3 * columns)
    first: dict[str, Line] = {}
    for line in (line for panel in panels for line in panel.lines):
        first.setdefault(line.name, line)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, 3.1 * rows + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
        for at, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, at + 1)
            for line in panel.lines:
                xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
                axes.plot(xs, ys, **_style(line), marker="o", markersize=3)
            if panel.mark_x is not None:
                axes.axvline(panel.mark_x, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
            if panel.mark_y is not None:
                axes.axhline(panel.mark_y, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
            axes.set_ylim(bottom=0)
            if panel.x_names:
                axes.set_xticks(range(len(panel.x_names)), panel.x_names)
                axes.set_xlim(-0.3, len(panel.x_names) - 0.7)
            axes.set_title(panel.title)
            axes.set_xlabel(panel.x_label)
            if at % columns == 0:
                axes.set_ylabel(panel.y_label)
        marks = [Line2D([], [], **_style(line)) for line in first.values()]
        in_a_row = min(len(first), int(width / 1.5))
        figure.legend(marks, list(first), loc="outside lower center", ncols=in_a_row, frameon=False)
        figure.savefig(path, dpi=130, facecolor="white")


def _style(line: Line) -> dict[str, Any]:
    strong = line.name == "poise"
    return {
        "color": COLOURS.get(line.name, INK),
        "linewidth": 2.2 if strong else 1.2,
        "zorder": 3 if strong else 2,
        "linestyle": (0, (4, 2)) if line.dashed or line.name in DASHED else "-",
    }
