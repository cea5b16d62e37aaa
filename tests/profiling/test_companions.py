"""The workers that keep other cores busy are there, do as they are told, and never outlive whoever started them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import psutil
import pytest

from poise.errors import WorkerError
from poise.profiling.companions import IDLE, _run, companions
from poise.runtimes.cores import usable_cores

HERE = [usable_cores()[:1]]


class Told:
    """Shared numbers whose reader gets one order after another."""

    def __init__(self, *orders: int) -> None:
        self.orders = list(orders)

    def __getitem__(self, place: int) -> int:
        assert place == 0
        return self.orders.pop(0)


def test_it_runs_what_is_wanted_and_says_so_first():
    begun: dict[int, int] = {}
    ran: list[tuple[int, int]] = []
    calls = [lambda number=number: ran.append((number, begun[0])) for number in range(3)]
    _run(calls, (Told(2, 2, 0, IDLE, 1, -2), begun), 0, os.getppid())  # type: ignore[arg-type]
    assert ran == [(2, 2), (2, 2), (0, 0), (1, 1)]


def test_real_ones_follow(tiny):
    with companions(tiny, ["late", "whole"], threads=1, places=HERE) as beside:
        (process,) = beside._processes
        for call in (0, 27, None, 3):
            beside.follow(call)
            assert beside._begun.tolist() == [IDLE if call is None else call]
        assert process.poll() is None
    assert process.returncode == 0


def test_none_are_needed_where_a_worker_is_alone(tiny):
    with companions(tiny, ["late"], threads=1, places=[]) as beside:
        beside.follow(5)
        beside.follow(None)


def test_one_that_does_not_come_up_says_why(rewrite):
    folder = rewrite("late/sound.onnx", "odd/fixed_batch.onnx")
    with (
        pytest.raises(
            WorkerError, match=r"ended with status 1: odd/fixed_batch\.onnx: .* expected a free first"
        ),
        companions(folder, ["late"], threads=1, places=HERE),
    ):
        pass


def test_one_that_goes_is_missed(tiny):
    with (
        pytest.raises(WorkerError, match="ended with status -9: no message"),
        companions(tiny, ["late"], threads=1, places=HERE) as beside,
    ):
        beside.follow(0)
        beside._processes[0].kill()
        beside._processes[0].wait()
        beside.follow(1)


def test_they_end_with_whoever_started_them(tiny):
    code = (
        "import sys, time\n"
        "from poise.files import open_service\n"
        "from poise.profiling.companions import companions\n"
        "from poise.runtimes.cores import usable_cores\n"
        "with companions(open_service(sys.argv[1]), ['late'], threads=1, places=[usable_cores()[:1]]) as beside:\n"
        "    beside.follow(0)\n"
        "    print(beside._processes[0].pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tiny.file)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        orphan.wait(60)
        assert not orphan.is_running()


@pytest.mark.skipif(len(usable_cores()) < 2, reason="wants two cores")
def test_they_end_with_whoever_died_while_they_began(tiny):
    command = [sys.executable, "-m", "poise.cli.main", "profile", str(tiny.root), "--budget-s", "60"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as profiling:
        parent, begun = psutil.Process(profiling.pid), list[psutil.Process]()
        while profiling.poll() is None and not begun:
            with contextlib.suppress(psutil.NoSuchProcess):
                begun = [child for child in parent.children() if "companion" in child.cmdline()]
        profiling.kill()
        profiling.wait()
        (orphan,) = begun
        orphan.wait(60)
        assert not orphan.is_running()
