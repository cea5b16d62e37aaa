"""What all benchmarks share: the options, a private copy of the example service, and its profile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime
from functools import cached_property
from pathlib import Path

import msgspec
from rich.console import Console

from poise.cli.demo import FLOOR_OF_RANGE
from poise.domain.profile import Profile
from poise.domain.service import Service
from poise.files import ServiceFolder, open_service
from poise.planning.latency_model import LatencyModel, latency_model
from poise.planning.service_model import ServiceModel, VariantPlans

from .fluid_bound import fluid_bound_rps

err = Console(stderr=True)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to run. Units: seconds.

    ``keep_profile``: take the service's own profile and do not measure. ``jobs``: processes that simulate at once.
    """

    service: Path
    results: Path
    work: Path
    quick: bool
    repeats: int
    keep_profile: bool
    jobs: int = 1

    def pick(self, full: float, quick: float) -> float:
        """Return the one or the other number, by ``quick``."""
        return quick if self.quick else full


class Bench:
    """The options, and what is made once for all benchmarks, when it is first asked for.

    The service is a copy with its first variant alone and one worker core, in a folder of its own.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.capacities: dict[tuple[str, str], list[float]] = {}
        """(policy, guarantee scope) -> simulated capacities, one for each seed. Units: jobs/s."""
        self.live_capacity_rps: dict[str, float] = {}
        """Policy -> capacity found live. Units: jobs/s."""
        self._log: Path | None = None

    def begin(self, name: str) -> None:
        """Begin a benchmark: from now on its log, ``logs/<name>.txt`` beside the results, is written, anew."""
        self._log = self.options.results / "logs" / f"{name}.txt"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_text("")

    def say(self, what: str) -> None:
        """Say on stderr what is going on, and in the log, with the time."""
        err.print(what, highlight=False, style="dim", soft_wrap=True)
        if self._log is not None:
            with self._log.open("a") as log:
                log.write(f"{datetime.now().isoformat(timespec='seconds')} {what}\n")

    @property
    def seeds(self) -> range:
        """The seeds of simulated runs: as many as repeats."""
        return range(1, self.options.repeats + 1)

    @cached_property
    def folder(self) -> ServiceFolder:
        """The copied service, without a profile unless ``keep_profile``."""
        return self._copied(self.options.service, self.options.work / "service")

    @cached_property
    def profile(self) -> Profile:
        """The profile, measured on this machine unless ``keep_profile``."""
        self._measure(self.folder)
        return self.folder.load_profile()

    def measured(self) -> None:
        """Make sure that the copied service has a profile in its folder."""
        _ = self.profile

    @cached_property
    def sensors(self) -> ServiceFolder | None:
        """The second example, copied and profiled; None where it is not there (or not its profile, that is kept)."""
        source = self.options.service.parent / "sensors"
        needed = ["service.yaml", *(["profile.json"] if self.options.keep_profile else [])]
        if not all((source / name).is_file() for name in needed):
            return None
        folder = self._copied(source, self.options.work / "sensors")
        self._measure(folder)
        return folder

    def _copied(self, source: Path, copy: Path) -> ServiceFolder:
        """Copy an example, with its profile only if that is kept."""
        if (source / "derive.py").is_file():
            self.say(f"deriving the arrays of {source.name}")
            run([sys.executable, "derive.py"], cwd=source)
        copy_service(open_service(source), copy, with_profile=self.options.keep_profile)
        return open_service(copy)

    def _measure(self, folder: ServiceFolder) -> None:
        """Profile a copied example, unless its profile is kept."""
        if not self.options.keep_profile:
            budget_s = self.options.pick(60, 12)
            self.say(f"profiling {folder.service.service}, about {budget_s:g} s")
            run(poise_command("profile", str(folder.root), "--budget-s", str(budget_s)))

    @property
    def service(self) -> Service:
        """The copied service's file."""
        return self.folder.service

    @property
    def variant(self) -> str:
        """The one variant."""
        return next(iter(self.service.variants))

    @cached_property
    def plans(self) -> VariantPlans:
        """What the scheduler plans with."""
        return ServiceModel(self.service, self.profile).plans(self.variant)

    @cached_property
    def mean_model(self) -> LatencyModel:
        """The variant with its mean latencies."""
        return latency_model(
            self.profile.variant(self.variant),
            self.service.modality_index,
            statistic="mean",
            threads=1,
            max_batch=self.service.scheduler.max_batch,
        )

    @property
    def slo_s(self) -> float:
        """The latency SLO of the default class, in seconds."""
        return self.service.classes[self.service.default_class].latency_slo_s

    @cached_property
    def floor(self) -> float:
        """The demo's floor: at two thirds of the range of the modes' measured accuracies."""
        low, high = min(self.plans.expected_accuracy), max(self.plans.expected_accuracy)
        return round(low + FLOOR_OF_RANGE * (high - low), 3)

    @cached_property
    def all_modalities_rps(self) -> float:
        """What one core carries when every item uses the most accurate mode, in jobs/s."""
        return fluid_bound_rps(self.mean_model, self.slo_s, max(self.mean_model.accuracy))


def copy_service(source: ServiceFolder, target: Path, *, with_profile: bool = False) -> None:
    """Copy a service with its first variant alone and one worker core; arrays are linked where that works."""
    service = source.service
    name, variant = next(iter(service.variants.items()))
    alone = msgspec.structs.replace(
        service,
        variants={name: variant},
        allocation=None,
        budget=msgspec.structs.replace(service.budget, cores=1),
    )
    write_service(alone, target)
    files = [*source.model_files(variant).values()]
    files += [path for path in (service.validation, service.test) if path]
    if service.validation:
        files.append(str(Path(service.validation).with_suffix(".independent.json")))
    if with_profile:
        files.append(service.profile)
    for path in files:
        if (source.root / path).is_file():
            link_or_copy(source.root / path, target / path)


def write_service(service: Service, folder: Path) -> None:
    """Write a service file; JSON is YAML too."""
    folder.mkdir(parents=True)
    (folder / "service.yaml").write_bytes(msgspec.json.format(msgspec.json.encode(service)))


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where that is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def poise_command(*words: str) -> list[str]:
    """Return a command line of poise."""
    return [sys.executable, "-m", "poise.cli.main", *words]


def run(command: list[str], cwd: Path | None = None) -> bytes:
    """Run a command and return what it prints.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}: {said[-2000:]}")
    return done.stdout
