"""E4's configurations: the ways in which workers of a variant answer, for whose rates the simulator is asked.

A configuration is a variant, a largest batch and a point of the frontier of that batch. A smaller batch of it is
answered by the cheapest plan that is no less accurate, so that its accuracy holds for every batch. Of a batch's
frontier the vertices of the upper hull are taken, at most ``MOST_POINTS``: mixing over time gives what lies between.
A batch size that does not answer more items per second than a smaller one, as accurately, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from poise.domain.profile import LatencyStatistic, Profile
from poise.domain.service import Device, Service
from poise.planning.accuracy_bounds import promised_accuracy
from poise.planning.frontier import Frontier, frontiers
from poise.planning.latency_model import LatencyModel, latency_model, restrict
from poise.planning.service_time import knots_of

MOST_POINTS = 4
BATCH_GAIN = 0.01
"""What a larger batch must answer more, as a share, to be worth simulating."""
FEW_MODALITIES = 3
"""With so many modalities every set that a job may bring is a load of its own; with more, only nearly whole ones."""
STATISTICS: tuple[LatencyStatistic, ...] = ("mean", "p50", "p95", "p99")


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """One way to answer. ``modalities``: the label of what jobs bring.

    Shapes: ``mean_s[j]``, ``p99_s[j]`` of a batch of *j* items, from 0 to ``batch``; ``knots[j]`` is its latency at
    each of ``service_time.LEVELS``, or one number where it is constant. Units: seconds.
    """

    variant: str
    modalities: str
    threads: int
    device: Device
    batch: int
    accuracy: float
    mean_s: tuple[float, ...]
    p99_s: tuple[float, ...]
    knots: tuple[tuple[float, ...], ...]

    @property
    def most_rps(self) -> float:
        """Items per second of a worker that is never idle, in whole batches."""
        return self.batch / self.mean_s[self.batch]


def batch_sizes(most: int) -> tuple[int, ...]:
    """Return the batch sizes that are considered: powers of two, and the largest."""
    return tuple(sorted({most, *(1 << power for power in range(most.bit_length()) if 1 << power <= most)}))


def configurations(service: Service, profile: Profile) -> Iterator[Configuration]:
    """Yield the configurations of every variant, at every number of threads it was measured at.

    Where stages have buckets it is as if every item needed the longest.
    """
    index = service.modality_index
    modes = sum(len(v.modes) for v in profile.variants)
    for name, declared in service.variants.items():
        measured = profile.variant(name)
        promised = {
            index.mask(mode.modalities): promised_accuracy(mode, service.guarantee.confidence, modes)
            for mode in measured.modes
        }
        for device in dict.fromkeys(declared.devices):
            each = [{p.threads for p in stage.latency if p.device == device} for stage in measured.stages]
            for threads in sorted(set.intersection(*each)):
                models = {
                    statistic: latency_model(
                        measured,
                        index,
                        statistic=statistic,
                        threads=threads,
                        max_batch=service.scheduler.max_batch,
                        accuracy=promised,
                        device=device,
                    )
                    for statistic in STATISTICS
                }
                for available in availabilities(len(index.names)):
                    label = index.label(available)
                    for batch, accuracy, curve in _ways(models, available):
                        mean_s, _, _, p99_s = (tuple(row) for row in zip(*curve, strict=True))
                        yield Configuration(
                            variant=name,
                            modalities=label,
                            threads=threads,
                            device=device,
                            batch=batch,
                            accuracy=accuracy,
                            mean_s=mean_s,
                            p99_s=p99_s,
                            knots=tuple(knots_of(*values) for values in curve),
                        )


def availabilities(modalities: int) -> tuple[int, ...]:
    """Return the masks of what jobs may bring that are loads of their own: the whole first."""
    whole = (1 << modalities) - 1
    least = 1 if modalities <= FEW_MODALITIES else modalities - 1
    return tuple(sorted((m for m in range(1, whole + 1) if m.bit_count() >= least), reverse=True))


_Curve = list[tuple[float, float, float, float]]


def _ways(
    models: dict[LatencyStatistic, LatencyModel], available: int
) -> Iterator[tuple[int, float, _Curve]]:
    """Yield batch, accuracy, and the four statistics of each batch up to it."""
    mean = models["mean"]
    allowed = [s for s, mask in enumerate(mean.sets) if mask & ~available == 0]
    if not allowed:
        return
    own = {statistic: restrict(model, allowed) for statistic, model in models.items()}
    table = frontiers(own["mean"])
    kept: list[tuple[float, float]] = []
    for batch in batch_sizes(own["mean"].max_batch):
        frontier = table[batch]
        for point in _vertices(frontier):
            accuracy, latency_s = frontier.accuracy[point], frontier.latency_s[point]
            if latency_s <= 0:
                continue
            rps = batch / latency_s
            if any(a >= accuracy - 1e-9 and rps <= faster * (1 + BATCH_GAIN) for a, faster in kept):
                continue
            curve = _curve(own, table, batch, accuracy)
            if curve is not None:
                kept.append((accuracy, rps))
                yield batch, accuracy, curve


def _vertices(frontier: Frontier) -> list[int]:
    """Return some vertices of the upper hull: the ends, and others evenly between them."""
    found = [0] if len(frontier) else []
    while found and (ahead := frontier.next_vertex(found[-1])) is not None:
        found.append(ahead)
    if len(found) <= MOST_POINTS:
        return found
    return [found[round(i * (len(found) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _curve(
    models: dict[LatencyStatistic, LatencyModel], table: tuple[Frontier, ...], batch: int, accuracy: float
) -> _Curve | None:
    """Return mean, p50, p95 and p99 of each batch up to a size; None where one has no plan as accurate."""
    curve: _Curve = [(0.0, 0.0, 0.0, 0.0)]
    for items in range(1, batch + 1):
        point = table[items].cheapest_at(accuracy)
        if point is None:
            return None
        counts = table[items].counts[point].tolist()
        mean_s, p50_s, p95_s, p99_s = (models[statistic].latency_s(counts) for statistic in STATISTICS)
        curve.append((mean_s, p50_s, max(p50_s, p95_s), max(p50_s, p95_s, p99_s)))
    return curve
