"""The course of a run as a picture; several runs side by side on the same scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poise.errors import ConfigError
from poise.workload import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers too.
_INK, _GREY, _BLUE, _ORANGE, _RED, _GREEN = "#222222", "#8A8F98", "#0072B2", "#E69F00", "#D55E00", "#009E73"
_FAILED = "#5B2A86"
_CLASSES = (_BLUE, "#CC79A7", _GREEN, _INK)
_STYLE: Any = {  # matplotlib's stubs ask for literal keys
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.8,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw_timeline(
    runs: Mapping[str, Timeline],
    path: Path,
    *,
    slo_s: Mapping[str, float] | None = None,
    floors: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Write a PNG with one column for each run: load, latency, accuracy and modality sets over time.

    ``slo_s`` and ``floors`` are drawn as lines, by class. Units: seconds.

    Raises:
        ConfigError: no runs, or the file cannot be written.
    """
    if not runs:
        raise ConfigError("got no runs to draw", expected="at least one")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 + 5.6 * len(runs), 9.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(
            4, len(runs), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2.2, 2.2, 2.2]
        )
        labels = _ordered_labels(runs)
        for column, (name, run) in enumerate(runs.items()):
            own = axes[:, column]
            own[0].set_title(name if len(runs) > 1 else (title or name), fontsize=11, pad=10)
            _draw_load(own[0], run)
            _draw_latency(own[1], run, slo_s or {})
            _draw_accuracy(own[2], run, floors or {})
            _draw_shares(own[3], run, labels)
            own[3].set_xlabel("time (s)")
        _finish(figure, axes.tolist(), runs, title, tuple((slo_s or {}).values()))
        try:
            figure.savefig(path, dpi=150, facecolor="white")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot write {str(path)!r}: {error}", expected="a path of a .png file"
            ) from None


def _draw_load(axes: Axes, run: Timeline) -> None:
    """Stack what became of the jobs of each bin; what is left up to the line was answered below its floor."""
    edges = _edges(run)
    below = [
        offered - attained - refused - late - failed
        for offered, attained, refused, late, failed in zip(
            run.offered, run.attained, run.refused, run.late, run.failed, strict=True
        )
    ]
    base = [0.0] * len(run.offered)
    for label, counts, colour in (
        ("goodput", run.attained, _BLUE),
        ("below floor", below, _GREEN),
        ("late", run.late, _RED),
        ("refused", run.refused, _ORANGE),
        ("failed", run.failed, _FAILED),
    ):
        top = [low + count / run.bin_s for low, count in zip(base, counts, strict=True)]
        alpha = 0.45 if label == "goodput" else 0.85
        label_or_none = label if any(counts) or label == "goodput" else None
        axes.stairs(
            top, edges, baseline=base, fill=True, color=colour, alpha=alpha, linewidth=0, label=label_or_none
        )
        base = top
    axes.stairs(
        [count / run.bin_s for count in run.offered], edges, color=_INK, linewidth=1.0, label="offered"
    )


def _draw_latency(axes: Axes, run: Timeline, slo_s: Mapping[str, float]) -> None:
    lines = {name: each.p99_latency_s for name, each in run.per_class.items()}
    _draw_lines(axes, run, lines or {"": run.p99_latency_s}, 1e3)
    for value, labels in _alike(slo_s).items():
        _draw_limit(axes, value * 1e3, " ".join(f"SLO {labels} {value * 1e3:.3g} ms".split()))


def _draw_accuracy(axes: Axes, run: Timeline, floors: Mapping[str, float]) -> None:
    lines = {name: each.mean_accuracy for name, each in run.per_class.items()}
    _draw_lines(axes, run, lines or {"": run.mean_accuracy}, 1.0)
    for value, labels in _alike(floors).items():
        _draw_limit(axes, value, " ".join(f"floor {labels} {value:.3g}".split()))


def _alike(limits: Mapping[str, float]) -> dict[float, str]:
    """Return limit -> the classes that share it, to three figures."""
    found: dict[float, list[str]] = {}
    for name, limit in limits.items():
        found.setdefault(float(f"{limit:.3g}"), []).append(name)
    return {limit: ", ".join(names) for limit, names in found.items()}


def _draw_lines(
    axes: Axes, run: Timeline, lines: Mapping[str, Sequence[float | None]], factor: float
) -> None:
    """One line for each class; a legend only where there are several."""
    for (name, values), colour in zip(lines.items(), cycle(_CLASSES), strict=False):
        heights = [float("nan") if value is None else value * factor for value in values]
        label = name if len(lines) > 1 else None
        axes.plot(_middles(run), heights, color=colour, linewidth=1.6, zorder=3, label=label)


def _draw_shares(axes: Axes, run: Timeline, labels: Sequence[str]) -> None:
    """Stack the shares; the more modalities, the darker."""
    if labels:
        import matplotlib as mpl

        ramp = mpl.colormaps["YlGnBu"]
        colours = [ramp(0.78 - 0.58 * i / max(1, len(labels) - 1)) for i in range(len(labels))][::-1]
        edges = _edges(run)
        base = [0.0] * len(run.start_s)
        for label, colour in zip(labels, colours, strict=True):
            shares = run.modality_share.get(label, [0.0] * len(run.start_s))
            top = [low + 100.0 * share for low, share in zip(base, shares, strict=True)]
            axes.stairs(top, edges, baseline=base, fill=True, color=colour, linewidth=0, label=label)
            base = top
    axes.set_ylim(0, 100)


def _finish(
    figure: Figure,
    axes: Sequence[Sequence[Axes]],
    runs: Mapping[str, Timeline],
    title: str,
    slos_s: Sequence[float],
) -> None:
    """Scales, names of the rows, legends at the right; the same for every column."""
    from matplotlib.ticker import LogLocator, NullFormatter

    timelines = list(runs.values())
    names = ("jobs per second", "p99 latency (ms)", "mean accuracy", "answered items (%)")
    for row, name in zip(axes, names, strict=True):
        row[0].set_ylabel(name)
    end_s = max(run.start_s[-1] + run.bin_s for run in timelines)
    axes[0][0].set_xlim(min(run.start_s[0] for run in timelines), end_s)
    most = max(count / run.bin_s for run in timelines for count in run.offered)
    axes[0][0].set_ylim(0, max(most, 1.0) * 1.06)
    courses = [run.p99_latency_s for run in timelines]
    courses += [each.p99_latency_s for run in timelines for each in run.per_class.values()]
    latencies = [value for course in courses for value in course if value]
    heights = [value * 1e3 for value in (*latencies, *slos_s)]
    if heights and max(heights) > 8 * min(heights):
        axes[1][0].set_yscale("log")
        axes[1][0].set_ylim(min(heights) / 1.5, max(heights) * 1.8)
        axes[1][0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[1][0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[1][0].yaxis.set_minor_formatter(NullFormatter())
    else:
        axes[1][0].set_ylim(0, max(heights, default=1.0) * 1.15)
    for row in axes:
        drawn: dict[str, Any] = {}
        for each in row:
            handles, labels = each.get_legend_handles_labels()
            drawn |= dict(zip(labels, handles, strict=True))
        if drawn:
            order = list(drawn) if row is axes[1] or row is axes[2] else list(drawn)[::-1]
            row[-1].legend(
                [drawn[label] for label in order], order, loc="upper left", bbox_to_anchor=(1.0, 1.02)
            )
    figure.align_ylabels([row[0] for row in axes])
    if len(runs) > 1 and title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")


def _ordered_labels(runs: Mapping[str, Timeline]) -> list[str]:
    labels = {label for run in runs.values() for label in run.modality_share}
    return sorted(labels, key=lambda label: (label.count("+"), label))


def _edges(run: Timeline) -> list[float]:
    return [*run.start_s, run.start_s[-1] + run.bin_s]


def _middles(run: Timeline) -> list[float]:
    return [start + run.bin_s / 2 for start in run.start_s]


def _draw_limit(axes: Axes, height: float, text: str) -> None:
    """Draw what is to be held as a dashed line, named at its right end, below the data."""
    axes.axhline(height, color=_RED, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1.5)
    axes.annotate(
        text,
        xy=(1.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=_RED,
        fontsize=8.5,
        zorder=1.4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
    )
