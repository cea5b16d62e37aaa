"""The front end's own end: told to drain under load, told twice, killed."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from tests.faults.servers import (
    Traffic,
    item,
    json_process_of,
    large_item,
    serving_with,
    workers_of,
    write_faulty,
)

from poise.scheduling.commands import Answer, Refuse
from poise.scheduling.events import JobArrived
from poise.scheduling.log import decode_log

GONE = {"closed", "reset", "refused", "no_connection", "connect"}


def good(number: int) -> bytes:
    return json.dumps(item(number % 100)).encode()


def shared_memory() -> set[str]:
    """What is named in shared memory, but for what others run beside: poise's own has no name at all."""
    return {name for name in os.listdir("/dev/shm") if "triton" not in name}  # noqa: PTH208


def outcomes(log: Path) -> tuple[list[int], list[int], list[int]]:
    """The jobs that arrived, those that were answered, and those that were refused."""
    with log.open("rb") as lines:
        story = list(decode_log(lines)[1])
    arrived = [event.job.id for event, _ in story if isinstance(event, JobArrived)]
    commands = [command for _, some in story for command in some]
    answered = [command.job_id for command in commands if isinstance(command, Answer)]
    refused = [command.job_id for command in commands if isinstance(command, Refuse)]
    return arrived, answered, refused


def test_sigterm_under_load_answers_what_was_accepted(tmp_path: Path) -> None:
    service = write_faulty(tmp_path / "faulty", workers=2)
    log = tmp_path / "log.jsonl"
    with serving_with(service, "--record", str(log)) as server:
        traffic = Traffic(server.url, "faulty", good)

        def end() -> None:
            server.wait_until(
                lambda: server.metric('poise_jobs_total{outcome="answered",slo_class="only"}') > 50
            )
            server.process.terminate()
            assert server.process.wait(60) == 0

        traffic.run(200, 1, end)
    arrived, answered, refused = outcomes(log)
    assert sorted(arrived) == sorted(answered + refused)
    # Each answer reached its client; who came later was told so, or found nobody.
    assert traffic.statuses.pop("200") == len(answered)
    assert set(traffic.statuses) <= {"503 draining"}
    assert refused == []
    assert sum(traffic.lost.values()) + len(answered) + sum(traffic.statuses.values()) == traffic.sent


def test_a_second_sigterm_under_load_tells_everybody(tmp_path: Path) -> None:
    service = write_faulty(tmp_path / "faulty", workers=1)
    with serving_with(service) as server:
        (worker,) = workers_of(server)
        traffic = Traffic(server.url, "faulty", good)

        def end() -> None:
            worker.suspend()
            server.wait_until(lambda: server.metric("poise_queue_jobs") > 50)
            server.process.terminate()
            server.wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 503)
            server.process.terminate()
            assert server.process.wait(60) == 1

        traffic.run(100, 0.5, end)
        assert not worker.is_running()
        assert traffic.statuses["503 draining"] > 50
        assert set(traffic.statuses) <= {"200", "503 draining"}


@pytest.mark.parametrize("during", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.slow)])
def test_a_front_end_that_is_killed_leaves_nothing_behind(tmp_path: Path, during: signal.Signals) -> None:
    before = shared_memory()
    service = write_faulty(tmp_path / "faulty", workers=2)
    with serving_with(service) as server:
        assert server.post(large_item(1_000_000))[0] == 200
        json_process = json_process_of(server)
        assert json_process is not None
        children = [*workers_of(server), json_process]
        assert len(children) == 3
        # A worker that hangs, and a JSON process that does, cannot notice anything themselves.
        children[0].suspend()
        json_process.suspend()
        traffic = Traffic(server.url, "faulty", good)
        traffic.run(100, 0.5, lambda: server.process.send_signal(during))
        assert server.process.wait(60) == -during
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
        assert len(gone) == 3
    assert shared_memory() == before
