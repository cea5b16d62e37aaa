"""Many emulated workers in one process: as a core without a clock, and as a real process."""

import asyncio
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from tests.tiny import TINY

from poise.domain.profile import LatencyPoint, ModeProfile, Profile, StageProfile, VariantProfile
from poise.errors import InternalError
from poise.files import open_service
from poise.ingress import child
from poise.serving import hosting
from poise.serving.arena import Arena, plan_layout
from poise.serving.emulated_host import EmulatedWorkers
from poise.serving.hosting import EmulatedHosts, HostedWorker
from poise.serving.messages import (
    CannotStart,
    Done,
    Drop,
    Failed,
    FromHost,
    FromWorker,
    Gone,
    Ready,
    Run,
    Stop,
    Take,
    ToHost,
    pack_runs,
)

FOLDER = open_service(TINY / "emulated.yaml")
SERVICE = FOLDER.service
TAKE = Take(("paper",), 1, "cpu")


def profile(per_item_s: float, load_time_s: float = 3.0) -> Profile:
    points = tuple(LatencyPoint(batch=batch, mean_s=per_item_s * batch) for batch in range(1, 5))
    variant = VariantProfile(
        name="paper",
        load_time_s=load_time_s,
        memory_bytes=1000,
        modes=(ModeProfile(modalities=("image",), accuracy=0.5),),
        stages=(StageProfile(name="image", modality_sets=(("image",),), latency=points),),
    )
    return Profile(format=1, service="tiny", variants=(variant,))


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(plan_layout(SERVICE, 100_000))
    yield arena
    os.close(arena.fd)


@pytest.fixture
def workers(arena: Arena) -> EmulatedWorkers:
    """Workers 1 and 2, which became ready at second 3."""
    workers = EmulatedWorkers(SERVICE, profile(0.5), arena, 1)
    for number in (1, 2):
        workers.tell(0.0, ToHost(number, TAKE))
    assert workers.next_s == 3.0
    assert workers.due(2.9) == []
    assert workers.due(3.0) == [FromHost(number, Ready(3.0, 1000)) for number in (1, 2)]
    return workers


def batch(number: int, rows: tuple[int, int] = (0, 1), mask: int = 1) -> Run:
    return Run(number, "paper", pack_runs([(*rows, mask)]))


def test_batches_come_back_when_the_profile_says(workers, arena):
    arena.outputs["logits"][...] = 7
    workers.tell(10.0, ToHost(1, batch(1, (2, 3))))
    workers.tell(10.2, ToHost(2, batch(2, (9, 1))))
    assert workers.next_s == pytest.approx(10.7)
    (first,) = workers.due(10.7)
    assert first == FromHost(2, Done(2, (("image", 0.5),)))
    assert workers.due(11.4) == []
    (second,) = workers.due(11.5)
    assert second == FromHost(1, Done(1, (("image", 1.5),)))
    answered = np.flatnonzero((arena.outputs["logits"] == 0).all(axis=1))
    assert answered.tolist() == [2, 3, 4, 9]
    assert workers.next_s is None


def test_a_worker_that_is_to_stop_answers_first(workers):
    workers.tell(10.0, ToHost(1, batch(1)))
    workers.tell(10.1, ToHost(1, Stop()))
    workers.tell(10.1, ToHost(2, Stop()))
    assert workers.due(10.1) == [FromHost(2, Gone())]
    said = workers.due(10.5) + workers.due(10.5)
    assert [type(each.message) for each in said] == [Done, Gone]
    with pytest.raises(InternalError, match="emulated worker 1, which there is not"):
        workers.tell(11.0, ToHost(1, batch(2)))


def test_a_dropped_worker_says_nothing_more(workers):
    workers.tell(10.0, ToHost(1, batch(1)))
    workers.tell(10.1, ToHost(1, Drop()))
    assert workers.due(20.0) == []


def test_a_batch_that_cannot_be_answered_fails_at_once(workers):
    workers.tell(10.0, ToHost(1, batch(1, mask=2)))
    (said,) = workers.due(10.0)
    assert isinstance(said.message, Failed)
    assert "modality mask 2" in said.message.message
    workers.tell(10.0, ToHost(1, batch(2)))
    assert workers.due(10.5) == [FromHost(1, Done(2, (("image", 0.5),)))]


def test_threads_that_are_not_profiled_cannot_start(workers):
    workers.tell(10.0, ToHost(3, Take(("paper",), 4, "cpu")))
    (said,) = workers.due(10.0)
    assert isinstance(said.message, CannotStart)
    assert "4 threads" in said.message.message


class Heard:
    """Hosted workers whose messages and ends are awaited."""

    def __init__(self, hosts: EmulatedHosts) -> None:
        self.messages: asyncio.Queue[tuple[int, FromWorker]] = asyncio.Queue()
        self.ends: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._hosts = hosts

    async def worker(self, number: int) -> HostedWorker:
        worker = self._hosts.host().take(
            number,
            ("paper",),
            1,
            "cpu",
            on_message=lambda worker, message: self.messages.put_nowait((worker.worker_id, message)),
            on_exit=lambda worker, status: self.ends.put_nowait((worker.worker_id, status)),
        )
        assert await self.messages.get() == (number, Ready(0.0, 1000))
        return worker


def with_hosts(arena: Arena, test, per_item_s: float = 0.001) -> None:
    async def whole() -> None:
        hosts = EmulatedHosts(SERVICE, profile(per_item_s, load_time_s=0.0), arena)
        try:
            await test(hosts, Heard(hosts))
        finally:
            await hosts.end()

    asyncio.run(whole())


def test_many_workers_share_a_process_and_its_fate(arena, monkeypatch):
    monkeypatch.setattr(hosting, "MAX_PER_HOST", 2)

    async def test(hosts: EmulatedHosts, heard: Heard) -> None:
        one, two, three = [await heard.worker(number) for number in (1, 2, 3)]
        assert one._host is two._host
        assert three._host is not one._host
        two.send(batch(5))
        assert await heard.messages.get() == (2, Done(5, (("image", 0.001),)))
        one._host.kill()
        assert {await heard.ends.get(), await heard.ends.get()} == {(1, -9), (2, -9)}
        three.send(batch(6))
        assert (await heard.messages.get())[0] == 3
        assert (await heard.worker(4))._host is three._host
        five = await heard.worker(5)
        assert five._host not in (one._host, three._host)

    with_hosts(arena, test)


def test_one_of_them_can_be_killed_or_stopped_alone(arena):
    async def test(hosts: EmulatedHosts, heard: Heard) -> None:
        one, two, three = [await heard.worker(number) for number in (1, 2, 3)]
        one.send(batch(1))
        one.kill()
        assert await heard.ends.get() == (1, -9)
        two.send(Stop())
        assert await heard.ends.get() == (2, 0)
        three.send(batch(3))
        assert await heard.messages.get() == (3, Done(3, (("image", 0.001),)))
        one.send(batch(4))  # nobody hears it
        one.kill()
        assert heard.ends.empty()

    with_hosts(arena, test)


LONG = ("paper",) * 1000
"""Names of variants that make a message of six kilobytes."""


def test_many_messages_may_wait_for_a_process_that_has_not_begun_and_keep_their_order(arena):
    async def test(hosts: EmulatedHosts, _: Heard) -> None:
        ready: asyncio.Queue[int] = asyncio.Queue()
        for number in range(hosting.MAX_PER_HOST):
            hosts.host().take(
                number,
                LONG,
                1,
                "cpu",
                on_message=lambda worker, _: ready.put_nowait(worker.worker_id),
                on_exit=lambda worker, status: ready.put_nowait(-worker.worker_id - 1),
            )
        found = [await asyncio.wait_for(ready.get(), 60) for _ in range(hosting.MAX_PER_HOST)]
        assert found == list(range(hosting.MAX_PER_HOST))
        (full,) = hosts._hosts
        assert full.sent_bytes > hosting.MAX_PER_HOST * 6000

    with_hosts(arena, test)


def test_a_process_that_takes_nothing_any_more_is_ended_and_that_is_said(arena, monkeypatch, caplog):
    monkeypatch.setattr(child, "MAX_UNSENT_BYTES", 1_000_000)

    async def test(hosts: EmulatedHosts, heard: Heard) -> None:
        one, two = [await heard.worker(number) for number in (1, 2)]
        os.kill(one._host.pid, signal.SIGSTOP)
        for _ in range(400):
            one._host.tell(2, Take(LONG, 1, "cpu"))
        assert {await heard.ends.get(), await heard.ends.get()} == {(1, -9), (2, -9)}
        two.send(Stop())  # nobody hears it

    with_hosts(arena, test)
    assert caplog.text.count("is hung: it takes no messages") == 1
