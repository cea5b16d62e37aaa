"""Pictures of adapters: a run over time, and what cores buy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suite.overload_plot import GREY, INK, STYLE

from .runs import Series

COLOURS = {
    "poise": "#0072B2",
    "infadapter": "#D55E00",
    "infadapter, late binding": "#E8A27C",
    "model-switching": "#009E73",
    "vpa": "#CC79A7",
    "hpa": "#999999",
    "poise, live": "#0072B2",
    "infadapter, live": "#D55E00",
}


def colour_of(system: str) -> str:
    """Return a system's colour; variants of one policy share it."""
    return COLOURS.get(system) or COLOURS.get(system.split(",", maxsplit=1)[0]) or INK


def draw_series(runs: Mapping[str, Series], path: Path, title: str) -> None:
    """Draw runs over time: load and plan, cores, accuracy, p99, violations."""
    plt = _pyplot()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(5, 1, figsize=(9.5, 10.5), sharex=True, layout="constrained")
        first = next(iter(runs.values()))
        seconds = [first.step_s * i for i in range(len(first.load_rps))]
        axes[0].fill_between(seconds, first.load_rps, color=GREY, alpha=0.35, linewidth=0, label="load")
        for system, series in runs.items():
            at = [series.step_s * i for i in range(len(series.cores))]
            line: dict[str, Any] = {"color": colour_of(system), "linewidth": 1.4}
            axes[0].plot(at[: len(series.planned_rps)], series.planned_rps, **{**line, "linewidth": 1.0})
            axes[1].plot(at, series.cores, label=system, **line)
            axes[2].plot(at, [None if a is None else 100 * a for a in series.accuracy], **line)
            axes[3].plot(at, [None if p is None else 1000 * p for p in series.p99_s], **line)
            axes[4].plot(at, [100 * v for v in series.violations], **line)
        for axis, label in zip(
            axes,
            ("jobs/s: load, and what\neach planned for", "cores", "accuracy %", "p99 ms", "violations %"),
            strict=True,
        ):
            axis.set_ylabel(label)
            axis.margins(x=0)
        axes[3].axhline(750, color=INK, linewidth=0.8, linestyle=":")
        axes[3].set_yscale("log")
        axes[1].set_ylim(0, 21)
        axes[4].set_ylim(bottom=0)
        axes[-1].set_xlabel("seconds")
        axes[0].set_title(f"The {title} slice, β = 0.05", loc="left")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def draw_trade_off(lines: Mapping[str, Sequence[tuple[float, float, float]]], path: Path) -> None:
    """Draw (cores, points lost, violations) of each system; a line joins the values of β."""
    plt = _pyplot()
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
        named: set[str] = set()
        for system, points in lines.items():
            policy, _, variant = system.partition(", ResNet-")
            label = "_" if policy in named else f"{policy}, each variant" if variant else system
            named.add(policy)
            ordered = sorted(points)
            style: dict[str, Any] = {
                "color": colour_of(system),
                "marker": "o" if len(ordered) > 1 else "x",
                "linewidth": 1.2,
                "markersize": 5,
            }
            cores = [p[0] for p in ordered]
            left.plot(cores, [100 * p[1] for p in ordered], label=label, **style)
            right.plot(cores, [max(0.01, 100 * p[2]) for p in ordered], **style)
        left.set(xlabel="mean cores, surge included", ylabel="points of accuracy lost")
        right.set(
            xlabel="mean cores, surge included", ylabel="violations % (at least 0.01 drawn)", yscale="log"
        )
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt
