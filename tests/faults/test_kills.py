"""Workers are killed: every job that was sent gets one outcome, and none is blamed for what it did not do."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.faults.servers import item, serving_with, workers_of, write_faulty
from tests.servers import POISE, Server, copy_tiny, serving

from poise.scheduling.commands import Answer, Refuse
from poise.scheduling.events import JobArrived, WorkerLost
from poise.scheduling.log import decode_log
from poise.simulation.replay import replay

KILLS = 60
RATE, SECONDS = 150, 70
ANSWERED = 'poise_jobs_total{outcome="answered",slo_class="interactive"}'


def waits_with_one(server: Server, lost: int) -> bool:
    """Whether so many workers are lost, and one of the others has a batch."""
    busy = server.metric('poise_workers{state="busy"}')
    return server.metric("poise_workers_lost_total") == lost and busy == 1


def test_a_job_that_two_killed_workers_had_not_begun_is_answered_by_a_third(tmp_path: Path) -> None:
    with (
        serving_with(write_faulty(tmp_path / "faulty", workers=2)) as server,
        ThreadPoolExecutor(1) as beside,
    ):
        # Free workers that are alike get batches in the order in which they were started.
        workers = sorted(workers_of(server), key=lambda worker: (worker.create_time(), worker.pid))
        for worker in workers:
            worker.suspend()
        server.wait_until(lambda: {worker.status() for worker in workers} == {psutil.STATUS_STOPPED})
        reply = beside.submit(server.post, item(1.0))
        for lost, worker in enumerate(workers):
            server.wait_until(partial(waits_with_one, server, lost))
            worker.kill()
        status, answer = reply.result()
        assert (status, answer.get("reason")) == (200, None)
        assert server.metric("poise_workers_lost_total") == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("policy", ["poise", "edf"])
def test_workers_killed_under_load(tmp_path: Path, policy: str) -> None:
    service = copy_tiny(tmp_path / "tiny", slo_ms=20_000)
    log = tmp_path / "log.jsonl"
    with serving(service, "--record", str(log), "--policy", policy) as server:
        load = subprocess.Popen(
            [
                *POISE, "load", server.url, "--service", str(service), "--rate", str(RATE), "--duration", str(SECONDS),
                "--missing", "word=0.3", "--class", "interactive=0.7", "--class", "bulk=0.3", "--json",
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        before = psutil.Process(server.process.pid).num_fds()
        server.wait_until(lambda: server.metric(ANSWERED) > 50)
        begin_s = time.monotonic()
        for kill in range(KILLS):
            time.sleep(max(0.0, begin_s + kill - time.monotonic()))  # the second itself is what is asked for
            workers = server.workers()
            while not workers:
                workers = server.workers()
            workers[kill % len(workers)].kill()
        out, _ = load.communicate()
        report = json.loads(out)["run"]
        server.wait_until(lambda: server.metric('poise_workers{state="starting"}') == 0)
        assert psutil.Process(server.process.pid).num_fds() <= before + 4
        assert server.metric("poise_queue_jobs") == 0
        assert server.terminate() == 0
    assert report["failed"] == {}
    assert set(report["refused"]) <= {"no_worker", "worker_killer"}
    answered = round(report["jobs"] * report["attainment"]) + report["late"]
    assert answered + sum(report["refused"].values()) == report["jobs"]
    with log.open("rb") as lines:
        header, entries = decode_log(lines)
        story = list(entries)
    with log.open("rb") as lines:
        assert replay(*decode_log(lines)).differing == ()
    assert header.policy == policy
    # Of those killed, some had not yet come into use.
    assert sum(isinstance(event, WorkerLost) for event, _ in story) >= KILLS / 4
    arrived = [event.job.id for event, _ in story if isinstance(event, JobArrived)]
    outcomes = [c.job_id for _, commands in story for c in commands if isinstance(c, Answer | Refuse)]
    assert sorted(arrived) == sorted(outcomes)
