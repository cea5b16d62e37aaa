"""A worker is killed every second for a minute, under load: every job that was sent gets one outcome."""

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.servers import POISE, copy_tiny, serving

from poise.scheduling.commands import Answer, Refuse
from poise.scheduling.events import JobArrived, WorkerLost
from poise.scheduling.log import decode_log
from poise.simulation.replay import replay

KILLS = 60
RATE, SECONDS = 150, 70
ANSWERED = 'poise_jobs_total{outcome="answered",slo_class="interactive"}'


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("policy", ["poise", "edf"])
def test_workers_killed_under_load(tmp_path: Path, policy: str) -> None:
    service = copy_tiny(tmp_path / "tiny", slo_ms=2000)
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
