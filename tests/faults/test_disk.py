"""A disk that is full: files end, or wait until there is room again, and serving goes on."""

import json
import resource
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from tests.faults.servers import Traffic, serving_with
from tests.servers import DATATYPES, Server, json_request
from tests.serving.test_adapted_server import emulated_service, reader

from poise.scheduling.events import JobArrived
from poise.scheduling.log import decode_log

SMALL_BUFFER = "import poise.serving.recording as recording; recording.BUFFER_BYTES = 4096"
IMPATIENT = "import poise.serving.chronicle as chronicle; chronicle.RETRY_S = 1.0"


def fill(server: Server, *files: Path) -> None:
    """From now on no file of the server grows beyond what these are."""
    most = max(file.stat().st_size for file in files)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def empty(server: Server) -> None:
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


@pytest.fixture
def requests(arrays) -> Callable[[int], bytes]:
    body = json.dumps(json_request(arrays, tuple(DATATYPES))).encode()
    return lambda number: body


def test_a_recording_ends_where_the_disk_does(tmp_path: Path, requests) -> None:
    service = emulated_service(tmp_path / "tiny", "")
    log = tmp_path / "log.jsonl"
    with serving_with(service, "--record", str(log), before=SMALL_BUFFER) as server:
        fill(server, log)
        traffic = Traffic(server.url, "tiny", requests)
        traffic.run(100, 1)
        assert traffic.statuses == {"200": traffic.sent}
        assert f"recording to {log} ends here: [Errno 27] File too large" in server.log()
        empty(server)
        traffic.run(100, 0.5)
        assert traffic.statuses == {"200": traffic.sent}
        assert server.log().count("ends here") == 1  # it is said once, and a log with a gap is none
        assert server.terminate() == 0


def test_a_device_without_room_is_no_place_for_a_recording(tmp_path: Path, requests) -> None:
    service = emulated_service(tmp_path / "tiny", "")
    with (
        pytest.raises(AssertionError, match="cannot be written: No space left on device"),
        serving_with(service, "--record", "/dev/full"),
    ):
        pass


@pytest.mark.slow
def test_a_recording_holds_what_was_written_before(tmp_path: Path, requests) -> None:
    service = emulated_service(tmp_path / "tiny", "")
    log = tmp_path / "log.jsonl"
    with serving_with(service, "--record", str(log), before=SMALL_BUFFER) as server:
        traffic = Traffic(server.url, "tiny", requests)
        traffic.run(100, 1)
        fill(server, log)
        traffic.run(100, 1)
        assert server.terminate() == 0
    whole = log.read_bytes().rpartition(b"\n")[0].split(b"\n")
    _, entries = decode_log(whole)
    assert sum(isinstance(event, JobArrived) for event, _ in entries) > 20


@pytest.mark.slow
def test_a_history_waits_until_there_is_room_again(tmp_path: Path, requests) -> None:
    service = emulated_service(tmp_path / "tiny")
    with serving_with(service, before=IMPATIENT) as server:
        traffic = Traffic(server.url, "tiny", requests)
        growing = service / "service.history.sqlite-wal"
        # Larger than what the server says on stderr, which the limit is for too.
        server.wait_until(lambda: growing.exists() and growing.stat().st_size > 16_384)
        fill(server, growing)
        traffic.run(20, 1, lambda: server.wait_until(lambda: "cannot be written" in server.log()))
        assert "serving goes on" in server.log()
        empty(server)
        traffic.run(20, 1, lambda: server.wait_until(lambda: "is written again" in server.log()))
        assert not traffic.lost
        assert traffic.statuses == {"200": traffic.sent}
        assert server.metric("poise_adapter_faults_total") == 0
        assert server.terminate() == 0
    with reader(service) as kept:
        at = sorted(second.at_s for second in kept.seconds(1000))
        assert len(at) > 3
        assert all(later - one <= 3 for one, later in pairwise(at))  # what waited is there
