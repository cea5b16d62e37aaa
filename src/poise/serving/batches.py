"""The batches that workers have right now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from poise.scheduling.commands import Command, RunBatch
from poise.serving.process import Worker

HUNG_AFTER_S = 30.0
HUNG_AFTER_EXPECTED = 20.0
"""A worker is taken for hung this long after a batch, plus so many times what the batch should take."""

HUNG_CHECK_S = 1.0

log = logging.getLogger(__name__)


class Dispatched(msgspec.Struct, frozen=True):
    """A batch on its way. Units: seconds; ``sent_s`` absolute."""

    worker: Worker
    sent_s: float
    expected_s: float
    items: int = 0
    variant: str = ""

    @property
    def given_up_s(self) -> float:
        """When its worker counts as hung."""
        return self.sent_s + HUNG_AFTER_S + HUNG_AFTER_EXPECTED * self.expected_s


class DispatchedBatches:
    """Batches by id, and for how long workers were busy with them, all together."""

    def __init__(self) -> None:
        self.by_id: dict[int, Dispatched] = {}
        self._busy_s = 0.0
        self._since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.by_id)

    def sent(self, batch_id: int, batch: Dispatched) -> None:
        """Enter a batch that its worker has been given."""
        self._count(batch.sent_s)
        self.by_id[batch_id] = batch

    def back(self, now_s: float, worker: Worker, batch_id: int) -> Dispatched | None:
        """Strike a batch off that its worker speaks of; one that was not given it is ended."""
        self._count(now_s)
        batch = self.by_id.pop(batch_id, None)
        if batch is None or batch.worker is not worker:
            log.error(
                "worker %d spoke of batch %d, which it was not given; it is ended", worker.worker_id, batch_id
            )
            worker.kill()
            return None
        return batch

    def lost(self, now_s: float, worker_id: int) -> None:
        """Strike off what a worker had."""
        self._count(now_s)
        for batch_id in [i for i, batch in self.by_id.items() if batch.worker.worker_id == worker_id]:
            del self.by_id[batch_id]

    @property
    def items(self) -> int:
        """The items in all of them."""
        return sum(batch.items for batch in self.by_id.values())

    def busy_s(self, now_s: float) -> float:
        """Return for how many seconds workers have been busy since this was last asked, summed over all."""
        self._count(now_s)
        busy_s, self._busy_s = self._busy_s, 0.0
        return busy_s

    def watch(self) -> None:
        """End hung workers from now on."""
        self.end_hung_workers(time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(HUNG_CHECK_S, self.watch)

    def close(self) -> None:
        """End none any more."""
        if self._timer is not None:
            self._timer.cancel()

    def end_hung_workers(self, now_s: float) -> None:
        """End the workers whose batch should have been back long ago."""
        for batch_id, batch in self.by_id.items():
            if now_s > batch.given_up_s:
                fields = {"event": "worker_hung", "worker": batch.worker.worker_id, "batch": batch_id}
                log.error(
                    "worker %d hangs on batch %d; it is ended", fields["worker"], batch_id, extra=fields
                )
                batch.worker.kill()

    def _count(self, now_s: float) -> None:
        self._busy_s += len(self.by_id) * (now_s - self._since_s)
        self._since_s = now_s


def batches_first(commands: Sequence[Command]) -> Sequence[Command]:
    """Return commands with the batches before all else: a worker need not wait until its last jobs' answers are out."""
    if len(commands) < 2 or not any(isinstance(command, RunBatch) for command in commands):
        return commands
    return sorted(commands, key=lambda command: not isinstance(command, RunBatch))
