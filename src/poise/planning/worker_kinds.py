"""Which worker kinds there are: resident sets, threads, devices and batch-time caps, and what each can do how fast."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from poise.domain.modalities import label_of
from poise.domain.profile import CapacityPoint, Profile, VariantProfile, latency_table
from poise.domain.rate_table import Rate, RateTable
from poise.domain.service import Device, Service
from poise.planning.accuracy_bounds import promised_accuracy
from poise.planning.joint_problem import Kind, LoadClass, Option

CAPS_OF_SLO = (0.5, 0.25)
"""Batch-time caps, as shares of each class's SLO: a long batch must not block an urgent job."""
SAME = 1e-6
"""SLOs and caps this close, relatively, are the same."""
MODALITIES_AFTER = ":"
"""``class:label`` is the load of those jobs of a class that bring only the modalities of a label."""


def batch_caps_s(service: Service) -> tuple[float, ...]:
    """Return the batch-time caps of a service's workers, falling. Units: seconds."""
    found: list[float] = []
    for cap_s in sorted(part * c.latency_slo_s for c in service.classes.values() for part in CAPS_OF_SLO):
        if not found or not same(found[-1], cap_s):
            found.append(cap_s)
    return tuple(reversed(found))


def same(one: float, other: float) -> bool:
    """Whether two durations are the same."""
    return math.isclose(one, other, rel_tol=SAME)


def profiled_threads(variant: VariantProfile, device: Device) -> frozenset[int]:
    """Return the numbers of threads that every stage of a variant was measured at."""
    each = [{p.threads for p in stage.latency if p.device == device} for stage in variant.stages]
    return frozenset(set.intersection(*each)) if each else frozenset()


def resident_sets(
    memory_bytes: Mapping[str, int], budget_bytes: float, most_workers: int
) -> tuple[tuple[str, ...], ...]:
    """Return the resident sets worth having: maximal ones of a share of the memory, and single variants.

    The shares are those of as many workers as there can be, half as many, a quarter, and so on to one. Of many
    variants not every maximal set is taken, but those of a greedy pass that begins with each variant in turn.
    Where all variants fit as many workers as there can be, that is the only set: others would save nothing but
    time to load, once, and could do less ever after.
    """
    if sum(memory_bytes.values()) * most_workers <= budget_bytes:
        return (tuple(memory_bytes),) if memory_bytes else ()
    names = list(memory_bytes)
    found: dict[frozenset[str], None] = {}
    workers = max(1, most_workers)
    while True:
        share = budget_bytes / workers
        fitting = [name for name in names if memory_bytes[name] <= share]
        maximal = _maximal_sets(fitting, memory_bytes, share)
        found.update(dict.fromkeys(sorted(maximal, key=lambda s: [names.index(n) for n in names if n in s])))
        if workers == 1 or (len(fitting) == len(names) and len(maximal) == 1):
            break
        workers = -(-workers // 2)
    found.update((frozenset((name,)), None) for name in names if memory_bytes[name] <= budget_bytes)
    return tuple(tuple(name for name in names if name in each) for each in found)


def without(
    sets: Sequence[tuple[str, ...]], avoided: frozenset[frozenset[str]]
) -> tuple[tuple[str, ...], ...]:
    """Return resident sets without those that cannot be loaded: instead, what leaves one variant out, and singles.

    Which of its variants is to blame is not known: one of these sets is without it.
    """
    found: dict[tuple[str, ...], None] = {}
    for each in sets:
        if frozenset(each) not in avoided:
            found[each] = None
            continue
        fewer = [tuple(name for name in each if name != gone) for gone in each]
        for smaller in (*fewer, *((name,) for name in each)):
            if smaller and frozenset(smaller) not in avoided:
                found[smaller] = None
    return tuple(found)


FEW_VARIANTS = 6
"""Of so many every subset is looked at."""


def _maximal_sets(
    names: Sequence[str], memory_bytes: Mapping[str, int], share: float
) -> frozenset[frozenset[str]]:
    if sum(memory_bytes[name] for name in names) <= share:
        return frozenset((frozenset(names),)) if names else frozenset()
    sets: set[frozenset[str]] = set()
    if len(names) <= FEW_VARIANTS:
        for mask in range(1, 1 << len(names)):
            members = frozenset(name for at, name in enumerate(names) if mask >> at & 1)
            if sum(memory_bytes[name] for name in members) <= share:
                sets.add(members)
        return frozenset(s for s in sets if not any(s < other for other in sets))
    for first in names:
        left, chosen = share - memory_bytes[first], [first]
        for name in names:
            if name != first and memory_bytes[name] <= left:
                chosen.append(name)
                left -= memory_bytes[name]
        sets.add(frozenset(chosen))
    return frozenset(sets)


class KindMaker:
    """Makes worker kinds of one service; what each variant can do is looked up once.

    ``prefix`` stands before the names of its classes, ``name`` is the service of its workers; both are empty where it
    has the budget for itself. Units: seconds.
    """

    def __init__(self, service: Service, profile: Profile, rates: RateTable, name: str = "") -> None:
        self.service = service
        self.profile = profile
        self.rates = rates
        self.name = name
        self._all = label_of(service.modalities)
        self._by_place: dict[tuple[str, int, Device, float], list[Rate]] = {}
        for rate in rates.rates:
            if rate.variant in service.variants:
                key = rate.variant, rate.threads, rate.device, self._cap(rate.batch_cap_s)
                self._by_place.setdefault(key, []).append(rate)
        self._options: dict[tuple[str, int, Device, float, tuple[str, ...]], tuple[Option, ...]] = {}

    @property
    def prefix(self) -> str:
        """What stands before the names of its classes."""
        return f"{self.name}/" if self.name else ""

    @property
    def caps_s(self) -> tuple[float, ...]:
        """The batch-time caps of its workers, falling."""
        return batch_caps_s(self.service)

    def _cap(self, cap_s: float) -> float:
        return next((known for known in self.caps_s if same(known, cap_s)), cap_s)

    def nearest_cap_s(self, cap_s: float | None) -> float:
        """Return the cap nearest to one; without one, to half the shortest SLO, as the scheduler takes it."""
        shortest_s = min(each.latency_slo_s for each in self.service.classes.values())
        wanted_s = CAPS_OF_SLO[0] * shortest_s if cap_s is None else cap_s
        return min(self.caps_s, key=lambda known_s: abs(known_s - wanted_s))

    def load_class(self, key: str, load_rps: float) -> LoadClass:
        """Return a class, or the part of it that brings only some modalities, as E4 knows it.

        Raises:
            ValueError: no such class, or no such modalities.
        """
        name, _, label = key.partition(MODALITIES_AFTER)
        known = self.service.classes.get(name)
        if known is None:
            raise ValueError(f"got class {name!r}, expected one of {sorted(self.service.classes)}")
        if label and not set(label.split("+")) <= set(self.service.modalities):
            raise ValueError(
                f"got modalities {label!r} of class {name!r}, expected some of {sorted(self.service.modalities)}"
            )
        return LoadClass(
            name=self.prefix + key,
            load_rps=load_rps,
            weight=known.weight,
            floor=known.accuracy_floor,
            scope=self.service.guarantee.scope,
            front_end_s=self.service.adapter.front_end_us * 1e-6,
        )

    def kinds(
        self,
        keys: Iterable[str],
        cores: int,
        memory_bytes: float,
        accelerators: Mapping[str, int],
        avoided: frozenset[frozenset[str]] = frozenset(),
    ) -> tuple[Kind, ...]:
        """Return the kinds that fit a budget and can do anything for some classes.

        ``avoided``: resident sets that cannot be loaded; see ``without``.
        """
        asked = tuple(keys)
        needed = {name: self.profile.variant(name).memory_bytes for name in self.service.variants}
        places = sorted(
            {
                (threads, device)
                for name, variant in self.service.variants.items()
                for device in variant.devices
                for threads in profiled_threads(self.profile.variant(name), device)
            }
        )
        found = []
        for threads, device in places:
            most = cores // threads if device == "cpu" else accelerators.get(device, 0)
            if not most:
                continue
            here = {
                name: size
                for name, size in needed.items()
                if device in self.service.variants[name].devices
                and threads in profiled_threads(self.profile.variant(name), device)
            }
            for resident in without(resident_sets(here, memory_bytes, most), avoided):
                for cap_s in batch_caps_s(self.service):
                    kind = self.kind(resident, threads, device, cap_s, asked)
                    if kind.options:
                        found.append(kind)
        return tuple(found)

    def kind(
        self,
        resident: tuple[str, ...],
        threads: int,
        device: Device,
        cap_s: float,
        keys: tuple[str, ...],
    ) -> Kind:
        """Return one kind."""
        options = tuple(
            option
            for name in resident
            for option in self._doing(name, threads, device, self._cap(cap_s), keys)
        )
        measured = [self.profile.variant(name) for name in resident]
        return Kind(
            variants=resident,
            options=options,
            service=self.name,
            threads=threads,
            device=device,
            batch_cap_s=cap_s,
            cores=threads if device == "cpu" else 0,
            memory_bytes=sum(each.memory_bytes for each in measured),
            load_s=max(each.load_time_s for each in measured),
            breakpoints=self._breakpoints,
        )

    @property
    def _breakpoints(self) -> tuple[int, ...]:
        points = set(self.rates.workers)
        for variant in self.profile.variants:
            points.update(point.cores for point in variant.capacity)
        return tuple(sorted(points | {1}))

    def _doing(
        self, name: str, threads: int, device: Device, cap_s: float, keys: tuple[str, ...]
    ) -> tuple[Option, ...]:
        """Return what a variant can do beside batches up to a cap."""
        place = name, threads, device, cap_s, keys
        found = self._options.get(place)
        if found is None:
            found = self._options[place] = tuple(self._looked_up(name, threads, device, cap_s, keys))
        return found

    def _looked_up(
        self, name: str, threads: int, device: Device, cap_s: float, keys: tuple[str, ...]
    ) -> Iterable[Option]:
        breakpoints = self._breakpoints
        at = [max(i for i, n in enumerate(self.rates.workers) if n <= most) for most in breakpoints]
        measured = self._measured(name, threads, device, cap_s)
        best = max(measured.values(), default=(math.inf, ()))[0]
        rates: dict[tuple[int, float], dict[str, tuple[float, ...]]] = {}
        for rate in self._by_place.get((name, threads, device, cap_s), ()):
            for key in keys:
                class_name, _, label = key.partition(MODALITIES_AFTER)
                label = label_of(label.split("+")) if label else self._all
                slo_s = self.service.classes[class_name].latency_slo_s
                if rate.modalities != label or not same(rate.slo_s, slo_s):
                    continue
                if label == self._all and class_name in measured and rate.accuracy >= best:
                    continue
                own = rates.setdefault((rate.batch, rate.accuracy), {})
                own[self.prefix + key] = tuple(rate.items_per_s[i] for i in at)
        for (_, accuracy), by_class in rates.items():
            yield Option(variant=name, accuracy=accuracy, rates=by_class)
        by_class = {self.prefix + key: measured[key][1] for key in keys if key in measured}
        if by_class:
            yield Option(variant=name, accuracy=best, rates=by_class)

    def _measured(
        self, name: str, threads: int, device: Device, cap_s: float
    ) -> dict[str, tuple[float, tuple[float, ...]]]:
        """Return accuracy and rates by class where capacity was measured at its SLO: one item after another."""
        variant = self.profile.variant(name)
        if threads != 1 or device != "cpu" or not variant.capacity:
            return {}
        modes = sum(len(each.modes) for each in self.profile.variants)
        confidence = self.service.guarantee.confidence
        best = max(variant.modes, key=lambda mode: promised_accuracy(mode, confidence, modes))
        try:
            item_s = sum(
                latency_table(stage.latency, "p99", threads=1)[1]
                for stage in variant.stages
                if best.label in stage.labels
            )
        except ValueError:
            return {}
        if item_s > cap_s * (1 + SAME):
            return {}
        found = {}
        for class_name, each in self.service.classes.items():
            points = [point for point in variant.capacity if same(point.slo_s, each.latency_slo_s)]
            if points:
                rates = _per_worker(points, self._breakpoints)
                found[class_name] = promised_accuracy(best, confidence, modes), rates
        return found


def _per_worker(points: Sequence[CapacityPoint], breakpoints: Sequence[int]) -> tuple[float, ...]:
    """Return the rate of each of n workers, at the largest n measured that is not above; 0 below the first.

    Rates that fall as workers are added are averaged with those before (the closest rates that do not fall, least
    squares, each point weighing as its cores): one pool of workers can do what several can, so that they fall is
    noise, and an optimum over noise would be workers in groups of just those sizes where it was kind.
    """
    runs: list[tuple[float, int, int]] = []  # (rps, cores, points) of points that share a rate
    ordered = sorted(points, key=lambda point: point.cores)
    for point in ordered:
        rps, cores, count = point.rps, point.cores, 1
        while runs and runs[-1][0] / runs[-1][1] >= rps / cores:
            before = runs.pop()
            rps, cores, count = rps + before[0], cores + before[1], count + before[2]
        runs.append((rps, cores, count))
    rates = [rps / cores for rps, cores, count in runs for _ in range(count)]
    measured = [point.cores for point in ordered]
    return tuple(rates[at - 1] if (at := bisect_right(measured, count)) else 0.0 for count in breakpoints)
