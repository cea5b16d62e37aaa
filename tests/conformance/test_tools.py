"""Load generators that nobody here wrote, each by its own verdict: perf_analyzer, k6 and MLPerf LoadGen.

The rates are small and the runs short: what is tested is that the tools and poise understand each other, not speed.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.conformance import peers
from tests.conformance.peers import Peer
from tests.servers import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
LOADGEN = HERE.parents[1] / "benchmarks/mlperf/loadgen.sh"
NOT_HERE = 77
"""Exit status of a script that cannot install its tool on this machine."""
REQUESTS = 200
ITEMS = 2
"""Of each request of perf_analyzer."""


def run(script: Path, *arguments: object, folder: Path, **environment: object) -> tuple[int, str]:
    """Run a tool by its script, which installs it first where it is not; return its status and what it said."""
    ended = subprocess.run(
        [str(script), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable, **{k: str(v) for k, v in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    if ended.returncode == NOT_HERE and arguments == ("--install-only",):
        pytest.skip(ended.stdout.strip().splitlines()[-1])
    return ended.returncode, ended.stdout


def install(script: Path, folder: Path) -> None:
    status, said = run(script, "--install-only", folder=folder)
    assert status == 0, said


@pytest.fixture(scope="module")
def poise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with peers.poise(tmp_path_factory.mktemp("poise"), ["sums"]) as peer:
        yield peer


LOADS = {
    "concurrency": ("--concurrency-range", "3:3"),
    "poisson": ("--request-rate-range", "100:100", "--request-distribution", "poisson"),
    "asynchronous": ("--concurrency-range", "3:3", "--async"),
}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer(poise, tmp_path, protocol, load):
    script = HERE / "perf_analyzer.sh"
    install(script, tmp_path)
    address = poise.http if protocol == "http" else poise.grpc
    status, said = run(
        script,
        *("-m", "sums", "-i", protocol, "-u", address, *LOADS[load], "-b", ITEMS),
        *("--request-count", REQUESTS, "-s", 999, "-f", "load.csv", "--profile-export-file", "load.json"),
        folder=tmp_path,
    )
    assert status == 0, said
    with (tmp_path / "load.csv").open() as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["Inferences/Second"]) > 0
    # queue and compute times come from the server's own statistics
    assert int(row["Server Compute Infer"]) > 0, said
    (experiment,) = json.loads((tmp_path / "load.json").read_text())["experiments"]
    requests = experiment["requests"]
    assert len(requests) >= REQUESTS
    for request in requests:
        (answer,) = request["response_outputs"]
        given = {name: np.array(values, np.float32) for name, values in request["request_inputs"].items()}
        with np.errstate(over="ignore"):
            # the file has the items' values once, since perf_analyzer sends the same for each of a request
            expected = np.tile(given["left"] + given["right"], ITEMS)
        np.testing.assert_array_equal(np.array(answer["sum"], np.float32), expected)


def test_perf_analyzer_leaves_modalities_out(tiny, tmp_path):
    """Inputs that its data file does not have are not sent, since the configuration says that they may be missing."""
    script = HERE / "perf_analyzer.sh"
    install(script, tmp_path)
    (tmp_path / "data.json").write_text(
        json.dumps({"data": [{"wave": [0.5, 1.0, -1.0, 2.0], "pixels": [0, 1, 2, 3, 4, 5]}]})
    )
    with serving(tiny, "--grpc-port", "0") as server:
        status, said = run(
            script,
            *("-m", "tiny", "-i", "grpc", "-u", server.grpc_address, "--input-data", "data.json"),
            *("--concurrency-range", "2:2", "--request-count", 50, "-s", 999),
            *("--profile-export-file", "load.json"),
            folder=tmp_path,
        )
        assert status == 0, said
        assert server.metric('poise_jobs_total{outcome="answered",slo_class="interactive"}') >= 50
    (experiment,) = json.loads((tmp_path / "load.json").read_text())["experiments"]
    assert len(experiment["requests"]) >= 50
    for request in experiment["requests"]:
        assert sorted(request["request_inputs"]) == ["pixels", "wave"]
        assert len(request["response_outputs"][0]["logits"]) == 5


def test_k6_at_a_constant_arrival_rate(poise, tmp_path):
    script = HERE / "k6.sh"
    install(script, tmp_path)
    status, said = run(
        script,
        *("run", "--quiet", "--no-color", "--no-usage-report", "--summary-export", "summary.json"),
        HERE / "infer.js",
        folder=tmp_path,
        URL=f"http://{poise.http}",
        RATE=100,
        DURATION="5s",
    )
    assert status == 0, said
    metrics = json.loads((tmp_path / "summary.json").read_text())["metrics"]
    assert metrics["checks"]["fails"] == 0
    assert metrics["http_req_failed"]["passes"] == 0  # of the measure "failed"
    assert metrics["iterations"]["count"] >= 5 * 100


@pytest.mark.parametrize(
    ("scenario", "settings"),
    [
        # 1 % over the bound would be one in a hundred: 500 samples are enough for LoadGen to say so
        ("server", ("--qps", 100, "--duration-s", 6, "--queries", 500, "--latency-ms", 1000)),
        # 22,000 samples have to take longer than 0.1 s: no rate that this machine can reach is too high
        ("offline", ("--qps", 200_000, "--duration-s", 0.1, "--batch", 8)),
    ],
)
def test_mlperf_loadgen_calls_the_run_valid(poise, tmp_path, scenario, settings):
    install(LOADGEN, tmp_path)
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(2, 64, 4)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", left=left, right=right)
    status, said = run(
        LOADGEN,
        *(poise.grpc, "sums", tmp_path / "samples.npz", "--scenario", scenario, *settings, "--out", "logs"),
        folder=tmp_path,
    )
    assert status == 0, said
    result = json.loads(said)
    assert result["valid"]
    assert result["loadgen"]["Result is"] == "VALID"
    assert result["failed_samples"] == 0


def test_mlperf_loadgen_calls_a_run_of_refusals_invalid(poise, tmp_path):
    install(LOADGEN, tmp_path)
    np.savez(tmp_path / "samples.npz", left=np.zeros((8, 4), np.float32))  # without right: refused
    status, said = run(
        LOADGEN,
        *(poise.grpc, "sums", tmp_path / "samples.npz", "--scenario", "offline", "--qps", 100),
        *("--duration-s", 0.05, "--out", "logs"),
        folder=tmp_path,
    )
    assert status == 1, said
    assert json.loads(said)["failed_samples"] > 0
