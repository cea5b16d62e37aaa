"""Accuracy promised against served: live runs with labels, at three loads.

The promise is a mean over the validation split, and what is served is measured on the test split. Both are
samples, so both are drawn again to say whether they differ. Items of a split share recordings and words, and
are therefore not independent: whole pools of items that share one are drawn, by each kind of pool in turn, and
the widest interval counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.domain.modalities import names_of
from poise.files import LabelledItems, ServiceFolder, load_labelled
from poise.files.metric import open_metric
from poise.load import LoadOptions, parse_url, run_load
from poise.runtimes import mode_labels, open_staged
from poise.runtimes.machine import fingerprint
from poise.workload import bootstrap_mean, streams, summarise

from .bench import Bench
from .grid import Grid
from .live import server
from .simulated import draws, median_capacity

LOADS = (0.3, 0.6, 0.9)
"""Of poise's capacity: the live one if it was searched in this run, else the simulated one."""
LEVEL = 0.95
BATCH = 32

Floats = NDArray[np.float64]
Groups = Mapping[str, NDArray[np.int64]]
"""Kind of pool -> which of them each item is made from."""


class Interval(msgspec.Struct, frozen=True):
    """An interval at ``LEVEL``."""

    low: float
    high: float

    def text(self) -> str:
        """Return it for people, in points."""
        return f"{self.low * 100:+.1f} to {self.high * 100:+.1f}"


class Run(msgspec.Struct, frozen=True):
    """A live run. Units: jobs/s, seconds; ``agrees``: the interval of served − expected holds 0."""

    factor: float
    load_rps: float
    duration_s: float
    jobs: int
    distinct_items: int
    valid: bool
    attainment: float
    expected: float
    served: float
    served_interval: Interval
    difference_interval: Interval
    agrees: bool
    modality_share: dict[str, float]


class Mode(msgspec.Struct, frozen=True):
    """A modality set's accuracy on both splits, and the interval of their difference (test − validation)."""

    modalities: str
    validation: float
    test: float
    difference_interval: Interval
    agrees: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """``pools``: what items of the test split are made from, and how many of each kind there are."""

    service: str
    floor: float
    level: float
    pools: dict[str, int]
    runs: list[Run]
    modes: list[Mode]


class Split(msgspec.Struct, frozen=True):
    """A split's scores. Shapes: ``scores[label]`` [items]; ``groups[kind]`` [items]."""

    scores: dict[str, Floats]
    groups: Groups


def measure(bench: Bench) -> Result:
    """Score every mode on both splits, then serve."""
    validation = _split(bench, bench.service.validation, "validation")
    test = _split(bench, bench.service.test, "test")
    capacity = bench.live_capacity_rps.get("poise") or median_capacity(bench, "poise")
    items = load_labelled(bench.folder.resolve(bench.service.test or "", "test"), bench.service)
    runs = [
        _run(bench, factor, factor * capacity, items, validation, test.groups, 300 + at)
        for at, factor in enumerate(LOADS)
    ]
    modes = []
    for label, scores in validation.scores.items():
        found = test.scores[label]
        interval = _difference(scores, validation.groups, found, test.groups)
        agrees = interval.low <= 0 <= interval.high
        modes.append(Mode(label, float(scores.mean()), float(found.mean()), interval, agrees))
    return Result(
        service=bench.service.service,
        floor=bench.floor,
        level=LEVEL,
        pools={kind: len(np.unique(each)) for kind, each in test.groups.items()},
        runs=runs,
        modes=modes,
    )


def _split(bench: Bench, file: str | None, name: str) -> Split:
    """Answer a split with every modality set."""
    folder, service = bench.folder, bench.service
    if file is None:
        raise ValueError(f"the service names no {name} items")
    bench.say(f"accuracy: every modality set on the {name} split")
    items = load_labelled(folder.resolve(file, name), service)
    runner = open_staged(service, bench.variant, folder.resolve, threads=fingerprint("").cores)
    metric = open_metric(folder)
    labels = mode_labels(service, bench.variant)
    masks = [service.modality_index.mask(names_of(label)) for label in labels]
    scores: dict[str, list[Floats]] = {label: [] for label in labels}
    for start in range(0, len(items), BATCH):
        rows = np.arange(start, min(start + BATCH, len(items)))
        for label, outputs in zip(labels, runner.answer_sets(items.inputs, rows, masks), strict=True):
            scores[label].append(metric(outputs, items.label[rows], name))
    joined = {label: np.concatenate(parts) for label, parts in scores.items()}
    return Split(joined, _groups(bench.options.service, Path(file).stem, items))


def _groups(source: Path, split: str, items: LabelledItems) -> Groups:
    """Return what each item was made from, where the example's pools say it: arrays ``item_…``."""
    path = source / "data" / f"{split}_pool.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as pool:
            found = {
                name.removeprefix("item_"): np.asarray(pool[name], np.int64)
                for name in pool.files
                if name.startswith("item_") and len(pool[name]) == len(items)
            }
        if found:
            return found
    return {"item": np.arange(len(items))}


def _run(
    bench: Bench,
    factor: float,
    load: float,
    items: LabelledItems,
    validation: Split,
    groups: Groups,
    seed: int,
) -> Run:
    """Serve one load; the generator is this process."""
    least_jobs = bench.options.pick(3000, 300)
    duration_s = round(min(60.0, max(bench.options.pick(12, 4), least_jobs / load)), 1)
    jobs = draws(bench, load, duration_s, seed)
    folder: ServiceFolder = bench.folder
    with server(folder.root, "poise", bench.options.work / "server.log") as target:
        sent = run_load(
            jobs, bench.service, items, parse_url(target.url), contents=streams(seed).contents,
            options=LoadOptions(warm_up=0, min_jobs=int(bench.options.pick(1000, 100))),
        )  # fmt: skip
    report = summarise(sent.outcomes, duration_s, floor_scope=bench.service.guarantee.scope)
    share = report.modality_share
    expected_scores = np.asarray(sum(share[label] * validation.scores[label] for label in share))
    at = {kind: each[sent.score_items] for kind, each in groups.items()}
    difference = _difference(expected_scores, validation.groups, sent.scores, at)
    served = report.served_accuracy or 0.0
    bench.say(f"accuracy at {load:.1f} jobs/s: expected {report.mean_accuracy:.4f}, served {served:.4f}")
    return Run(
        factor=factor,
        load_rps=load,
        duration_s=duration_s,
        jobs=len(jobs),
        distinct_items=len(np.unique(sent.score_items)),
        valid=sent.health.valid,
        attainment=report.attainment,
        expected=report.mean_accuracy or 0.0,
        served=served,
        served_interval=_widest(
            np.quantile(means, _ends()) for means in (_means(sent.scores, each, 1) for each in at.values())
        ),
        difference_interval=difference,
        agrees=difference.low <= 0 <= difference.high,
        modality_share=share,
    )


def _difference(first: Floats, of_first: Groups, second: Floats, of_second: Groups) -> Interval:
    """Return the interval of mean(second) − mean(first), both drawn again by the same kind of pool."""
    shuffle = np.random.default_rng(3)
    return _widest(
        np.quantile(
            _means(second, of_second[kind], 1) - shuffle.permutation(_means(first, of_first[kind], 2)),
            _ends(),
        )
        for kind in of_first
    )


def _means(values: Floats, groups: NDArray[np.int64], seed: int) -> Floats:
    return bootstrap_mean(values, groups, np.random.default_rng(seed))


def _ends() -> Sequence[float]:
    return ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def _widest(intervals: Iterator[Floats]) -> Interval:
    low, high = max(intervals, key=lambda ends: float(ends[1] - ends[0])).tolist()
    return Interval(low, high)


def grids(result: Result) -> Iterator[Grid]:
    """Yield the runs and the modes."""
    pools = ", ".join(f"{count} {kind}s" for kind, count in result.pools.items())
    yield Grid(
        f"Accuracy promised and served, live: {result.service}, floor {result.floor:.3f}",
        [
            "load", "jobs/s", "jobs", "attainment", "expected", "served", f"{result.level:.0%} interval",
            "served − expected, points", "agree",
        ],
        [
            [
                f"{r.factor:g} × capacity",
                f"{r.load_rps:.0f}",
                f"{r.jobs}",
                f"{r.attainment:.1%}",
                f"{r.expected:.4f}",
                f"{r.served:.4f}",
                f"{r.served_interval.low:.3f} to {r.served_interval.high:.3f}",
                f"{(r.served - r.expected) * 100:+.1f} ({r.difference_interval.text()})",
                ("yes" if r.agrees else "no") + ("" if r.valid else " (generator late)"),
            ]
            for r in result.runs
        ],
        note=f"The test items are made from {pools}; the interval of the difference counts the validation "
        "split's uncertainty too. They agree where it holds 0.",
    )  # fmt: skip
    yield Grid(
        "Accuracy of each modality set on both splits",
        ["modality set", "validation", "test", "test − validation, points", "agree"],
        [
            [
                m.modalities,
                f"{m.validation:.4f}",
                f"{m.test:.4f}",
                f"{(m.test - m.validation) * 100:+.1f} ({m.difference_interval.text()})",
                "yes" if m.agrees else "no",
            ]
            for m in result.modes
        ],
    )
