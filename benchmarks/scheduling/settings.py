"""What the policies are compared on: a service with its profile, one worker, and the jobs that arrive.

- ``flagship`` and ``sensors``: the examples, each with one variant and one worker core. A job is one item, arrivals
  are Poisson, the SLO is 20 times the batch-1 latency of the most accurate mode.
- ``tvlt-F``: the accuracies of TVLT on CMU-MOSEI and the load of MOSEL's released artifact: jobs of 1 to 32 items,
  paced within each second in proportion to their size, and due 17 ms after the time that their size takes with all
  modalities. Latency curves are not published, so three shapes are declared: a batch of *n* takes ``f + p·n`` with
  ``f/p = F`` = 0, 4, 16. The latencies have no spread. The graphs layout: one whole graph for each modality set.
- ``tvlt-F-slo20``: the same service and sizes, but Poisson arrivals and one SLO of 20 times the batch-1 latency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from suite.fluid_bound import jobs_bound_rps

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.domain.service import (
    Budget,
    Modality,
    SchedulerSettings,
    Service,
    SLOClass,
    TensorSpec,
    Variant,
)
from poise.domain.workload import Arrivals, Items
from poise.files import open_service
from poise.planning.latency_model import LatencyModel, latency_model
from poise.workload import JobDraw, draw_arrivals, streams
from poise.workload.jobs import draw_items

Scope = Literal["class", "job"]
SCOPES: tuple[Scope, ...] = ("class", "job")
FLOORS_OF_RANGE = (0.25, 0.5, 0.75, 0.95)
SLO_OF_ITEM = 20.0
"""The SLO, as a multiple of the batch-1 latency of the most accurate mode."""

TVLT_ACCURACY: Mapping[tuple[str, ...], float] = {
    ("audio", "video"): 0.7431962,
    ("audio",): 0.72329473,
    ("video",): 0.66001713,
}
"""Published with MOSEL's artifact (repository BDHU/MOSEL)."""
TVLT_COST: Mapping[tuple[str, ...], float] = {("audio", "video"): 1.0, ("audio",): 0.75, ("video",): 0.4}
"""Declared: latency of a mode against that of all modalities. In this order all three modes matter: were audio the
cheaper one, video would be beaten in both, and three of the four floors would be met by audio alone."""
TVLT_ITEM_S = 0.020
"""Declared: batch-1 latency with all modalities."""
TVLT_SHAPES = (0, 4, 16)
TVLT_SLACK_S = 0.017
TVLT_ITEMS = Items(dist="normal", mean=1, sd=6, min=1, max=32)
LARGEST_BATCH = 32

Sizes = Mapping[int, float]
"""Items in a job -> its probability."""


class Setting:
    """A service of one variant on one worker, with the jobs that are drawn for it. Units: seconds, jobs/s.

    ``slack_s``: jobs are due so long after the time that their size takes in the most accurate mode (None: after the
    SLO). ``paced``: arrivals are paced as in MOSEL's artifact, not Poisson. ``floors``: at which shares of the range
    loads are searched for.
    """

    def __init__(
        self,
        name: str,
        service: Service,
        profile: Profile,
        *,
        items: Items | None = None,
        slack_s: float | None = None,
        paced: bool = False,
        floors: Sequence[float] = FLOORS_OF_RANGE,
    ) -> None:
        self.name = name
        self.service = service
        self.profile = profile
        self.items = items or Items()
        self.slack_s = slack_s
        self.paced = paced
        self.floors = tuple(floors)
        self._bounds: dict[tuple[float, Scope], float] = {}

    @cached_property
    def mean_model(self) -> LatencyModel:
        """The variant with its mean latencies."""
        variant = next(iter(self.service.variants))
        return latency_model(
            self.profile.variant(variant),
            self.service.modality_index,
            statistic="mean",
            threads=1,
            max_batch=self.service.scheduler.max_batch,
        )

    @cached_property
    def sizes(self) -> Sizes:
        """How likely a job has how many items: counted over a million draws where they are drawn at all."""
        drawn = draw_items(
            self.items, 1 if self.items.dist == "constant" else 1_000_000, np.random.default_rng(0)
        )
        values, counts = np.unique(drawn, return_counts=True)
        return dict(zip(values.tolist(), (counts / len(drawn)).tolist(), strict=True))

    @property
    def slo_s(self) -> float:
        """The latency SLO of the default class."""
        return self.service.classes[self.service.default_class].latency_slo_s

    def best_s(self, items: int) -> float:
        """Return the mean latency of the most accurate mode for so many items."""
        model = self.mean_model
        best = max(range(len(model.sets)), key=model.accuracy.__getitem__)
        whole, rest = divmod(items, model.max_batch)
        each = [
            model.latency_s([n * (s == best) for s in range(len(model.sets))])
            for n in (model.max_batch, rest)
        ]
        return whole * each[0] + each[1]

    @cached_property
    def due_s(self) -> Mapping[int, float]:
        """How long after its arrival a job is due, by its size."""
        return {
            n: self.slo_s if self.slack_s is None else min(self.slo_s, self.best_s(n) + self.slack_s)
            for n in range(self.items.min, self.items.max + 1)
        }

    def deadline_s(self, items: int) -> float:
        """Return how long after its arrival a job of so many items is due."""
        return self.due_s[items]

    def floor_at(self, share: float) -> float:
        """Return the accuracy at a share of the range of the modes' accuracies, rounded, at most the highest."""
        low, high = min(self.mean_model.accuracy), max(self.mean_model.accuracy)
        return min(high, round(low + share * (high - low), 4))

    def bound_rps(self, floor: float, scope: Scope) -> float:
        """Return the fluid bound of one worker."""
        found = self._bounds.get((floor, scope))
        if found is None:
            each = scope == "job"
            found = jobs_bound_rps(self.mean_model, self.sizes, self.deadline_s, floor, each=each)
            self._bounds[floor, scope] = found
        return found

    @cached_property
    def all_modalities_rps(self) -> float:
        """What one worker carries at most when every item uses the most accurate mode."""
        return self.bound_rps(max(self.mean_model.accuracy), "class")

    def changed(self, *, cores: int = 1, jitter: float = 0.0, scale: float = 1.0) -> Setting:
        """Return it with more workers, with another spread of latencies, or with all latencies multiplied.

        ``jitter``: every latency is normally distributed about its mean, with this share of it as the deviation (0: as
        it was). Deadlines stay as they are.
        """
        budget = msgspec.structs.replace(self.service.budget, cores=cores)
        found = Setting(
            self.name,
            msgspec.structs.replace(self.service, budget=budget),
            _with_latencies(self.profile, jitter, scale),
            items=self.items,
            slack_s=self.slack_s,
            paced=self.paced,
        )
        found.due_s = self.due_s
        return found

    def served(self, floor: float, scope: Scope) -> Service:
        """Return the service with its classes' floors set, and the scope."""
        service = self.service
        classes = {
            n: msgspec.structs.replace(c, accuracy_floor=floor, max_floor=None)
            for n, c in service.classes.items()
        }
        guarantee = msgspec.structs.replace(service.guarantee, scope=scope)
        return msgspec.structs.replace(service, classes=classes, guarantee=guarantee)

    def draw(
        self, load: float, duration_s: float, seed: int, arrivals: Arrivals | None = None
    ) -> list[JobDraw]:
        """Draw the jobs; floors and deadlines are the class's but where the setting says otherwise."""
        source = streams(seed)
        times: NDArray[np.float64]
        if self.paced and arrivals is None:
            times, sizes = self._paced(load, duration_s, source.items)
        else:
            process = arrivals or Arrivals(process="poisson", rate_rps=load, duration_s=duration_s)
            times, _ = draw_arrivals(process, source.arrivals, None)
            sizes = draw_items(self.items, len(times), source.items)
        due = {n: None if self.slack_s is None else self.deadline_s(n) for n in np.unique(sizes).tolist()}
        name, every = self.service.default_class, self.service.modality_index.all
        return [
            JobDraw(number, at_s, name, size, due[size], None, every)
            for number, (at_s, size) in enumerate(zip(times.tolist(), sizes.tolist(), strict=True))
        ]

    def _paced(
        self, load: float, duration_s: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw a fixed number of jobs for each second, each followed by a gap in proportion to its size."""
        seconds = math.ceil(duration_s)
        ends = np.round(np.arange(seconds + 1) * load).astype(int)
        sizes = draw_items(self.items, int(ends[-1]), rng)
        times = np.empty(len(sizes))
        for second, (first, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
            before = np.concatenate(([0], np.cumsum(sizes[first:end])))
            times[first:end] = second + before[:-1] / max(1, before[-1])
        kept = times < duration_s
        return times[kept], sizes[kept]


def example(name: str, folder: Path) -> Setting:
    """Return an example's setting, with the SLO that the comparison is made at."""
    opened = open_service(folder)
    service, profile = opened.service, opened.load_profile()
    item_s = Setting(name, service, profile).best_s(1)
    slo = SLOClass(latency_slo_ms=round(SLO_OF_ITEM * item_s * 1e3, 1))
    return Setting(name, msgspec.structs.replace(service, classes={service.default_class: slo}), profile)


def tvlt(shape: int, *, as_artifact: bool = True) -> Setting:
    """Return TVLT with ``f/p`` of a shape. In the artifact's settings the SLO is the longest deadline of any job."""
    name = f"tvlt-{shape}" + ("" if as_artifact else "-slo20")
    item_s = TVLT_ITEM_S / (1 + shape)
    longest_s = (shape + TVLT_ITEMS.max) * item_s + TVLT_SLACK_S
    service, profile = graphs_service(
        name,
        [(names, accuracy, TVLT_COST[names] * item_s) for names, accuracy in TVLT_ACCURACY.items()],
        fixed=shape,
        slo_s=longest_s if as_artifact else SLO_OF_ITEM * TVLT_ITEM_S,
    )
    if not as_artifact:
        return Setting(name, service, profile, items=TVLT_ITEMS, floors=(0.5, 0.95))
    return Setting(name, service, profile, items=TVLT_ITEMS, slack_s=TVLT_SLACK_S, paced=True)


def blocking() -> Setting:
    """Return a service whose full batch takes 400 ms by all modalities, half of that by one. The SLO is 2 s."""
    each_s = 0.4 / (LARGEST_BATCH + 2)
    service, profile = graphs_service(
        "blocking", [(("whole", "part"), 0.9, each_s), (("part",), 0.8, each_s / 2)], fixed=2, slo_s=2.0
    )
    return Setting("blocking", service, profile)


def graphs_service(
    name: str, modes: Sequence[tuple[tuple[str, ...], float, float]], *, fixed: float, slo_s: float
) -> tuple[Service, Profile]:
    """Return an emulated service in the graphs layout.

    ``modes`` are (modalities, accuracy, seconds that each item adds); a batch costs ``fixed`` items' time in addition.
    """
    modalities = sorted({modality for names, _, _ in modes for modality in names})
    spec = TensorSpec(datatype="FP32", shape=(1,))
    service = Service(
        format=1,
        service=name,
        modalities={modality: Modality(inputs={modality: spec}) for modality in modalities},
        outputs={"logits": spec},
        variants={"only": Variant(runtime="emulated")},
        classes={"default": SLOClass(latency_slo_ms=slo_s * 1e3)},
        budget=Budget(cores=1),
        scheduler=SchedulerSettings(max_batch=LARGEST_BATCH),
    )
    variant = VariantProfile(
        name="only",
        modes=tuple(ModeProfile(modalities=names, accuracy=a, samples=1000) for names, a, _ in modes),
        stages=tuple(
            StageProfile(
                name="+".join(names),
                modality_sets=(names,),
                latency=tuple(LatencyPoint(batch=b, mean_s=(fixed + b) * item_s) for b in (1, LARGEST_BATCH)),
            )
            for names, _, item_s in modes
        ),
    )
    return service, Profile(format=1, service=name, variants=(variant,))


def _with_latencies(profile: Profile, jitter: float, scale: float) -> Profile:
    def point(known: LatencyPoint) -> LatencyPoint:
        times = {field: getattr(known, field) for field in ("mean_s", "p50_s", "p95_s", "p99_s")}
        if jitter:
            times = {"mean_s": 1.0, "p50_s": 1.0, "p95_s": 1 + 1.645 * jitter, "p99_s": 1 + 2.326 * jitter}
            times = {field: value * known.mean_s for field, value in times.items()}
        scaled = {field: None if value is None else value * scale for field, value in times.items()}
        return msgspec.structs.replace(known, **scaled)

    return msgspec.structs.replace(
        profile,
        variants=tuple(
            msgspec.structs.replace(
                variant,
                stages=tuple(
                    msgspec.structs.replace(stage, latency=tuple(map(point, stage.latency)))
                    for stage in variant.stages
                ),
            )
            for variant in profile.variants
        ),
    )
