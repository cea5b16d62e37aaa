"""The picture of ``forecasting``: what share is under-predicted for how much over-provision, one panel a horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from suite.overload_plot import GREY, INK, STYLE

from .evaluation import Point, Row

COLOURS = {
    "seasonal": "#0072B2",
    "seasonal × f": "#56B4E9",
    "burst": "#009E73",
    "lstm": "#D55E00",
    "ewma": "#CC79A7",
    "last-max": "#555555",
}
MOST_OVER, LEAST_OVER = 32.0, 4.0
LEAST_UNDER = 0.005


class Drawn(Protocol):
    """What a panel is drawn from."""

    @property
    def seconds(self) -> int: ...
    @property
    def curves(self) -> Mapping[str, Sequence[Point]]: ...
    @property
    def rows(self) -> Sequence[Row]: ...


def draw_curves(path: Path, horizons: Sequence[Drawn]) -> None:
    """Write a PNG; dots are the plans of the tables: times 1.1, and at levels .9 and .95."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.2, 7.2), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            "Forecasts of the largest rate ahead, Twitter trace, days 15 to 22",
            x=0.01,
            ha="left",
            fontsize=11.5,
            fontweight="bold",
            color=INK,
        )
        for at, horizon in enumerate(horizons):
            axes = figure.add_subplot(2, -(-len(horizons) // 2), at + 1)
            for name, curve in horizon.curves.items():
                ordered = sorted(curve, key=lambda point: point.over)
                axes.plot(
                    [p.over for p in ordered],
                    [p.under for p in ordered],
                    color=COLOURS[name],
                    linewidth=2.2 if name == "seasonal" else 1.4,
                )
            for row in horizon.rows:
                if " × " in row.forecaster or row.forecaster.endswith((" at 0.9", " at 0.95")):
                    colour = COLOURS[row.forecaster.split(" ")[0]]
                    axes.plot([row.over], [row.under], "o", color=colour, markersize=5)
            axes.set_yscale("log")
            axes.set_xlim(LEAST_OVER, MOST_OVER)
            axes.set_ylim(LEAST_UNDER, 0.5)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
            axes.set_title(f"next {horizon.seconds} s")
            axes.set_xlabel("mean over-provision, jobs/s")
            if at % 2 == 0:
                axes.set_ylabel("share of moments under-predicted")
        marks = [Line2D([], [], color=colour, linewidth=2) for colour in COLOURS.values()]
        marks.append(Line2D([], [], color=GREY, marker="o", linestyle=""))
        names = [*COLOURS, "times 1.1, or at levels .9 and .95"]
        figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, facecolor="white")
