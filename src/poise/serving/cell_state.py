"""What a cell holds right now, as Prometheus families: queue, workers, plan, ledger and calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import Metric

from poise.scheduling.scheduler import Scheduler
from poise.serving.arena import RowAllocator
from poise.telemetry.families import gauge, gauge_family

SHOWN_WORKERS = 32
"""Of more workers than these, those with the lowest ids are shown one by one; the others only in sums."""


class CellState(NamedTuple):
    """A cell as it stands. ``workers``: how many are in each state."""

    workers: Mapping[str, int]
    queue_jobs: int
    rows: RowAllocator
    scheduler: Scheduler
    label: Callable[[int], str]
    ready: bool
    draining: bool


def state_families(state: CellState) -> Iterator[Metric]:
    """Yield the gauges of a cell."""
    yield gauge_family(
        "poise_workers",
        "Workers by state.",
        ("state",),
        (((name,), count) for name, count in state.workers.items()),
    )
    yield gauge("poise_queue_jobs", "Jobs accepted and not yet answered.", state.queue_jobs)
    yield gauge("poise_queue_items", "Items of those jobs.", state.rows.used)
    yield gauge("poise_queue_capacity_items", "Items that there is shared memory for.", state.rows.capacity)
    yield gauge("poise_ready", "1 where a job would be taken now, else 0.", state.ready)
    yield gauge("poise_draining", "1 where no new jobs are taken and the accepted answered.", state.draining)
    yield from _ledger(state.scheduler)
    yield from _plan(state.scheduler)
    yield from _calibration(state.scheduler)


def _ledger(scheduler: Scheduler) -> Iterator[Metric]:
    """Floors, and what each class has earned above its own (scope ``class``)."""
    classes = scheduler.service.classes
    yield gauge_family(
        "poise_latency_slo_seconds",
        "The latency SLO of a class.",
        ("slo_class",),
        (((name,), slo.latency_slo_s) for name, slo in classes.items()),
    )
    yield gauge_family(
        "poise_accuracy_floor_ratio",
        "The accuracy floor of a class.",
        ("slo_class",),
        (((name,), slo.accuracy_floor) for name, slo in classes.items()),
    )
    balances = scheduler.balances if scheduler.service.guarantee.scope == "class" else {}
    yield gauge_family(
        "poise_accuracy_balance_items",
        "What the answers of a class have earned above its floor and not spent; scope class only.",
        ("slo_class",),
        (((name,), balance.credit) for name, balance in balances.items()),
    )
    yield gauge_family(
        "poise_accuracy_balance_cap_items",
        "The most that a class may have earned.",
        ("slo_class",),
        (((name,), balance.cap) for name, balance in balances.items()),
    )


def _plan(scheduler: Scheduler) -> Iterator[Metric]:
    """The workers in use by kind, and the shares that were adopted."""
    kinds = Counter(
        ("+".join(worker.stages), "" if worker.batch_cap_s is None else f"{worker.batch_cap_s:g}")
        for worker in scheduler.workers.values()
    )
    yield gauge_family(
        "poise_plan_workers",
        "Workers in use by resident set and the cap on their batches' time in seconds.",
        ("resident", "batch_cap"),
        kinds.items(),
    )
    yield gauge_family(
        "poise_plan_share_ratio",
        "The share of a class's load that the adopted plan gives to a variant.",
        ("slo_class", "variant"),
        (
            ((name, variant), share / sum(shares.values()))
            for name, shares in scheduler.shares.items()
            for variant, share in shares.items()
        ),
    )


def _calibration(scheduler: Scheduler) -> Iterator[Metric]:
    """What the workers really take against the profile, worker by worker as far as there are few."""
    shown = [scheduler.workers[key] for key in sorted(scheduler.workers)[:SHOWN_WORKERS]]
    yield gauge_family(
        "poise_calibration_ratio",
        "What a worker takes against what the profile says: real = ratio × profile + overhead.",
        ("worker",),
        (((str(worker.worker_id),), worker.calibration.factor) for worker in shown),
    )
    yield gauge_family(
        "poise_calibration_overhead_seconds",
        "What comes on top of a worker's stages and the profile's way to it.",
        ("worker",),
        (((str(worker.worker_id),), worker.calibration.overhead_s) for worker in shown),
    )
    yield gauge_family(
        "poise_calibration_stage_ratio",
        "What a stage takes on a worker against what the profile says.",
        ("worker", "variant", "stage"),
        (
            ((str(worker.worker_id), variant, stage), ratio)
            for worker in shown
            for (variant, stage), ratio in worker.calibration.stages().items()
        ),
    )
