"""The log of a running server: one line per decision worth knowing, none per request."""

import json
import signal
import subprocess
from subprocess import PIPE
from typing import Any, get_args

from tests.servers import DATATYPES, POISE, Server, copy_tiny, json_request, serving
from tests.tiny import TINY

from poise.adapting.decision import Decision, Outcome
from poise.domain.allocation import Allocation, Workers
from poise.forecasting.base import Forecast
from poise.serving.decision_log import fields_of, words_of


def lines(server: Server) -> list[dict]:
    return [json.loads(line) for line in server.log().splitlines()]


def test_a_lost_worker_is_a_line_with_fields_and_a_request_is_none(tmp_path, arrays):
    with serving(copy_tiny(tmp_path / "tiny", workers=1), "--log-json") as server:
        before = len(lines(server))
        for _ in range(5):
            assert server.post(json_request(arrays, tuple(DATATYPES), 1))[0] == 200
        assert server.post({"inputs": []})[0] == 400
        assert len(lines(server)) == before
        server.workers()[0].send_signal(signal.SIGKILL)
        server.wait_until(lambda: server.metric("poise_workers_started_total") == 2)
        assert server.terminate() == 0
        found = {line["event"]: line for line in lines(server) if "event" in line}
        assert found["worker_loaded"]["variants"] == ["late", "whole"]
        assert found["worker_loaded"]["memory_bytes"] > 10e6
        assert found["worker_lost"]["level"] == "warning"
        assert found["worker_lost"]["worker"] == 1
        assert "SIGKILL" in found["worker_lost"]["problem"]
        assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines(server)))


def test_a_decision_is_a_line_with_its_figures(tmp_path):
    options = ("--adapter", "poise", "--history", str(tmp_path / "history"), "--log-json")
    with serving(TINY / "emulated.yaml", *options) as server:
        server.wait_until(lambda: any(line.get("event") == "decision" for line in lines(server)))
        decision = next(line for line in lines(server) if line.get("event") == "decision")
    assert decision["reason"] == "start"
    assert decision["outcome"] in get_args(Outcome)
    assert decision["workers"]
    assert decision["message"].startswith("decision 1 (start): ")


def test_the_least_that_is_logged_can_be_set(tmp_path):
    with serving(copy_tiny(tmp_path / "tiny", workers=1), "--log-level", "warning") as server:
        assert server.terminate() == 0
        assert not server.log()


def test_json_lines_are_all_there_is_on_stderr_also_for_people():
    command = [*POISE, "serve", str(TINY / "emulated.yaml"), "--port", "0", "--log-json"]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        assert "served at" in process.stdout.readline()
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(log.splitlines()[-1])["message"] == "stopped; every accepted job was answered"
    assert all(json.loads(line) for line in log.splitlines())


def decision(**more) -> Decision:
    known: dict[str, Any] = {
        "number": 7,
        "at_s": 1.0,
        "epoch_s": 1e9,
        "policy": "poise",
        "reason": "band",
        "outcome": "adopted",
        "forecast": Forecast(horizon_s=60.0, levels=(0.5, 0.9), rates=(10.0, 20.0), forecaster="ewma"),
        "observed_rps": {"a": 8.0, "b": 4.0},
        "planned_rps": {"a": 15.0, "b": 7.5},
        "allocation": Allocation(
            workers=(
                Workers(variants=("small", "large"), count=2, batch_cap_s=0.05),
                Workers(variants=("x",), count=1),
            )
        ),
        "running": Allocation(workers=()),
        "solve_s": 0.02,
        "loads": 1,
        "stops": 2,
    }
    return Decision(**known | more)


def test_a_decision_in_words():
    assert words_of(decision()) == (
        "decision 7 (band): adopted; 12.0 jobs/s observed, 22.5 planned for; workers: 2 × small+large of 1 "
        "up to 0.05 s, 1 × x of 1; 1 to load, 2 to stop"
    )
    failed = decision(allocation=None, outcome="failed", loads=0, stops=0, trouble="no time", forecast=None)
    assert words_of(failed) == ("decision 7 (band): failed; 12.0 jobs/s observed, 22.5 planned for; no time")


def test_a_decision_in_fields():
    fields = fields_of(decision())
    assert fields["forecast_rps"] == {0.5: 10.0, 0.9: 20.0}
    assert fields["workers"] == "2 × small+large of 1 up to 0.05 s, 1 × x of 1"
    assert (fields["loads"], fields["stops"], fields["running"]) == (1, 2, "")
    assert fields_of(decision(allocation=None, forecast=None))["workers"] is None
