"""A clock of the day that steps while the server runs: nothing that is decided or waited for depends on it."""

import ast
import json
from pathlib import Path

import pytest
from tests.faults.servers import Traffic, serving_with, workers_of
from tests.servers import DATATYPES, json_request
from tests.serving.test_adapted_server import emulated_service, reader

import poise

SOURCE = Path(poise.__file__).parent
DAY_S = 86_400.0
SOLVED = "poise_solve_seconds_count"

# Where the time of day is read, and what for.
TIME_OF_DAY = {
    "serving/adaptation.py": "stamps of the history, and beats at whole seconds",
    "serving/chronicle.py": "how old a history may be",
    "serving/statistics.py": "when a model was last asked, as Triton tells it",
}

READERS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

# The server under a clock that is off by whatever a file says. Its children have it too.
SITE = """
import os, time
_true = time.time
def _stepped():
    try:
        with open(os.environ["POISE_TEST_CLOCK"]) as file:
            return _true() + float(file.read() or 0)
    except FileNotFoundError:
        return _true()
time.time = _stepped
"""


def reads_the_time_of_day(text: str) -> bool:
    """Whether code reads the time of day: ``time.time``, ``time_ns``, or a ``now`` of ``datetime``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if f"{node.value.id}.{node.attr}" in READERS:
                return True
        elif isinstance(node, ast.ImportFrom) and any(
            f"{node.module}.{n.name}" in READERS for n in node.names
        ):
            return True
    return False


@pytest.mark.parametrize(
    "package", ["scheduling", "adapting", "planning", "serving", "ingress", "protocol", "runtimes"]
)
def test_the_time_of_day_is_read_where_it_is_meant(package: str) -> None:
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in sorted((SOURCE / package).rglob("*.py"))
        if reads_the_time_of_day(path.read_text())
    }
    assert found <= set(TIME_OF_DAY)


def test_a_reader_of_the_time_of_day_is_found() -> None:
    assert reads_the_time_of_day("import time\ntime.time()")
    assert reads_the_time_of_day("from time import time")
    assert reads_the_time_of_day("from datetime import datetime\ndatetime.now()")
    assert not reads_the_time_of_day("import time\ntime.monotonic()")


@pytest.mark.slow
@pytest.mark.parametrize("step_s", [-DAY_S, DAY_S, 0.4])
def test_a_clock_that_steps_changes_no_outcome(tmp_path: Path, arrays, step_s: float) -> None:
    site, clock = tmp_path / "site", tmp_path / "clock"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    clock.write_text("0")
    service = emulated_service(tmp_path / "tiny")
    body = json.dumps(json_request(arrays, tuple(DATATYPES))).encode()
    environment = {"PYTHONPATH": str(site), "POISE_TEST_CLOCK": str(clock)}
    with serving_with(service, environment=environment) as server:
        before = [child.pid for child in server.workers()]

        def beats(count: int) -> None:
            """Wait until the adapter, which is due once a second, has decided so many times."""
            start = server.metric(SOLVED)
            server.wait_until(lambda: server.metric(SOLVED) >= start + count)

        def step() -> None:
            beats(2)
            clock.write_text(str(step_s))
            beats(3)
            clock.write_text("0")
            beats(2)

        traffic = Traffic(server.url, "tiny", lambda number: body)
        traffic.run(50, 1, step)
        assert not traffic.lost
        assert traffic.statuses == {"200": traffic.sent}
        assert [child.pid for child in server.workers()] == before
        assert server.metric("poise_adapter_faults_total") == 0
        assert not workers_of(server)
        assert server.terminate() == 0
        assert "Traceback" not in server.log()
    with reader(service) as kept:
        # All but those of the last second, which had not ended.
        assert traffic.sent - 100 < sum(second.jobs for second in kept.seconds(200_000)) <= traffic.sent
        kept.rates()
