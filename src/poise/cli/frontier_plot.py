"""The picture of E1: what accuracy costs, by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from poise.domain.modalities import ModalityIndex
from poise.errors import ConfigError
from poise.planning.service_model import VariantPlans

SIZES = (1, 4, 32)
COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7")
MARKERS = ("o", "s", "^", "D")


def draw_frontiers(
    plans: Sequence[VariantPlans], index: ModalityIndex, path: Path, *, title: str, floor: float | None = None
) -> None:
    """Draw accuracy against milliseconds an item: each frontier, and each modality set on its own at batch 1.

    Raises:
        ConfigError: the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), constrained_layout=True)
    for v, one in enumerate(plans):
        every = one.allowed((1 << 62) - 1)
        for size, colour in zip(SIZES, COLOURS, strict=False):
            frontier = one.frontier(every, min(size, one.model.max_batch))
            if frontier is None or not len(frontier):
                continue
            axes.step(
                [t * 1000 / frontier.batch for t in frontier.latency_s],
                frontier.accuracy,
                where="post",
                color=colour,
                linewidth=1.6,
                linestyle=("-", "--", ":", "-.")[v % 4],
                label=f"{one.name}, batch {frontier.batch}"
                if len(plans) > 1
                else f"frontier, batch {frontier.batch}",
            )
        for s, (mask, accuracy) in enumerate(zip(one.model.sets, one.model.accuracy, strict=True)):
            counts = [int(i == s) for i in range(len(one.model.sets))]
            latency_ms = one.model.latency_s(counts) * 1000
            axes.plot(latency_ms, accuracy, MARKERS[v % 4], color="#333333", markersize=5)
            axes.annotate(
                index.label(mask),
                (latency_ms, accuracy),
                textcoords="offset points",
                xytext=(-6, 5) if latency_ms > 2 else (6, -11),
                ha="right" if latency_ms > 2 else "left",
                fontsize=8,
                color="#333333",
            )
    if floor is not None:
        axes.axhline(floor, color="#999999", linewidth=1)
        axes.annotate(
            f"accuracy floor {floor:g}",
            (0, floor),
            xycoords=("axes fraction", "data"),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
            color="#666666",
        )
    axes.set_xscale("log")
    axes.set_xlabel("time an item (ms, one worker core, log scale)")
    axes.set_ylabel("accuracy on the validation items")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise ConfigError(f"the plot cannot be written to {str(path)!r}: {error.strerror}") from None
    finally:
        plt.close(figure)
