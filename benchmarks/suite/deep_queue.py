"""A scheduler whose queue is kept at one depth: what a decision and an arrival cost it there."""

from __future__ import annotations

from time import perf_counter

import msgspec
import numpy as np

from poise.domain.job import Job
from poise.scheduling.commands import RunBatch
from poise.scheduling.events import BatchDone, JobArrived, WorkerReady
from poise.scheduling.scheduler import Scheduler
from poise.simulation.service_times import ServiceTimes

from .bench import Bench
from .simulated import bound_rps

ROOM = 4.0
"""The SLO, as a multiple of the time that the queue takes at the fluid bound: so that so many jobs are accepted."""


def decisions_with_queue(
    bench: Bench, policy: str, *, queued: int, decisions: int
) -> tuple[list[float], list[float]]:
    """Return what each decision took, and each arrival between them. Units: seconds of real time.

    Before each decision the queue is filled up again, with deadlines between half the SLO and the whole.
    """
    rate = bench.all_modalities_rps if policy == "edf" else bound_rps(bench, "class")
    slo_s = ROOM * queued / rate
    name = bench.service.default_class
    slo = msgspec.structs.replace(bench.service.classes[name], latency_slo_ms=slo_s * 1e3)
    service = msgspec.structs.replace(bench.service, classes={name: slo})
    index = service.modality_index
    rng = np.random.default_rng(1)
    times = ServiceTimes(bench.profile, index, rng)
    times.prepare(bench.variant, 1, "cpu")
    scheduler = Scheduler(service, bench.profile, policy)
    scheduler.handle(WorkerReady(0.0, 0, (bench.variant,)))
    now_s, number = 0.0, 0
    running: RunBatch | None = None
    decision_s: list[float] = []
    arrival_s: list[float] = []
    while len(decision_s) < decisions:
        while len(scheduler.queue) < queued:
            number += 1
            deadline_s = now_s + slo_s * rng.uniform(0.5, 1.0)
            job = Job(number, name, 1, now_s, deadline_s, bench.floor, index.all)
            start = perf_counter()
            commands = scheduler.handle(JobArrived(now_s, job))
            took_s = perf_counter() - start
            if len(scheduler.queue) > queued // 2:
                arrival_s.append(took_s)
            running = next((c for c in commands if isinstance(c, RunBatch)), running)
        if running is None:
            raise RuntimeError("an idle worker was given no batch")
        run_s, stage_s = times.draw(bench.variant, 1, "cpu", running.parts)
        now_s += run_s
        done = BatchDone(now_s, running.batch_id, 0, run_s, stage_s)
        start = perf_counter()
        commands = scheduler.handle(done)
        decision_s.append(perf_counter() - start)
        running = next((c for c in commands if isinstance(c, RunBatch)), None)
    return decision_s, arrival_s
