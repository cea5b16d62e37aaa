"""What a live server decided, a replay decides again: the scheduler has no state but its events."""

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import psutil
import pytest
from tests.tiny import TINY, copy_of_tiny

from poise.scheduling.commands import Answer, Refuse
from poise.scheduling.events import JobArrived
from poise.scheduling.log import LogHeader, decode_log
from poise.scheduling.policies import POLICIES
from poise.simulation.replay import replay

POISE = [sys.executable, "-m", "poise.cli.main"]
INPUTS = {
    "image": {"pixels": "UINT8"},
    "sound": {"wave": "FP32"},
    "word": {"letters": "INT64", "length": "FP32"},
}
SETS = [("image", "sound", "word"), ("sound",), ("word", "image"), ("image",), ("sound", "word")]


class Live:
    """A running server: its process and address."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process = process
        self.address = address

    def infer(self, body: dict) -> int:
        """Send one request and return the status."""
        with contextlib.closing(http.client.HTTPConnection(self.address, timeout=60)) as connection:
            connection.request("POST", "/v2/models/tiny/infer", json.dumps(body).encode())
            response = connection.getresponse()
            response.read()
            return response.status


@contextlib.contextmanager
def serving(service: Path, *options: str) -> Iterator[Live]:
    """Start a server, wait until it says that it is ready, and leave nothing of it behind."""
    with (service.parent / "stderr.txt").open("wb") as errors:
        process = subprocess.Popen(
            [*POISE, "serve", str(service), "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (service.parent / "stderr.txt").read_text()
        yield Live(process, urlsplit(json.loads(line)["url"]).netloc)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()
        process.stdout.close()


def requests(count: int, seed: int) -> list[dict]:
    """Requests of all sorts: sizes, sets of modalities, classes, deadlines (some impossible), floors."""
    rng = random.Random(seed)
    with np.load(TINY / "test.npz") as archive:
        arrays = {name: archive[name] for tensors in INPUTS.values() for name in tensors}
    made = []
    for _ in range(count):
        items = rng.randint(1, 12)
        inputs = [
            {"name": name, "datatype": datatype, "shape": [items, *arrays[name].shape[1:]]}
            | {"data": arrays[name][:items].ravel().tolist()}
            for modality in rng.choice(SETS)
            for name, datatype in INPUTS[modality].items()
        ]
        parameters: dict[str, object] = {"poise_class": rng.choice(["interactive", "bulk"])}
        deadline_ms = rng.choice([None, 1, 20, 200, 50_000])
        if deadline_ms is not None:
            parameters["poise_deadline_ms"] = deadline_ms
        floor = rng.choice([None, 0.0, 0.3, 0.5])
        if floor is not None:
            parameters["poise_accuracy_floor"] = floor
        made.append({"inputs": inputs, "parameters": parameters})
    return made


@pytest.fixture(scope="module", params=["poise", "edf"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a server that was asked for much, lost a worker in the middle, and drained."""
    folder = tmp_path_factory.mktemp(request.param)
    service = folder / "tiny"
    copy_of_tiny(service)
    file = service / "service.yaml"
    file.write_text(re.sub(r"latency_slo_ms: \d+", "latency_slo_ms: 60000", file.read_text()))
    log = folder / "log.jsonl"
    with (
        serving(service, "--record", str(log), "--policy", request.param) as live,
        concurrent.futures.ThreadPoolExecutor(12) as clients,
    ):
        statuses = list(clients.map(live.infer, requests(60, seed=1)))
        pending = [clients.submit(live.infer, body) for body in requests(60, seed=2)]
        next(concurrent.futures.as_completed(pending))
        psutil.Process(live.process.pid).children()[-1].kill()
        statuses += [done.result() for done in pending]
        statuses += list(clients.map(live.infer, requests(30, seed=3)))
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(60) == 0
    assert statuses.count(200) > 30
    assert set(statuses) <= {200, 400, 503, 504}  # 400: a floor beyond the modalities that were sent
    return log


def test_a_live_log_replays_to_the_same_commands(recorded):
    with recorded.open("rb") as lines:
        header, entries = decode_log(lines, recorded.name)
        report = replay(header, entries)
    assert report.differing == ()
    assert entries.truncated_line is None
    assert report.events > 150


def test_the_log_tells_the_whole_story(recorded):
    with recorded.open("rb") as lines:
        _, entries = decode_log(lines)
        log = list(entries)
    seen = Counter(type(event).__name__ for event, _ in log)
    assert {"JobArrived", "BatchDone", "WorkerReady", "WorkerLost", "DrainStarted"} <= seen.keys()
    arrived = [event.job.id for event, _ in log if isinstance(event, JobArrived)]
    outcomes = [
        command.job_id for _, commands in log for command in commands if isinstance(command, Answer | Refuse)
    ]
    assert sorted(outcomes) == sorted(arrived)
    assert all(now.now_s <= later.now_s for (now, _), (later, _) in itertools.pairwise(log))


def test_another_policy_does_not_replay_it(recorded):
    with recorded.open("rb") as lines:
        header, entries = decode_log(lines)
        other: LogHeader = msgspec.structs.replace(
            header, policy="edf" if header.policy == "poise" else "poise"
        )
        assert not replay(other, entries).same


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"poise", "edf"}))
def test_a_short_live_run_of_every_other_policy_replays(policy, tmp_path):
    service, log = tmp_path / "tiny", tmp_path / "log.jsonl"
    copy_of_tiny(service)
    with (
        serving(service, "--record", str(log), "--policy", policy) as live,
        concurrent.futures.ThreadPoolExecutor(8) as clients,
    ):
        statuses = list(clients.map(live.infer, requests(40, seed=4)))
        live.process.send_signal(signal.SIGTERM)
        assert live.process.wait(60) == 0
    assert 200 in statuses
    assert set(statuses) <= {200, 400, 503, 504}
    with log.open("rb") as lines:
        header, entries = decode_log(lines, log.name)
        report = replay(header, entries)
    assert header.policy == policy
    assert report.differing == ()
    assert report.events > 40
