"""Prometheus itself: its tool finds nothing to say against the metrics, and a real one scrapes a real server."""

import contextlib
import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import DATATYPES, Server, json_request, serving
from tests.tiny import TINY

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("prometheus.sh")


def installed(tool: str) -> str:
    """The path of prometheus or promtool, unpacked from Debian's package if this machine has none."""
    found = subprocess.run([str(SCRIPT), tool], check=True, stdout=subprocess.PIPE, text=True, timeout=110)
    return found.stdout.strip()


def checked(text: bytes) -> tuple[int, str]:
    """What ``promtool check metrics`` says of a scrape: its status, and its words."""
    found = subprocess.run(
        [installed("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    return found.returncode, (found.stdout + found.stderr).decode()


@pytest.fixture(scope="module")
def used(server: Server, arrays) -> Server:
    for _ in range(20):
        assert server.post(json_request(arrays, tuple(DATATYPES), 2))[0] == 200
    return server


def test_promtool_finds_nothing(used):
    assert checked(used.request("GET", "/metrics")[2]) == (0, "")


def test_promtool_finds_nothing_in_an_adapters_metrics(tmp_path):
    with serving(TINY / "emulated.yaml", "--adapter", "poise", "--history", str(tmp_path / "h")) as server:
        server.wait_until(lambda: server.metric("poise_solve_seconds_count") > 0)
        text = server.request("GET", "/metrics")[2]
    assert b"poise_forecast_rps{" in text
    assert b"poise_observed_rps{" in text
    assert checked(text) == (0, "")


@pytest.mark.parametrize(
    "text",
    [
        b"# TYPE poise_jobs counter\npoise_jobs 1\n",
        b"# HELP poise_x_milliseconds X.\n# TYPE poise_x_milliseconds gauge\npoise_x_milliseconds 1\n",
        b"poise_x 1\npoise_x 2\n",
    ],
)
def test_promtool_does_find_what_is_wrong(text):
    status, words = checked(text)
    assert status != 0
    assert words


class Prometheus:
    """A running Prometheus that scrapes one server every second."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self._process = process
        self._url = url
        self._log = log

    def get(self, path: str, **query: str) -> Any:
        """What its API answers; None while it does not."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(self, expression: str) -> float | None:
        """The one value of an expression; None while there is none."""
        found = self.get("query", query=expression)
        if not found or not found["result"]:
            return None
        assert len(found["result"]) == 1, found
        return float(found["result"][0]["value"][1])


@contextlib.contextmanager
def scraping(address: str, folder: Path) -> Iterator[Prometheus]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: poise, static_configs: [{{targets: ['{address}']}}]}}]\n"
    )
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                installed("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Prometheus(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(30)


def test_a_real_prometheus_scrapes_a_real_server(used, arrays, tmp_path):
    with scraping(used.address, tmp_path) as prometheus:
        used.wait_until(lambda: (prometheus.value("count_over_time(up[1m])") or 0) >= 5)
        before = prometheus.value('sum(poise_jobs_total{outcome="answered"})')
        assert before is not None
        assert before == used.metric('poise_jobs_total{outcome="answered",slo_class="interactive"}')
        for _ in range(10):
            assert used.post(json_request(arrays, tuple(DATATYPES), 2))[0] == 200
        used.wait_until(lambda: prometheus.value("sum(poise_jobs_total)") == before + 10)

        targets = prometheus.get("targets")["activeTargets"]
        assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")]
        assert prometheus.value("min_over_time(up[1m])") == 1
        # every sample that a scrape brings is kept: none is twice, of no type or out of order
        brought = prometheus.value("scrape_samples_scraped")
        assert brought == prometheus.value("scrape_samples_post_metric_relabeling")
        lines = used.request("GET", "/metrics")[2].decode().splitlines()
        assert brought == sum(not line.startswith("#") for line in lines)
        assert "level=warn" not in prometheus._log.read_text()
        assert "level=error" not in prometheus._log.read_text()

        kinds = prometheus.get("metadata")
        assert kinds["poise_jobs_total"][0]["type"] == "counter"
        assert kinds["poise_response_seconds"][0]["type"] == "histogram"
        assert kinds["poise_accuracy_floor_ratio"][0]["type"] == "gauge"

        # what docs/operating.md tells to ask
        mean = "sum(poise_accuracy_expected_items_total) / sum(poise_answered_items_total)"
        accuracy = prometheus.value(mean)
        assert accuracy is not None
        assert 0.5 < accuracy <= 1
        p99 = "histogram_quantile(0.99, sum by (le) (poise_response_seconds_bucket))"
        latency_s = prometheus.value(p99)
        assert latency_s is not None
        assert 0 < latency_s <= 10
