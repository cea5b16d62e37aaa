"""Outcomes summed up: one report for a run, and its course over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from poise.workload.outcomes import FloorScope, JobOutcome, attained

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

    Raises:
        ValueError: a duration that is not positive.
    """
    if not duration_s > 0:
        raise ValueError(f"got duration_s {duration_s!r}, expected a number above 0")
    marks = attained(outcomes, floor_scope)
    names = [*classes, *sorted({o.slo_class for o in outcomes} - set(classes))]
    per_class = {}
    for name in names:
        chosen = [(o, mark) for o, mark in zip(outcomes, marks, strict=True) if o.slo_class == name]
        if chosen:
            members = [o for o, _ in chosen]
            per_class[name] = ClassFigures(
                **msgspec.structs.asdict(_figures(members, [mark for _, mark in chosen], duration_s)),
                deadline_s=sum(o.deadline_s for o in members) / len(members),
                accuracy_floor=sum(o.accuracy_floor * o.items for o in members)
                / sum(o.items for o in members),
            )
    return RunReport(
        **msgspec.structs.asdict(_figures(outcomes, marks, duration_s)),
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
    last_s = max((o.sent_s for o in outcomes), default=0.0)
    count = max(1, math.ceil((last_s if duration_s is None else duration_s) / bin_s - 1e-9))
    bins: list[list[tuple[JobOutcome, bool]]] = [[] for _ in range(count)]
    for outcome, mark in zip(outcomes, attained(outcomes, floor_scope), strict=True):
        bins[min(max(int(outcome.sent_s / bin_s), 0), count - 1)].append((outcome, mark))

    def tally(counts: Callable[[JobOutcome], bool]) -> list[int]:
        return [sum(counts(outcome) for outcome, _ in members) for members in bins]

    answered = [[outcome for outcome, _ in members if outcome.answered] for members in bins]
    shares = [_shares(o.modalities for o in members) for members in answered]
    labels = sorted({label for share in shares for label in share})
    return Timeline(
        bin_s=bin_s,
        start_s=[i * bin_s for i in range(count)],
        offered=[len(members) for members in bins],
        offered_items=[sum(outcome.items for outcome, _ in members) for members in bins],
        attained=[sum(mark for _, mark in members) for members in bins],
        refused=tally(lambda o: o.status == "refused"),
        late=tally(lambda o: o.late),
        failed=tally(lambda o: o.status == "failed"),
        p99_latency_s=[_p99(members) for members in answered],
        mean_accuracy=[_mean_accuracy(members) for members in answered],
        modality_share={label: [share.get(label, 0.0) for share in shares] for label in labels},
        per_class={name: _class_timeline(name, answered) for name in sorted({o.slo_class for o in outcomes})},
    )


def latency_figures(latencies_s: Sequence[float]) -> LatencyFigures | None:
    """Return the figures of some latencies, None without any."""
    if not latencies_s:
        return None
    values = np.asarray(latencies_s, float)
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99], method="inverted_cdf").tolist()
    return LatencyFigures(p50=p50, p95=p95, p99=p99, mean=float(values.mean()), max=float(values.max()))


def _figures(outcomes: Sequence[JobOutcome], marks: Sequence[bool], duration_s: float) -> Figures:
    answered = [o for o in outcomes if o.answered]
    items = sum(o.items for o in outcomes)
    attaining = sum(marks)
    effective, source = _effective_accuracy(outcomes, answered, items)
    return Figures(
        jobs=len(outcomes),
        items=items,
        answered=len(answered),
        attained=attaining,
        late=sum(o.late for o in answered),
        offered_rps=len(outcomes) / duration_s,
        goodput_rps=attaining / duration_s,
        attainment=attaining / len(outcomes) if outcomes else 1.0,
        mean_accuracy=_mean_accuracy(answered),
        served_accuracy=_served_accuracy(answered),
        effective_accuracy=effective,
        effective_accuracy_source=source,
        refused=_reasons(o for o in outcomes if o.status == "refused"),
        failed=_reasons(o for o in outcomes if o.status == "failed"),
        latency_s=latency_figures([o.latency_s for o in answered]),
        modality_share=_shares(o.modalities for o in answered),
        variant_share=_shares(o.variants for o in answered),
    )


def _class_timeline(name: str, answered: Sequence[Sequence[JobOutcome]]) -> ClassTimeline:
    members = [[o for o in bin_ if o.slo_class == name] for bin_ in answered]
    return ClassTimeline([_p99(bin_) for bin_ in members], [_mean_accuracy(bin_) for bin_ in members])


def _p99(answered: Sequence[JobOutcome]) -> float | None:
    figures = latency_figures([o.latency_s for o in answered])
    return None if figures is None else figures.p99


def _mean_accuracy(answered: Sequence[JobOutcome]) -> float | None:
    """Expected accuracy over the items whose answer states one."""
    stated = [(o.expected_accuracy * o.items, o.items) for o in answered if o.expected_accuracy is not None]
    return math.fsum(part for part, _ in stated) / sum(items for _, items in stated) if stated else None


def _served_accuracy(answered: Sequence[JobOutcome]) -> float | None:
    scored = [(o.correct, o.items) for o in answered if o.correct is not None]
    return math.fsum(part for part, _ in scored) / sum(items for _, items in scored) if scored else None


def _effective_accuracy(
    outcomes: Sequence[JobOutcome], answered: Sequence[JobOutcome], items: int
) -> tuple[float | None, EffectiveSource]:
    """Labels count only where they are there for every answer, so that the figure has one meaning."""
    on_time = [o for o in answered if o.on_time]
    if not outcomes or all(o.correct is not None for o in answered):
        return math.fsum(
            o.correct or 0.0 for o in on_time
        ) / items if items else None, "labels" if items else "none"
    if all(o.expected_accuracy is not None for o in answered):
        return math.fsum((o.expected_accuracy or 0.0) * o.items for o in on_time) / items, "expected"
    return None, "none"


def _reasons(outcomes: Iterable[JobOutcome]) -> dict[str, int]:
    return dict(sorted(Counter(o.reason or "unstated" for o in outcomes).items()))


def _shares(counts: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Shares of items by label, over the items that have one."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    items = sum(total.values())
    return {label: count / items for label, count in sorted(total.items())} if items else {}
