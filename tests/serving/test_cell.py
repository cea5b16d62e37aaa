"""The driver with a scheduler that does as it is told: no worker is started."""

import asyncio
import json
import time
from typing import cast

import numpy as np
import pytest
from tests.protocol.test_codec import every_datatype
from tests.servers import DATATYPES, json_request
from tests.tiny import TINY

from poise.domain.job import RefusalReason
from poise.errors import ConfigError, InternalError
from poise.files import open_service
from poise.ingress.gate import Answered, PendingJob, Refused
from poise.protocol.codec import InferTensor, decode_infer
from poise.protocol.wire import wire_of
from poise.scheduling.commands import Answer, AnswerPart, Command, Refuse
from poise.scheduling.events import (
    DrainStarted,
    Event,
    JobArrived,
    JobCancelled,
    WorkerReady,
    WorkerRetiring,
)
from poise.scheduling.scheduler import Scheduler
from poise.serving.batches import HUNG_AFTER_S, Dispatched
from poise.serving.cell import Cell
from poise.serving.intake import copy_in
from poise.serving.process import Worker


class Told:
    """Returns the commands it was told to, for the next event of a type; raises what it was told to raise."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.answers: dict[type[Event], list[Command] | Exception] = {}
        self.between_workers = False

    def handle(self, event: Event) -> list[Command]:
        self.events.append(event)
        told = self.answers.pop(type(event), [])
        if isinstance(told, Exception):
            raise told
        return told


def answer(job_id: int, items: int) -> Answer:
    return Answer(
        job_id=job_id,
        parts=(AnswerPart(0, items, 7, "late"),),
        accuracy=0.9,
        queue_s=0.0,
        compute_s=0.1,
        late=False,
    )


@pytest.fixture
def in_cell(arrays):
    """Runs a coroutine function with (cell, scheduler, admit), and holds that no row is left behind."""

    def run(test):
        async def whole() -> None:
            folder = open_service(TINY)
            cell = Cell(folder, folder.load_profile(), arena_bytes=4096)
            told = Told()
            cell._scheduler = cast(Scheduler, told)
            cell.started = True

            def admit(items):
                request = json.dumps(json_request(arrays, tuple(DATATYPES), items)).encode()
                return cell.admit(decode_infer(request, None, cell.wire))

            try:
                await test(cell, told, admit)
            finally:
                await cell.stop()
            assert cell.rows.used == 0
            assert not cell._jobs

        asyncio.run(whole())

    return run


def test_trouble_with_one_answer_is_not_the_others(in_cell):
    async def test(cell, told, admit):
        first, second, third, fourth = (admit(2) for _ in range(4))
        fourth.when_settled = lambda _: 1 / 0  # whoever waits for it has a fault
        told.answers[DrainStarted] = [
            answer(99, 1),
            answer(1, 2),
            answer(1, 2),
            answer(4, 2),
            Refuse(2, RefusalReason.DEADLINE_PASSED, "late"),
            answer(3, 2),
        ]
        cell.drain()
        assert isinstance(first.outcome, Answered)
        assert second.outcome == Refused(RefusalReason.DEADLINE_PASSED, "late")
        assert isinstance(third.outcome, Answered)
        await cell.drained()

    in_cell(test)


def test_outputs_are_the_jobs_own(in_cell):
    async def test(cell, told, admit):
        pending = admit(2)
        cell.arena.outputs["logits"][pending.first_row : pending.first_row + 2] = 5
        told.answers[DrainStarted] = [answer(1, 2)]
        cell.drain()
        cell.arena.outputs["logits"][...] = 6
        assert (pending.outcome.outputs["logits"] == 5).all()

    in_cell(test)


def test_a_scheduler_that_raises_on_a_job_costs_that_job_only(in_cell):
    async def test(cell, told, admit):
        told.answers[JobArrived] = ValueError("bug")
        first, second = admit(1), admit(1)
        assert isinstance(first.outcome, InternalError)
        assert second.outcome is None
        assert not cell.broken.done()

    in_cell(test)


def test_a_scheduler_that_raises_otherwise_ends_the_server(in_cell):
    async def test(cell, told, admit):
        told.answers[DrainStarted] = ValueError("bug")
        cell.drain()
        assert isinstance(cell.broken.result(), InternalError)

    in_cell(test)


def test_a_full_arena_refuses_and_drains_refuse(in_cell):
    async def test(cell, told, admit):
        taken = []
        while isinstance(pending := admit(8), PendingJob):
            taken.append(pending)
        assert taken
        assert pending.reason is RefusalReason.QUEUE_FULL
        cell.drain()
        assert admit(1).reason is RefusalReason.DRAINING

    in_cell(test)


def test_a_job_that_left_is_told_once(in_cell):
    async def test(cell, told, admit):
        pending = admit(1)
        told.answers[JobCancelled] = [Refuse(1, RefusalReason.CANCELLED, "gone")]
        cell.cancel(pending)
        cell.cancel(pending)
        assert sum(isinstance(event, JobCancelled) for event in told.events) == 1

    in_cell(test)


class Hanging:
    worker_id = 3
    killed = False

    def kill(self) -> None:
        self.killed = True


def test_a_worker_that_hangs_is_ended(in_cell):
    async def test(cell, told, admit):
        hanging, busy = Hanging(), Hanging()
        now_s = time.monotonic()
        cell._batches.by_id = {
            1: Dispatched(cast(Worker, hanging), now_s - HUNG_AFTER_S - 1, expected_s=0.01),
            2: Dispatched(cast(Worker, busy), now_s - HUNG_AFTER_S - 1, expected_s=10.0),
        }
        cell._batches.watch()
        cell._batches.close()
        assert hanging.killed
        assert not busy.killed

    in_cell(test)


def test_a_shorter_free_axis_is_padded_with_zeros():
    wire = wire_of(every_datatype(), 10)
    slot = np.full((6, 5, 2), 9, np.float32)
    copy_in(slot, 1, InferTensor(wire.inputs["free"], np.ones((3, 2, 2), np.float32)))
    assert (slot[1:4, :2] == 1).all()
    assert (slot[1:4, 2:] == 0).all()
    assert (slot[0] == 9).all()
    assert (slot[4:] == 9).all()


def test_an_arena_too_small_is_the_operators_error():
    async def run() -> None:
        folder = open_service(TINY)
        with pytest.raises(ConfigError):
            Cell(folder, folder.load_profile(), arena_bytes=100)

    asyncio.run(run())


def test_a_cell_between_two_workers_takes_jobs_and_says_that_it_is_ready(in_cell):
    async def test(cell, told, admit):
        folder = open_service(TINY)
        cell._scheduler = Scheduler(folder.service, folder.load_profile())
        assert not cell.ready
        cell.tell(WorkerReady(time.monotonic(), 1, tuple(folder.service.variants)))
        cell.tell(WorkerRetiring(time.monotonic(), 1))
        assert cell.ready
        pending = admit(1)
        assert pending.outcome is None
        cell.cancel(pending)

    in_cell(test)
