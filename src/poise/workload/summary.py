"""Outcomes summed up: one report for a run, and its course over time."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from poise.workload.outcomes import (
    Ending,
    Floats,
    FloorScope,
    JobOutcome,
    Marks,
    Outcomes,
    Status,
    attaining,
)

EffectiveSource = Literal["labels", "expected", "none"]


class LatencyFigures(msgspec.Struct, frozen=True):
    """Latencies of answered jobs, in seconds.

    A quantile is the least latency that its share of the jobs does not exceed.
    """

    p50: float
    p95: float
    p99: float
    mean: float
    max: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The core figures of a run, or of one class of it.

    - ``jobs``, ``items``: how many arrived; ``offered_rps``: jobs per second;
    - ``answered``, ``attained``, ``late``: jobs answered at all; within deadline and floor; after the
      deadline;
    - ``attainment``: ``attained`` / ``jobs`` (1 without jobs); ``goodput_rps``: ``attained`` per second;
    - ``mean_accuracy``: expected accuracy over answered items, as the server states it (None if it does not);
    - ``served_accuracy``: score against labels over answered items (None without labels);
    - ``effective_accuracy``: correct and on time over all items that arrived, where refused, failed and late
      count as wrong. ``effective_accuracy_source`` says whether correct means ``labels`` or, without them,
      ``expected`` accuracy; ``none``: neither was there and the figure is None;
    - ``refused``, ``failed``: jobs by reason;
    - ``latency_s``: of answered jobs (None without any);
    - ``modality_share``, ``variant_share``: shares of answered items by modality set and by variant.
    """

    jobs: int
    items: int
    answered: int
    attained: int
    late: int
    offered_rps: float
    goodput_rps: float
    attainment: float
    mean_accuracy: float | None
    served_accuracy: float | None
    effective_accuracy: float | None
    effective_accuracy_source: EffectiveSource
    refused: dict[str, int]
    failed: dict[str, int]
    latency_s: LatencyFigures | None
    modality_share: dict[str, float]
    variant_share: dict[str, float]


class ClassFigures(Figures, frozen=True, kw_only=True):
    """The figures of one SLO class, with what it was held to.

    Units: ``deadline_s`` is the mean over its jobs, in seconds; ``accuracy_floor`` the mean over its items.
    """

    deadline_s: float
    accuracy_floor: float


class Interval(msgspec.Struct, frozen=True):
    """A confidence interval at a level."""

    low: float
    high: float
    level: float


class RunReport(Figures, frozen=True, kw_only=True):
    """What a run came to; the JSON of ``poise load`` and ``poise simulate``. Fields are added, never renamed.

    Units: ``duration_s`` is the time over which jobs arrive, in seconds; every rate is over it.
    ``floor_scope`` says how floors count towards ``attained`` (see ``attained``).
    ``served_accuracy_interval`` is a bootstrap over distinct items, None where it was not computed.
    """

    format: Literal[1] = 1
    duration_s: float
    floor_scope: FloorScope
    per_class: dict[str, ClassFigures]
    served_accuracy_interval: Interval | None = None


class ClassTimeline(msgspec.Struct, frozen=True):
    """The course of one class. Shapes: one entry for each bin, None without answers. Units: seconds."""

    p99_latency_s: list[float | None]
    mean_accuracy: list[float | None]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A run in bins of ``bin_s`` seconds; a job falls in the bin in which it was sent.

    Shapes: every list has one entry for each bin. Units: ``start_s`` and ``p99_latency_s`` in seconds;
    ``offered``, ``attained``, ``refused``, ``late`` and ``failed`` in jobs; ``offered_items`` in items.
    ``mean_accuracy`` and ``modality_share`` are over answered items; None, or shares of 0, where a bin has
    no answer.
    """

    bin_s: float
    start_s: list[float]
    offered: list[int]
    offered_items: list[int]
    attained: list[int]
    refused: list[int]
    late: list[int]
    failed: list[int]
    p99_latency_s: list[float | None]
    mean_accuracy: list[float | None]
    modality_share: dict[str, list[float]]
    per_class: dict[str, ClassTimeline] = {}


def summarise(
    outcomes: Sequence[JobOutcome],
    duration_s: float,
    *,
    floor_scope: FloorScope = "job",
    classes: Sequence[str] = (),
    served_accuracy_interval: Interval | None = None,
) -> RunReport:
    """Sum up a run of ``duration_s`` seconds; ``classes`` fixes the order of the report's classes.

    Outcomes in columns (``Outcomes``) are taken as they are, without a value for each job.

    Raises:
        ValueError: a duration that is not positive.
    """
    if not duration_s > 0:
        raise ValueError(f"got duration_s {duration_s!r}, expected a number above 0")
    run = Outcomes.of(outcomes)
    marks = attaining(run, floor_scope)
    whole = _figures(run, marks, duration_s)
    seen = run.seen_classes()
    per_class = {}
    for name in [*classes, *sorted(seen - set(classes))]:
        if name not in seen:
            continue
        of_class = run.of_class(name)
        members = run if len(seen) == 1 else run.chosen(of_class)
        figures = whole if len(seen) == 1 else _figures(members, marks[of_class], duration_s)
        held = members.columns
        per_class[name] = ClassFigures(
            **msgspec.structs.asdict(figures),
            deadline_s=sum(held.deadline_s.tolist()) / len(members),
            accuracy_floor=sum((held.accuracy_floor * held.items).tolist()) / int(held.items.sum()),
        )
    return RunReport(
        **msgspec.structs.asdict(whole),
        duration_s=duration_s,
        floor_scope=floor_scope,
        per_class=per_class,
        served_accuracy_interval=served_accuracy_interval,
    )


def timeline(
    outcomes: Sequence[JobOutcome],
    bin_s: float,
    duration_s: float | None = None,
    *,
    floor_scope: FloorScope = "job",
) -> Timeline:
    """Return the course of a run; ``duration_s`` fixes the number of bins (default: up to the last job sent).

    Raises:
        ValueError: a bin that is not positive.
    """
    if not bin_s > 0:
        raise ValueError(f"got bin_s {bin_s!r}, expected a number above 0")
    run = Outcomes.of(outcomes)
    sent_s = run.columns.sent_s
    last_s = float(sent_s.max(initial=0.0))
    count = max(1, math.ceil((last_s if duration_s is None else duration_s) / bin_s - 1e-9))
    place = np.clip((sent_s / bin_s).astype(np.int64), 0, count - 1)
    by_bin = np.flatnonzero(run.answered)
    by_bin = by_bin[np.argsort(place[by_bin], kind="stable")]
    edges = np.searchsorted(place[by_bin], np.arange(count + 1)).tolist()
    answered = [run.chosen(by_bin[first:end]) for first, end in itertools.pairwise(edges)]

    def tally(marks: Marks) -> list[int]:
        counts: list[int] = np.bincount(place[marks], minlength=count).tolist()
        return counts

    items = np.bincount(place, weights=run.columns.items, minlength=count)
    shares = [_shares(members, "modalities") for members in answered]
    labels = sorted({label for share in shares for label in share})
    return Timeline(
        bin_s=bin_s,
        start_s=[i * bin_s for i in range(count)],
        offered=tally(np.ones(len(run), np.bool_)),
        offered_items=items.astype(np.int64).tolist(),
        attained=tally(attaining(run, floor_scope)),
        refused=tally(run.having("refused")),
        late=tally(run.late),
        failed=tally(run.having("failed")),
        p99_latency_s=[_p99(members) for members in answered],
        mean_accuracy=[_mean_accuracy(members) for members in answered],
        modality_share={label: [share.get(label, 0.0) for share in shares] for label in labels},
        per_class={name: _class_timeline(name, answered) for name in sorted(run.seen_classes())},
    )


def latency_figures(latencies_s: Sequence[float] | Floats) -> LatencyFigures | None:
    """Return the figures of some latencies, None without any."""
    if not len(latencies_s):
        return None
    values = np.asarray(latencies_s, float)
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99], method="inverted_cdf").tolist()
    return LatencyFigures(p50=p50, p95=p95, p99=p99, mean=float(values.mean()), max=float(values.max()))


def _figures(run: Outcomes, marks: Marks, duration_s: float) -> Figures:
    answered = run.chosen(run.answered)
    jobs, items = len(run), int(run.columns.items.sum())
    attained = int(marks.sum())
    effective, source = _effective_accuracy(run, answered, items)
    return Figures(
        jobs=jobs,
        items=items,
        answered=len(answered),
        attained=attained,
        late=int(run.late.sum()),
        offered_rps=jobs / duration_s,
        goodput_rps=attained / duration_s,
        attainment=attained / jobs if jobs else 1.0,
        mean_accuracy=_mean_accuracy(answered),
        served_accuracy=_served_accuracy(answered),
        effective_accuracy=effective,
        effective_accuracy_source=source,
        refused=_reasons(run, "refused"),
        failed=_reasons(run, "failed"),
        latency_s=latency_figures(answered.latency_s),
        modality_share=_shares(answered, "modalities"),
        variant_share=_shares(answered, "variants"),
    )


def _class_timeline(name: str, answered: Sequence[Outcomes]) -> ClassTimeline:
    members = [bin_.chosen(bin_.of_class(name)) for bin_ in answered]
    return ClassTimeline([_p99(bin_) for bin_ in members], [_mean_accuracy(bin_) for bin_ in members])


def _p99(answered: Outcomes) -> float | None:
    figures = latency_figures(answered.latency_s)
    return None if figures is None else figures.p99


def _mean_accuracy(answered: Outcomes) -> float | None:
    """Expected accuracy over the items whose answer states one."""
    accuracy, items = answered.columns.expected_accuracy, answered.columns.items
    stated = ~np.isnan(accuracy)
    if not stated.any():
        return None
    return math.fsum((accuracy * items)[stated].tolist()) / int(items[stated].sum())


def _served_accuracy(answered: Outcomes) -> float | None:
    correct, items = answered.columns.correct, answered.columns.items
    scored = ~np.isnan(correct)
    return math.fsum(correct[scored].tolist()) / int(items[scored].sum()) if scored.any() else None


def _effective_accuracy(
    run: Outcomes, answered: Outcomes, items: int
) -> tuple[float | None, EffectiveSource]:
    """Labels count only where they are there for every answer, so that the figure has one meaning."""
    columns = answered.columns
    on_time = ~answered.late
    if not np.isnan(columns.correct).any():
        if not items:
            return None, "none"
        return math.fsum(columns.correct[on_time].tolist()) / items, "labels"
    if not np.isnan(columns.expected_accuracy).any():
        return math.fsum((columns.expected_accuracy * columns.items)[on_time].tolist()) / items, "expected"
    return None, "none"


def _reasons(run: Outcomes, status: Status) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for ending, jobs in _endings(run):
        if ending.status == status:
            reasons[ending.reason or "unstated"] += jobs
    return dict(sorted(reasons.items()))


def _shares(answered: Outcomes, by: Literal["modalities", "variants"]) -> dict[str, float]:
    """Shares of items by label, over the items that have one."""
    total: Counter[str] = Counter()
    for ending, jobs in _endings(answered):
        for label, count in (ending.modalities if by == "modalities" else ending.variants).items():
            total[label] += jobs * count
    items = sum(total.values())
    return {label: count / items for label, count in sorted(total.items())} if items else {}


def _endings(run: Outcomes) -> list[tuple[Ending, int]]:
    """Return each ending that occurs, with the number of its jobs."""
    jobs = np.bincount(run.columns.ending)
    return [(run.endings[place], int(jobs[place])) for place in np.flatnonzero(jobs).tolist()]
