"""Measures a whole service on this machine: what each way of answering costs, and how right it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from poise.domain.decoding import decode_json
from poise.domain.modalities import label_of, names_of
from poise.domain.profile import (
    WAY_STAGE,
    LatencyPoint,
    ModeProfile,
    Profile,
    StageProfile,
    VariantProfile,
)
from poise.domain.service import Service
from poise.errors import ConfigError
from poise.files import LabelledItems, ServiceFolder, load_labelled
from poise.files.metric import open_metric
from poise.profiling.accuracy import measure_accuracy
from poise.profiling.companions import companions
from poise.profiling.footprint import measure_footprint
from poise.profiling.independence import independent_items
from poise.profiling.latency import (
    StageKey,
    StagePoint,
    batch_sizes,
    settings,
    stage_calls,
    stage_points,
    time_stages,
)
from poise.profiling.partial import SAVE_EVERY_S, PartialFile, SettingRun, run_key
from poise.profiling.timing import Timings
from poise.profiling.way import measure_way
from poise.runtimes import mode_labels, open_staged, stages_of
from poise.runtimes.cores import usable_cores
from poise.runtimes.machine import fingerprint, first_in_line, pinned, runtime_names
from poise.runtimes.tensors import item_bytes

OnProgress = Callable[[float, float, str], None]
"""(share done, seconds left, what is being measured)."""

Modes = tuple[ModeProfile, ...]

BUDGET_S, BUDGET_MORE_S = 60.0, 30.0
WAY_FRAC = 0.08
WAY_MOST_S = 3.0
LATENCY_LEAST_FRAC = 0.5
"""Latencies get at least this share of the budget, even if all else has taken it."""


def measure_profile(
    folder: ServiceFolder,
    *,
    budget_s: float | None = None,
    threads: Sequence[int] | None = None,
    known: Profile | None = None,
    partial: PartialFile | None = None,
    on_progress: OnProgress = lambda done_frac, left_s, what: None,
) -> Profile:
    """Measure every variant of a service that is not emulated; the profiles of emulated ones are carried over.

    ``threads`` are the numbers of threads of a worker to measure, by default ``default_threads``. ``budget_s`` is about
    how long it takes, by default ``BUDGET_S``, and ``BUDGET_MORE_S`` for each setting but the first; latencies get what
    accuracy and loading leave of it, and half of it at least. Accuracy takes as long as the validation data takes to
    answer: of the variants whose files and validation data are those of the profile ``known``, it is taken from there.
    What ``partial`` holds of an interrupted run is not measured again, and the time that it took counts.

    Raises:
        ConfigError: nothing to measure, no validation data to choose between modes by, or a service that cannot be
            opened.
        WorkerError: a model failed.
    """
    service = folder.service
    threads = default_threads(service) if threads is None else threads
    measured = [name for name, variant in service.variants.items() if variant.runtime != "emulated"]
    check_can_measure(folder, measured, threads)
    machine = fingerprint(runtime_names(service))
    hashes = folder.file_hashes()
    partial = PartialFile(None) if partial is None else partial
    points = stage_points(service, measured)
    done = partial.begin(run_key(folder, hashes, machine, points, threads[0]))
    if budget_s is None:
        budget_s = BUDGET_S + BUDGET_MORE_S * (len(settings(threads, len(_budget_cores(service)))) - 1)
    progress = _Progress(budget_s, on_progress, done.spent_s)
    items = _validation(folder)
    modes = _accuracies(folder, measured, items, _known_modes(folder, hashes, known), partial, progress)
    _loading(folder, measured, threads[0], partial, progress)
    latency = _latency(folder, points, items, threads, partial, progress)
    variants = {
        name: VariantProfile(
            name=name,
            load_time_s=done.footprints[name].load_time_s,
            memory_bytes=done.footprints[name].memory_bytes,
            modes=modes[name],
            stages=_stages(folder, name, latency, done.way[label_of(_largest_set(folder, name))], threads),
        )
        for name in measured
    }
    variants |= _emulated(folder, measured)
    return Profile(
        format=1,
        service=service.service,
        files=hashes,
        device=machine,
        variants=tuple(variants[name] for name in service.variants),
    )


def default_threads(service: Service) -> tuple[int, ...]:
    """Return 1, and all cores of the service's budget as far as this machine has them."""
    return tuple(sorted({1, len(_budget_cores(service))}))


def _budget_cores(service: Service) -> tuple[int, ...]:
    return usable_cores()[-service.budget.cores :]


def check_can_measure(folder: ServiceFolder, measured: Sequence[str], threads: Sequence[int]) -> None:
    """Check that there is something to measure, and something to measure it with.

    Raises:
        ConfigError: emulated variants only, no validation data where there is a choice between modes, or threads
            that this machine does not have.
    """
    service = folder.service
    if not measured:
        raise ConfigError(
            "nothing to measure: every variant is emulated, and its profile is written by hand",
            file=folder.file.name,
            field="variants",
            expected="a variant with a model",
        )
    modes = sum(len(mode_labels(service, name)) for name in measured)
    if service.validation is None and modes > 1:
        raise ConfigError(
            f"no validation data, and {modes} modes to choose between",
            file=folder.file.name,
            field="validation",
            expected="an npz of the inputs and 'label', to measure how right each mode is",
        )
    cores = len(usable_cores())
    if not threads or len(set(threads)) != len(threads) or not all(1 <= count <= cores for count in threads):
        raise ConfigError(
            f"got threads {', '.join(map(str, threads)) or 'none'}",
            field="threads",
            expected=f"different numbers from 1 to {cores}, the cores of this machine",
        )


class _Progress:
    """Tells how much of the budget is spent; ``before_s`` of it were spent by an interrupted run."""

    def __init__(self, budget_s: float, tell: OnProgress, before_s: float = 0.0) -> None:
        self.budget_s = budget_s
        self._tell = tell
        self._start = time.perf_counter() - before_s
        self._last = 0.0

    @property
    def spent_s(self) -> float:
        return time.perf_counter() - self._start

    @property
    def left_s(self) -> float:
        return max(0.0, self.budget_s - self.spent_s)

    def tell_before_latency(self, what: str, phase_left_s: float = 0.0) -> None:
        """Report on a phase that latencies follow, with what they will take yet."""
        after_s = max(self.left_s - phase_left_s, LATENCY_LEAST_FRAC * self.budget_s)
        self.tell(what, phase_left_s + after_s)

    def tell(self, what: str, left_s: float) -> None:
        """Report; the share done never falls, whatever turns out to be left."""
        self._last = max(self._last, self.spent_s / max(self.spent_s + left_s, 1e-9))
        self._tell(min(self._last, 1.0), left_s, what)


def _validation(folder: ServiceFolder) -> LabelledItems | None:
    if folder.service.validation is None:
        return None
    return load_labelled(folder.resolve(folder.service.validation, "validation"), folder.service)


def _accuracies(
    folder: ServiceFolder,
    measured: Sequence[str],
    items: LabelledItems | None,
    known: Mapping[str, Modes],
    partial: PartialFile,
    progress: _Progress,
) -> dict[str, Modes]:
    """Return the accuracy of each variant's modes; without validation data it is unknown, and counts as 0."""
    service = folder.service
    if items is None:
        return {
            name: tuple(ModeProfile(modalities=names_of(s), accuracy=0.0) for s in mode_labels(service, name))
            for name in measured
        }
    found = {**known, **partial.kept.modes}
    missing = [name for name in measured if name not in found]
    if not missing:
        return found
    metric, independent = open_metric(folder), independent_items(folder, items)
    start = time.perf_counter()
    for at, name in enumerate(missing):

        def on_batch(done: float, at: int = at, name: str = name) -> None:
            share = (at + done) / len(missing)
            left_s = (time.perf_counter() - start) * (1 - share) / share
            progress.tell_before_latency(f"accuracy of {name}", left_s)

        runner = open_staged(service, name, folder.resolve, threads=len(usable_cores()))
        found[name] = measure_accuracy(
            service, name, runner, items, metric, independent=independent, on_batch=on_batch
        )
        partial.kept.modes[name] = found[name]
        partial.save(progress.spent_s)
    return found


def _loading(
    folder: ServiceFolder, measured: Sequence[str], threads: int, partial: PartialFile, progress: _Progress
) -> None:
    """Measure load time and memory of each variant, and the way to a worker, as far as they are not there yet."""
    done = partial.kept
    for name in measured:
        if name not in done.footprints:
            progress.tell_before_latency(f"load time and memory of {name}")
            done.footprints[name] = measure_footprint(folder, name, threads=threads)
            partial.save(progress.spent_s)
    for members in {_largest_set(folder, name) for name in measured}:
        if label_of(members) not in done.way:
            done.way[label_of(members)] = _way(folder, members, progress)
            partial.save(progress.spent_s)


def _known_modes(folder: ServiceFolder, hashes: Mapping[str, str], known: Profile | None) -> dict[str, Modes]:
    """Return the modes of the variants that are, file by file and mode by mode, those of a profile."""
    if known is None or known.service != folder.service.service or folder.service.validation is None:
        return {}
    modes: dict[str, Modes] = {}
    for variant in known.variants:
        declared = folder.service.variants.get(variant.name)
        if declared is None or declared.runtime in ("emulated", "python"):
            continue  # which files the operator's code reads is not known
        files = [*folder.model_files(declared).values(), folder.service.validation]
        same_files = all(known.files.get(path) == hashes[path] for path in files)
        by_label = {mode.label: mode for mode in variant.modes}
        labels = mode_labels(folder.service, variant.name)
        if same_files and by_label.keys() == set(labels):
            modes[variant.name] = tuple(by_label[label] for label in labels)
    return modes


def _largest_set(folder: ServiceFolder, variant: str) -> tuple[str, ...]:
    """Return the modality set of a variant that carries most data."""
    service = folder.service
    sizes = {
        name: sum(item_bytes(spec) for spec in modality.inputs.values())
        for name, modality in service.modalities.items()
    }
    sets = [names_of(label) for label in mode_labels(service, variant)]
    return max(sets, key=lambda names: sum(sizes[name] for name in names))


def _way(folder: ServiceFolder, members: tuple[str, ...], progress: _Progress) -> list[LatencyPoint]:
    progress.tell_before_latency("the way to a worker")
    budget_s = min(WAY_MOST_S, WAY_FRAC * progress.budget_s)
    return measure_way(folder, members, batch_sizes(folder.service.scheduler.max_batch), budget_s=budget_s)


def _latency(
    folder: ServiceFolder,
    points: Sequence[StagePoint],
    items: LabelledItems | None,
    threads: Sequence[int],
    partial: PartialFile,
    progress: _Progress,
) -> dict[StageKey, list[LatencyPoint]]:
    """Time all stages at each setting; the budget that is left is shared evenly among those that are left."""
    runs = [partial.kept.at(setting) for setting in settings(threads, len(_budget_cores(folder.service)))]
    left = [run for run in runs if not run.points]
    least_s = LATENCY_LEAST_FRAC * progress.budget_s * len(left) / len(runs)
    begun_s = sum(run.timings.spent_s for run in left)  # of the budget too, but theirs
    each_s = max(progress.left_s + begun_s, least_s) / max(1, len(left))
    for at, run in enumerate(left):
        what = f"latency, {run.setting} ({len(runs) - len(left) + at + 1} of {len(runs)})"
        later_s = each_s * (len(left) - at - 1) - sum(later.timings.spent_s for later in left[at + 1 :])

        def on_round(done: float, what: str = what, later_s: float = later_s) -> None:
            partial.save(progress.spent_s, at_most_every_s=SAVE_EVERY_S)
            progress.tell(what, each_s * (1 - done) + later_s)

        on_round(0.0)
        _time_setting(folder, points, items, run, each_s, on_round)
        partial.save(progress.spent_s)
    found: dict[StageKey, list[LatencyPoint]] = {}
    for run in runs:
        for point, measured in zip(points, run.points, strict=True):
            found.setdefault((point.variant, point.stage), []).append(measured)
    return found


def _time_setting(
    folder: ServiceFolder,
    points: Sequence[StagePoint],
    items: LabelledItems | None,
    run: SettingRun,
    budget_s: float,
    on_round: Callable[[float], None],
) -> None:
    """Time all stages at one setting, and keep its points in place of its runs."""
    setting, service = run.setting, folder.service
    mine, *others = setting.places(usable_cores())
    variants = list(dict.fromkeys(point.variant for point in points))
    with pinned(mine), first_in_line():  # so are the threads of what is opened
        runners = {
            name: open_staged(service, name, folder.resolve, threads=setting.threads) for name in variants
        }
    calls = stage_calls(service, runners, items, points)
    with companions(folder, variants, threads=setting.threads, places=others) as beside:
        time_stages(
            calls,
            waits=setting.threads > 1,
            cores=mine,
            budget_s=budget_s,
            timings=run.timings,
            on_visit=beside.follow,
            on_round=on_round,
        )
    run.points = [
        timed.summary(
            batch=point.batch,
            threads=setting.threads,
            busy_cores=setting.busy_cores,
            bucket=point.bucket,
        )
        for point, timed in zip(points, run.timings.results, strict=True)
    ]
    run.timings = Timings()


def _stages(
    folder: ServiceFolder,
    variant: str,
    latency: dict[StageKey, list[LatencyPoint]],
    way: list[LatencyPoint],
    threads: Sequence[int],
) -> tuple[StageProfile, ...]:
    """Return the stages of a variant, and the way, which is the same whatever the threads."""
    service = folder.service
    stages = [
        StageProfile(
            name=stage,
            modality_sets=tuple(names_of(label) for label in labels),
            latency=tuple(latency[variant, stage]),
        )
        for stage, labels in stages_of(service, variant)
    ]
    points = tuple(msgspec.structs.replace(point, threads=count) for count in threads for point in way)
    sets = tuple(names_of(label) for label in mode_labels(service, variant))
    return (*stages, StageProfile(name=WAY_STAGE, modality_sets=sets, latency=points))


def _emulated(folder: ServiceFolder, measured: Sequence[str]) -> dict[str, VariantProfile]:
    """Return what the present profile says of the emulated variants.

    Raises:
        ConfigError: there are some, and the profile does not have them.
    """
    emulated = [name for name in folder.service.variants if name not in measured]
    if not emulated:
        return {}
    path = folder.resolve(folder.service.profile, "profile", must_exist=False)
    present = decode_json(path.read_bytes(), Profile, path.name) if path.is_file() else None
    known = {variant.name: variant for variant in present.variants} if present else {}
    missing = [name for name in emulated if name not in known]
    if missing:
        raise ConfigError(
            f"emulated variant {missing[0]!r} has no profile",
            file=path.name,
            field="variants",
            expected="its modes and stages, written by hand",
        )
    return {name: known[name] for name in emulated}
