"""One worker process over its socket, without a server."""

import asyncio
import os
import re
import resource
import select
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import psutil
import pytest
from tests.servers import MODALITY_INPUTS
from tests.tiny import TINY, copy_of_tiny

from poise.files import open_service
from poise.serving import worker
from poise.serving.arena import Arena, plan_layout
from poise.serving.messages import CannotStart, Done, Failed, FromWorker, Ready, Run, Start, Stop, pack_runs
from poise.serving.process import WorkerProcess
from poise.serving.worker import answer, at_idle_priority, may_leave_idle_priority


def start_of(folder: Path) -> Start:
    opened = open_service(folder)
    return Start(
        folder=str(opened.file),
        service=opened.service,
        profile=opened.load_profile(),
        variants=("late", "whole"),
        threads=1,
        device="cpu",
        layout=plan_layout(opened.service, 1_000_000),
    )


class Harness:
    """A worker whose messages are awaited one by one."""

    def __init__(self, start: Start, cores: list[int] | None = None) -> None:
        self.arena = Arena.create(start.layout)
        self.messages: asyncio.Queue[FromWorker] = asyncio.Queue()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.worker = WorkerProcess(
            7,
            start,
            self.arena.fd,
            cores or sorted(os.sched_getaffinity(0)),
            on_message=lambda _, message: self.messages.put_nowait(message),
            on_exit=lambda _, status: self.exited.set_result(status),
        )

    async def __aenter__(self) -> "Harness":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.worker.kill()
        await self.exited
        os.close(self.arena.fd)


def test_a_worker_answers_batches_of_mixed_modality_sets(arrays, expected):
    async def run() -> None:
        async with Harness(start_of(TINY)) as harness:
            ready = await harness.messages.get()
            assert isinstance(ready, Ready)
            assert ready.memory_bytes > 0
            for name, array in arrays.items():
                harness.arena.inputs[name][10:16] = array[:6]
            runs = [(14, 2, 7), (10, 1, 2), (11, 2, 3)]
            harness.worker.send(Run(1, "late", pack_runs(runs)))
            done = await harness.messages.get()
            assert isinstance(done, Done), done
            assert {stage for stage, _ in done.stage_s} == {"image", "sound", "word", "head"}
            logits: np.ndarray = harness.arena.outputs["logits"]
            names = tuple(MODALITY_INPUTS)
            for first, count, mask in runs:
                given = {name: array[first - 10 : first - 10 + count] for name, array in arrays.items()}
                used = tuple(name for bit, name in enumerate(names) if mask & 1 << bit)
                np.testing.assert_allclose(
                    logits[first : first + count], expected(given, used), rtol=1e-4, atol=1e-4
                )
            assert not logits[:10].any()
            assert not logits[13].any()
            harness.worker.send(Stop())
            assert await harness.exited == 0

    asyncio.run(run())


@pytest.mark.parametrize("items", [1, 5000])
def test_a_job_costs_less_than_a_kilobyte_on_the_control_socket(items):
    async def run() -> None:
        async with Harness(start_of(TINY)) as harness:
            await harness.messages.get()
            before = harness.worker.sent_bytes + harness.worker.received_bytes
            half = items // 2
            runs = [(0, items - half, 7)] + ([(items - half, half, 2)] if half else [])
            harness.worker.send(Run(2**40, "late", pack_runs(runs)))
            assert isinstance(await harness.messages.get(), Done)
            assert harness.worker.sent_bytes + harness.worker.received_bytes - before < 1000

    asyncio.run(run())


def test_a_worker_keeps_to_its_cores_and_ignores_the_terminal():
    async def run() -> None:
        core = max(os.sched_getaffinity(0))
        async with Harness(start_of(TINY), [core]) as harness:
            await harness.messages.get()
            process = psutil.Process(harness.worker.pid)
            assert process.cpu_affinity() == [core]
            process.send_signal(2)
            process.send_signal(15)
            harness.worker.send(Run(1, "whole", pack_runs([(0, 1, 7)])))
            assert isinstance(await harness.messages.get(), Done)

    asyncio.run(run())


def test_a_variant_that_does_not_load_is_told(tmp_path):
    folder = copy_of_tiny(tmp_path / "tiny")
    (folder / "whole/all.onnx").write_bytes(b"not a model")

    async def run() -> None:
        async with Harness(start_of(folder)) as harness:
            message = await harness.messages.get()
            assert isinstance(message, CannotStart)
            assert "all.onnx" in message.message
            assert await harness.exited == 1

    asyncio.run(run())


def test_a_worker_ends_when_nobody_is_at_the_other_end():
    async def run() -> None:
        async with Harness(start_of(TINY)) as harness:
            await harness.messages.get()
            # What a killed server's kernel does.
            harness.worker._control.shutdown(2)
            assert await harness.exited <= 0

    asyncio.run(run())


def stop(process: psutil.Process) -> None:
    """Stop a process, and wait until it has."""
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


@pytest.mark.parametrize("stopped", [True, False])
def test_what_a_killed_worker_had_not_read_counts_as_untaken(stopped: bool) -> None:
    """Neither a batch that lay unread in its socket, nor one that was sent when it was gone already."""

    async def run() -> None:
        async with Harness(start_of(TINY)) as harness:
            await harness.messages.get()
            process = psutil.Process(harness.worker.pid)
            if stopped:
                stop(process)
            else:
                process.kill()
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # gone, and the loop does not know
            assert not harness.worker.untaken
            harness.worker.send(Run(1, "late", pack_runs([(0, 1, 7)])))
            harness.worker.kill()
            await harness.exited
            assert harness.worker.untaken

    asyncio.run(run())


def test_a_worker_that_had_read_all_it_was_sent_left_nothing_untaken() -> None:
    async def run() -> None:
        async with Harness(start_of(TINY)) as harness:
            await harness.messages.get()
            harness.worker.send(Run(1, "late", pack_runs([(0, 1, 7)])))
            assert isinstance(await harness.messages.get(), Done)
            psutil.Process(harness.worker.pid).kill()
            await harness.exited
            assert not harness.worker.untaken

    asyncio.run(run())


def test_what_a_worker_said_before_it_was_killed_is_heard_though_it_left_something_unread() -> None:
    async def run() -> None:
        async with Harness(start_of(TINY)) as harness:
            await harness.messages.get()
            process = psutil.Process(harness.worker.pid)
            harness.worker.send(Run(1, "late", pack_runs([(0, 1, 7)])))
            poll = select.poll()
            poll.register(harness.worker._control, select.POLLIN)
            assert poll.poll(10_000)  # its answer is there, and the loop has not read it
            stop(process)
            harness.worker.send(Run(2, "late", pack_runs([(0, 1, 7)])))
            process.kill()
            await harness.exited
            assert harness.messages.get_nowait() == Done(1, ANY)
            assert harness.worker.untaken

    asyncio.run(run())


def test_a_broken_message_ends_the_worker():
    async def run() -> None:
        async with Harness(start_of(TINY)) as harness:
            await harness.messages.get()
            harness.worker._control.send(b"garbage")
            assert await harness.exited != 0

    asyncio.run(run())


class Runner:
    """A variant that answers what it is told to."""

    stage_names = ("only",)

    def __init__(self, outputs: dict[str, np.ndarray] | Exception) -> None:
        self._outputs = outputs

    def run(
        self, inputs: Mapping[str, Any], rows: Any, masks: Any
    ) -> tuple[dict[str, Any], list[tuple[str, float]]]:
        if isinstance(self._outputs, Exception):
            raise self._outputs
        return self._outputs, [("only", 0.1)]


def good_outputs(items: int) -> dict[str, np.ndarray]:
    return {"logits": np.ones((items, 5), np.float32), "score": np.full((items, 1), 2, np.float32)}


@pytest.fixture
def arena():
    arena = Arena.create(plan_layout(open_service(TINY).service, 100_000))
    yield arena
    os.close(arena.fd)


def test_outputs_land_in_their_rows(arena):
    message = Run(5, "v", pack_runs([(8, 2, 1), (3, 1, 2)]))
    assert answer(message, {"v": Runner(good_outputs(3))}, arena) == Done(5, (("only", 0.1),))
    assert np.flatnonzero(arena.outputs["score"][:, 0]).tolist() == [3, 8, 9]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (RuntimeError("boom"), "RuntimeError: boom"),
        ({**good_outputs(3), "logits": np.ones((3, 4), np.float32)}, r"shape \[3, 4\]"),
        ({**good_outputs(3), "logits": np.ones((2, 5), np.float32)}, r"shape \[2, 5\]"),
        ({**good_outputs(3), "score": np.ones((3, 1))}, "type float64, expected"),
        ({"logits": good_outputs(3)["logits"]}, "KeyError: 'score'"),
    ],
)
def test_whatever_a_model_does_becomes_a_failed_batch(arena, outputs, words):
    message = Run(5, "v", pack_runs([(8, 2, 1), (3, 1, 2)]))
    failed = answer(message, {"v": Runner(outputs)}, arena)
    assert isinstance(failed, Failed)
    assert failed.batch_id == 5
    assert re.search(words, failed.message), failed.message


def test_a_variant_that_is_not_resident_is_a_failed_batch(arena):
    assert isinstance(answer(Run(5, "other", pack_runs([(0, 1, 1)])), {}, arena), Failed)


def test_loading_at_idle_priority_leaves_the_rest_of_the_process_alone():
    assert at_idle_priority(lambda: os.sched_getscheduler(0)) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    with pytest.raises(ValueError, match="no model"):
        at_idle_priority(lambda: (_ for _ in ()).throw(ValueError("no model")))


def test_without_privileges_there_is_no_way_back_but_the_loading_thread_is_another():
    child = os.fork()
    if child == 0:
        status = 9
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            back = may_leave_idle_priority()
            loaded = at_idle_priority(lambda: os.sched_getscheduler(0)) == os.SCHED_IDLE
            status = back + 2 * (loaded and os.sched_getscheduler(0) == os.SCHED_OTHER)
        finally:
            os._exit(status)
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    allowed = limit >= 20 or limit == resource.RLIM_INFINITY
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2 + allowed


@pytest.mark.parametrize("threads", [1, 2])
def test_a_worker_of_several_threads_loads_at_idle_priority_only_if_it_can_come_back(monkeypatch, threads):
    """The rule, with the process's own parts taken away."""
    monkeypatch.setattr(worker, "may_leave_idle_priority", lambda: False)
    assert worker.loads_at_idle_priority(["", "", "", "0", "idle"], threads) == (threads == 1)
    monkeypatch.setattr(worker, "may_leave_idle_priority", lambda: True)
    assert worker.loads_at_idle_priority(["", "", "", "0", "idle"], threads)
    assert not worker.loads_at_idle_priority(["", "", "", "0"], threads)
