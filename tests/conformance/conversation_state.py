"""Conversations that change a server: what its statistics count, and models unloaded and loaded again."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import numpy as np
from tests.conformance.clients import Clients, Flavour, Tree
from tests.conformance.conversation import LEFT, sums
from tests.conformance.conversation_http import encode, tensor
from tritonclient.grpc import service_pb2 as pb

SETTLE_S = 60.0
"""How long a server may take to unload a model, or to count what it answered."""
SLOW_S = 0.25
BEFORE = 4


def hold_statistics(clients: Clients) -> dict[str, Tree]:
    """Count: three jobs of two items and one of one are answered, and one fails, through each client in turn."""
    answers: dict[str, Tree] = {}
    for name, flavour in clients.flavours.items():
        for model, jobs, what in (("sums", 4, _answered), ("moody", 1, _failed)):
            before = _counts(flavour, model)
            what(flavour)
            after = _counted(flavour, model, _jobs(before) + jobs)
            answers[f"{name}: statistics of {model}"] = _less(after, before)
        answers[f"{name}: statistics' form"] = _form(flavour.call("get_inference_statistics", "sums"))
    everybody = clients.flavours["http"].call("get_inference_statistics")
    answers["http: statistics of all"] = sorted(each["name"] for each in everybody["value"]["model_stats"])
    message = clients.grpc("ModelStatistics", pb.ModelStatisticsRequest())["message"]
    answers["bare grpc: statistics of all"] = sorted(each["name"] for each in message["modelStats"])
    return answers


def _answered(flavour: Flavour) -> None:
    for items in (2, 2, 2, 1):
        heard = flavour.call("infer", "sums", sums(flavour, LEFT[:items], LEFT[:items]))
        assert "value" in heard, heard


def _failed(flavour: Flavour) -> None:
    heard = flavour.call("infer", "moody", [flavour.tensor("mood", "FP32", np.array([[-1]], np.float32))])
    assert "refused" in heard, heard


def _counts(flavour: Flavour, model: str) -> dict[str, int]:
    """Return all counts of a model's statistics by their path."""
    (statistics,) = flavour.call("get_inference_statistics", model)["value"]["model_stats"]
    found: dict[str, int] = {}
    for path in ("inference_count", "execution_count"):
        found[path] = int(statistics.get(path, 0))
    for name, duration in statistics["inference_stats"].items():
        found[f"inference_stats.{name}"] = int(duration.get("count", 0))
    for batch in statistics.get("batch_stats", []):
        for name in ("compute_input", "compute_infer", "compute_output"):
            size = batch["batch_size"]
            found[f"batch_stats {size}.{name}"] = int(batch[name].get("count", 0))
    return found


def _counted(flavour: Flavour, model: str, jobs: int) -> dict[str, int]:
    """Return the counts once they are of so many jobs and rest: a server may answer a job before it counts it."""
    until = time.monotonic() + SETTLE_S
    last: dict[str, int] = {}
    counts = _counts(flavour, model)
    while (counts != last or _jobs(counts) < jobs) and time.monotonic() < until:
        time.sleep(0.02)
        last, counts = counts, _counts(flavour, model)
    return counts


def _jobs(counts: dict[str, int]) -> int:
    return counts["inference_stats.success"] + counts["inference_stats.fail"]


def _less(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {
        path: count - before.get(path, 0) for path, count in after.items() if count != before.get(path, 0)
    }


def _form(heard: Tree) -> Tree:
    """Return the statistics' fields, without what they count."""

    def shape(tree: Tree) -> Tree:
        match tree:
            case {"count": _}:
                return {"count": "number", "ns": "number"}  # gRPC's JSON leaves out what is 0
            case dict():
                return {key: shape(value) for key, value in tree.items()}
            case [first, *_]:
                return [shape(first)]
        return type(tree).__name__

    return shape(heard)


def hold_timeouts(clients: Clients) -> dict[str, Tree]:
    """Ask with a timeout that passes while the job waits: several that take long stand before it."""
    answers: dict[str, Tree] = {}
    slow = encode(tensor("mood", "FP32", [1, 1], [SLOW_S]))
    for name, flavour in clients.flavours.items():
        with concurrent.futures.ThreadPoolExecutor(BEFORE) as pool:
            before = [
                pool.submit(clients.http, "POST", "/v2/models/moody/infer", slow) for _ in range(BEFORE)
            ]
            time.sleep(SLOW_S / 2)  # they have all arrived, and most of them wait
            mood = flavour.tensor("mood", "FP32", np.zeros((1, 1), np.float32))
            answers[f"{name}: infer, too late"] = flavour.call("infer", "moody", [mood], timeout=1)
            assert [answer.result()["status"] for answer in before] == [200] * BEFORE
    return answers


def hold_repository(clients: Clients) -> dict[str, Tree]:
    """Unload a model and load it again, through each client in turn, and ask for it in between."""
    answers: dict[str, Tree] = {}
    for name, flavour in clients.flavours.items():

        def say(said: str, *call: Any, **how: Any) -> None:
            answers[f"{name}: {said}"] = flavour.call(*call, **how)  # noqa: B023  (used at once)

        say("the index", "get_model_repository_index")
        say("unload moody", "unload_model", "moody")
        answers[f"{name}: the index without it"] = _settled(flavour)
        say("is_model_ready of what is unloaded", "is_model_ready", "moody")
        say("is_server_ready with one unloaded", "is_server_ready")
        say("get_model_metadata of what is unloaded", "get_model_metadata", "moody")
        say("get_model_config of what is unloaded", "get_model_config", "moody")
        say("get_inference_statistics of what is unloaded", "get_inference_statistics", "moody")
        mood = [flavour.tensor("mood", "FP32", np.zeros((1, 1), np.float32))]
        say("infer with what is unloaded", "infer", "moody", mood)
        say("infer with what is not", "infer", "sums", sums(flavour))
        say("load moody", "load_model", "moody")
        say("the index with it again", "get_model_repository_index")
        say("infer with what is loaded again", "infer", "moody", mood)
        say("load it once more", "load_model", "moody")
        say("load an unknown model", "load_model", "nobody")
        say("unload an unknown model", "unload_model", "nobody")
    for method, path, body in (
        ("POST", "/v2/repository/index", b"{}"),
        ("POST", "/v2/repository/index", b'{"ready": true}'),
        ("POST", "/v2/repository/index", b"nonsense"),
        ("POST", "/v2/repository/models/sums/load", b"nonsense"),
        ("GET", "/v2/repository/models/sums/load", b""),
        ("POST", "/v2/repository/models/sums/nothing", b""),
        ("POST", "/v2/repository/x/models/sums/load", b""),
    ):
        answers[f"bare http: {method} {path} {body.decode()}"] = clients.http(method, path, body)
    return answers


def _settled(flavour: Flavour) -> Tree:
    """Return the repository's index once no model in it is on its way."""
    until = time.monotonic() + SETTLE_S
    while True:
        heard = flavour.call("get_model_repository_index")
        index = heard["value"]["models"] if flavour.over_grpc else heard["value"]
        if not any(model["state"] in ("LOADING", "UNLOADING") for model in index):
            return heard
        assert time.monotonic() < until, heard
        time.sleep(0.02)
