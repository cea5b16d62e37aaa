"""What must hold of a scheduler after every event. Tests call this; so may a driver that is being debugged."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from poise.errors import InternalError

if TYPE_CHECKING:
    from poise.scheduling.queue import Waiting
    from poise.scheduling.scheduler import Scheduler
    from poise.scheduling.view import WorkerState


def check_invariants(scheduler: Scheduler) -> None:
    """Check the scheduler's books.

    Raises:
        InternalError: the first thing that does not hold, with the job's or worker's story.
    """
    queue = scheduler.queue
    for before, after in pairwise(queue.entries):
        _require(
            queue.before(before.job, after.job),
            "the queue is in its order",
            repr(before.job),
            repr(after.job),
        )
    _require(queue.items == sum(entry.waiting_items for entry in queue.entries), "the queue counts its items")
    _require(
        queue.particular == sum(entry.particular for entry in queue.entries),
        "the queue counts the jobs that some worker cannot answer",
    )
    for entry in scheduler.stranded:
        _require(entry.queued and entry.stranded, "a job set aside waits", repr(entry.job))
        _require(scheduler.jobs.get(entry.job.id) is entry, "a job set aside is known", repr(entry.job))
        _require(entry.doomed is None, "a refused job does not wait", repr(entry.job))
        able = [
            w for w in scheduler.workers.values() if not w.retiring and _could_answer(scheduler, w, entry)
        ]
        _require(not able, "a job is set aside only while nobody can answer it", repr(entry.job))
    for position, entry in enumerate(queue.entries):
        _require(not entry.stranded, "a job in the queue is not set aside", repr(entry.job))
        _require(entry.queued and entry.waiting_items > 0, "a queued job has waiting items", repr(entry.job))
        _require(entry.doomed is None, "a refused job does not wait", repr(entry.job))
        _require(scheduler.jobs.get(entry.job.id) is entry, "a queued job is known", repr(entry.job))
        _require(
            queue.deadlines_s[position] == entry.job.deadline_s
            and abs(queue.work_s[position] - entry.work_s) <= 1e-9 * max(1.0, entry.work_s),
            "the queue's arrays say what its entries say",
            repr(entry.job),
        )
    _require(
        abs(queue.total_work_s - sum(entry.work_s for entry in queue.entries)) <= 1e-6,
        "the queue adds up its work",
        f"{queue.total_work_s} s",
    )
    for name in scheduler.balances:
        kept = sum(entry.reserved for entry in queue.entries if entry.job.slo_class == name)
        held = queue.reserved.get(name, 0.0)
        _require(
            abs(held - kept) <= 1e-6, "reserved credit is what waiting jobs keep", name, f"{held}, {kept}"
        )
    running: dict[int, int] = {}
    for batch_id, batch in scheduler.batches.items():
        holders = [worker for worker in scheduler.workers.values() if worker.batch_id == batch_id]
        _require(len(holders) == 1, "a batch has exactly one worker", f"batch {batch_id}")
        for entry, part in zip(batch.entries, batch.parts, strict=True):
            _require(part.items > 0, "a part has items", repr(entry.job))
            _require(
                part.modalities & ~entry.job.available == 0,
                "an item is answered from modalities it has",
                repr(entry.job),
            )
            running[entry.job.id] = running.get(entry.job.id, 0) + part.items
    for job_id, entry in scheduler.jobs.items():
        _require(entry.running == running.get(job_id, 0), "running items are in batches", repr(entry.job))
        if entry.doomed is None:
            _require(
                entry.waiting_items + entry.running + entry.done == entry.job.items,
                "every item waits, runs or is done",
                repr(entry.job),
            )
            _require(entry.queued == (entry.waiting_items > 0), "waiting items are queued", repr(entry.job))
        _require(entry.queued or not entry.reserved, "only waiting jobs keep credit", repr(entry.job))
        if entry.doomed is not None:
            _require(entry.running > 0, "a refused job is kept only for items in flight", repr(entry.job))
    for name, balance in scheduler.balances.items():
        _require(balance.credit <= balance.cap + 1e-9, "a balance is within its cap", name)
    for worker in scheduler.workers.values():
        if worker.batch_id is not None:
            continue
        _require(not worker.retiring, "a worker that retires is gone once it is idle", f"{worker.worker_id}")
        for entry in queue.entries:
            others = any(other.batch_id is not None for other in scheduler.workers.values())
            _require(
                others or not _could_answer(scheduler, worker, entry),
                "no job waits while a worker that could answer it is idle, unless for a better one",
                repr(entry.job),
                f"worker {worker.worker_id}",
            )


def _could_answer(scheduler: Scheduler, worker: WorkerState, entry: Waiting) -> bool:
    return _reaches(scheduler, worker, entry) and scheduler.policy.may_take(worker, entry)


def _reaches(scheduler: Scheduler, worker: WorkerState, entry: Waiting) -> bool:
    return worker.highest_accuracy(scheduler.policy, entry.job.available) >= entry.floor


def _require(holds: bool, rule: str, *story: str) -> None:
    if not holds:
        raise InternalError(f"broken: {rule}", story=story)
