"""A server of the Open Inference Protocol as MLPerf LoadGen's system under test, over gRPC.

LoadGen decides what is asked and when, takes the times, and says whether the run is valid. This file carries each
sample to the server and says when it is back. It needs nothing of poise: ``loadgen.sh`` runs it in an environment
that has LoadGen and tritonclient.

Server: single samples at the Poisson times of ``--qps``. LoadGen's verdict is valid where enough samples came back
within ``--latency-ms``. Offline: all samples at once, which leave here in requests of ``--batch`` items,
``--in-flight`` requests at a time.

A sample that is refused or fails is answered to LoadGen all the same, since it has no word for it, and counted: a run
with one such sample is not valid here, and the program ends with status 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlperf_loadgen as loadgen
import numpy as np
import tritonclient.grpc as oip

SCENARIOS = {"server": loadgen.TestScenario.Server, "offline": loadgen.TestScenario.Offline}


class Server:
    """Sends samples to a model and hands back when each is answered. Shapes: each array is [samples, …]."""

    def __init__(self, address: str, model: str, arrays: dict[str, np.ndarray], timeout_s: float) -> None:
        self._client = oip.InferenceServerClient(address)
        self._model = model
        self._arrays = arrays
        self._timeout_s = timeout_s
        metadata = self._client.get_model_metadata(model)
        self._datatypes = {tensor.name: tensor.datatype for tensor in metadata.inputs}
        unknown = sorted(arrays.keys() - self._datatypes.keys())
        if unknown:
            raise SystemExit(f"{model} has no input {unknown[0]!r}, but {', '.join(self._datatypes)}")
        self.samples = len(next(iter(arrays.values())))
        self.failed = 0
        self.failure = ""
        self._lock = threading.Lock()

    def ask(self, indices: Sequence[int], when_answered: Callable[[], None]) -> None:
        """Ask for some samples in one request; ``when_answered`` is called on a thread of the client's."""
        inputs = []
        for name, array in self._arrays.items():
            rows = array[list(indices)]
            tensor = oip.InferInput(name, list(rows.shape), self._datatypes[name])
            tensor.set_data_from_numpy(rows)
            inputs.append(tensor)

        def answered(result: Any, error: Any) -> None:
            if error is not None:
                with self._lock:
                    self.failed += len(indices)
                    self.failure = str(error)
            when_answered()

        self._client.async_infer(self._model, inputs, answered, client_timeout=self._timeout_s)

    def close(self) -> None:
        self._client.close()


def issuer(server: Server, batch: int, in_flight: int) -> Callable[[list[Any]], None]:
    """Return what LoadGen calls with the samples of a query."""
    free = threading.Semaphore(in_flight)

    def issue(samples: list[Any]) -> None:
        for start in range(0, len(samples), batch):
            group = samples[start : start + batch]
            responses = [loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in group]

            def complete(responses: list[Any] = responses) -> None:
                free.release()
                loadgen.QuerySamplesComplete(responses)

            free.acquire()
            server.ask([sample.index for sample in group], complete)

    return issue


def settings(options: argparse.Namespace) -> Any:
    """Return LoadGen's settings: its own defaults, but for how long and how fast."""
    made = loadgen.TestSettings()
    made.scenario = SCENARIOS[options.scenario]
    made.mode = loadgen.TestMode.PerformanceOnly
    made.server_target_qps = options.qps
    made.server_target_latency_ns = round(options.latency_ms * 1e6)
    made.server_target_latency_percentile = options.percentile / 100
    made.offline_expected_qps = options.qps
    made.min_duration_ms = round(options.duration_s * 1e3)
    made.min_query_count = options.queries
    return made


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run one scenario and return the verdict and LoadGen's figures."""
    with np.load(options.samples) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in options.without}
    server = Server(options.address, options.model, arrays, options.timeout_s)
    options.out.mkdir(parents=True, exist_ok=True)
    log = loadgen.LogSettings()
    log.log_output.outdir = str(options.out)
    log.enable_trace = False
    batch, in_flight = (options.batch, options.in_flight) if options.scenario == "offline" else (1, 100_000)
    sut = loadgen.ConstructSUT(issuer(server, batch, in_flight), lambda: None)
    samples = loadgen.ConstructQSL(server.samples, server.samples, lambda _: None, lambda _: None)
    try:
        loadgen.StartTestWithLogSettings(sut, samples, settings(options), log)
    finally:
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(sut)
        server.close()
    summary = (options.out / "mlperf_log_summary.txt").read_text()
    figures = {
        name.strip(): value.strip() for name, value in re.findall(r"^([\w .()%]+?)\s*: (.+)$", summary, re.M)
    }
    valid = figures.get("Result is") == "VALID"
    return {
        "scenario": options.scenario,
        "valid": valid and not server.failed,
        "loadgen": figures,
        "failed_samples": server.failed,
        "failure": server.failure,
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("address", help="the server's gRPC address, HOST:PORT")
    made.add_argument("model")
    made.add_argument("samples", type=Path, help="an .npz of arrays named as the model's inputs")
    made.add_argument("--scenario", choices=SCENARIOS, default="server")
    made.add_argument(
        "--qps", type=float, default=50.0, help="Server: the rate; Offline: what LoadGen expects"
    )
    made.add_argument("--latency-ms", type=float, default=100.0, help="Server: the bound")
    made.add_argument(
        "--percentile", type=float, default=99.0, help="Server: the share within the bound, in %%"
    )
    made.add_argument("--duration-s", type=float, default=60.0)
    made.add_argument("--queries", type=int, default=100, help="the least number of queries")
    made.add_argument("--batch", type=int, default=8, help="Offline: items a request")
    made.add_argument("--in-flight", type=int, default=16, help="Offline: requests at a time")
    made.add_argument("--timeout-s", type=float, default=60.0, help="the deadline of a request")
    made.add_argument("--without", nargs="*", default=["label"], help="arrays of the file that are no inputs")
    made.add_argument("--out", type=Path, default=Path("mlperf"), help="folder for LoadGen's logs")
    return made


def main() -> int:
    result = run(parser().parse_args())
    print(json.dumps(result, indent=1))
    return 0 if result["valid"] else 1


if __name__ == "__main__":
    sys.exit(main())
