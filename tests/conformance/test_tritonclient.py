"""poise as the users of tritonclient see it: its four clients, with what only poise has."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tests.conformance.clients import FLAVOURS, Flavour
from tests.conformance.peers import Peer
from tests.servers import DATATYPES, MODALITY_INPUTS, Server, copy_endless, serving

CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT", 504: "DEADLINE_EXCEEDED"}
LONG_S = 60.0


@pytest.fixture(scope="module")
def server(tiny) -> Iterator[Server]:
    with serving(tiny, "--grpc-port", "0") as running:
        yield running


@pytest.fixture(params=FLAVOURS)
def client(request, server) -> Iterator[Flavour]:
    flavour = Flavour(request.param, peer_of(server))
    yield flavour
    flavour.close()


def peer_of(server: Server) -> Peer:
    return Peer("poise", server.address, server.grpc_address)


def inputs(
    client: Flavour, arrays: dict[str, np.ndarray], modalities: Any = MODALITY_INPUTS, items: int = 3
) -> list[Any]:
    names = [name for modality in modalities for name in MODALITY_INPUTS[modality]]
    return [client.tensor(name, DATATYPES[name], arrays[name][:items]) for name in names]


def parameters_of(client: Flavour, response: dict[str, Any]) -> dict[str, Any]:
    """An answer's parameters; over gRPC each is a field of a choice."""
    parameters = response["parameters"]
    if not client.over_grpc:
        return parameters
    return {name: next(iter(value.values())) for name, value in parameters.items()}


def refusal(client: Flavour, status: int) -> str:
    """How a client says that status."""
    return f"StatusCode.{CODES[status]}" if client.over_grpc else str(status)


def logits_of(heard: dict[str, Any]) -> np.ndarray:
    return np.array(heard["value"]["arrays"]["logits"]["values"], np.float32)


@pytest.mark.parametrize("modalities", [("image", "sound", "word"), ("sound",), ("word", "image")])
def test_modalities_are_left_out_by_leaving_inputs_out(client, arrays, expected, modalities):
    heard = client.call(
        "infer",
        "tiny",
        inputs(client, arrays, modalities),
        request_id="seven",
        parameters={"poise_accuracy_floor": 0.1},
    )
    response = heard["value"]["response"]
    assert response["id"] == "seven"
    parameters = parameters_of(client, response)
    used = parameters["poise_modalities"].split(",")
    assert len(used) == 3
    assert set(parameters["poise_variant"].split(",")) <= {"late", "whole"}
    assert 0 < float(parameters["poise_accuracy"]) <= 1
    assert int(parameters["poise_compute_us"]) > 0
    assert int(parameters["poise_queue_us"]) >= 0
    logits = logits_of(heard)
    for i, label in enumerate(used):
        assert set(label.split("+")) <= set(modalities)
        given = {name: array[i : i + 1] for name, array in arrays.items()}
        wanted = expected(given, tuple(label.split("+")))
        np.testing.assert_allclose(logits[i : i + 1], wanted, rtol=1e-4, atol=1e-4)


def test_half_a_modality_is_a_mistake(client, arrays):
    letters = client.tensor("letters", "INT64", arrays["letters"][:1])
    assert client.call("infer", "tiny", [letters]) == {"refused": refusal(client, 400)}


def test_metadata_says_which_inputs_there_are(client):
    metadata = client.call("get_model_metadata", "tiny")["value"]
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]} == DATATYPES
    assert metadata["versions"] == ["1"]


def test_configuration_says_that_every_input_is_optional(client):
    """Whoever asks the configuration which inputs must be there is told that none of several modalities must."""
    config = client.call("get_model_config", "tiny")["value"]
    config = config["config"] if client.over_grpc else config
    assert {tensor["name"]: tensor["optional"] for tensor in config["input"]} == dict.fromkeys(
        DATATYPES, True
    )


@pytest.mark.parametrize("slo_class", ["interactive", "bulk"])
def test_a_job_of_a_class(client, server, arrays, slo_class):
    metric = f'poise_jobs_total{{outcome="answered",slo_class="{slo_class}"}}'
    before = server.metric(metric)
    heard = client.call("infer", "tiny", inputs(client, arrays), parameters={"poise_class": slo_class})
    assert "value" in heard
    assert server.metric(metric) == before + 1


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"poise_class": "nobodys"}, 400),
        ({"poise_class": 7}, 400),
        ({"poise_accuracy_floor": 1.5}, 400),
        ({"poise_accuracy_floor": "high"}, 400),
        ({"poise_deadline_ms": -1.0}, 400),
        ({"poise_deadline_ms": "soon"}, 400),
        ({"poise_deadline_ms": 0.001}, 504),
    ],
    ids=str,
)
def test_terms_that_cannot_be_had(client, arrays, parameters, status):
    heard = client.call("infer", "tiny", inputs(client, arrays), parameters=parameters)
    assert heard == {"refused": refusal(client, status)}


def test_a_timeout_is_a_deadline(client, arrays):
    heard = client.call("infer", "tiny", inputs(client, arrays), timeout=1)
    assert heard == {"refused": refusal(client, 504)}
    assert "value" in client.call("infer", "tiny", inputs(client, arrays), timeout=500_000_000, priority=1)


@pytest.mark.parametrize(
    ("model", "more", "status"),
    [
        ("nobody", {}, 404),
        ("tiny", {"model_version": "2"}, 404),
    ],
    ids=str,
)
def test_models_that_are_not_there(client, arrays, model, more, status):
    heard = client.call("infer", model, inputs(client, arrays), **more)
    assert heard == {"refused": refusal(client, status)}


def test_more_items_than_the_server_can_ever_hold(client, arrays):
    many = {name: np.repeat(array, 20, axis=0) for name, array in arrays.items()}
    heard = client.call("infer", "tiny", inputs(client, many, items=1001))
    assert heard == {"refused": refusal(client, 413)}


def test_an_output_that_is_not_there(client, arrays):
    heard = client.call("infer", "tiny", inputs(client, arrays), outputs=[client.output("mood")])
    assert heard == {"refused": refusal(client, 400)}


@pytest.mark.parametrize("client", ["http.aio", "grpc.aio"], indirect=True)
def test_many_at_once_from_one_client(client, server, arrays):
    async def ask(module: Any, address: str) -> list[np.ndarray]:
        async with module.InferenceServerClient(address) as connection:
            asked = (connection.infer("tiny", inputs(client, arrays, items=1)) for _ in range(40))
            return [result.as_numpy("score") for result in await asyncio.gather(*asked)]

    address = server.grpc_address if client.over_grpc else server.address
    scores = asyncio.run(ask(client.module, address))
    assert len(scores) == 40
    assert {score.shape for score in scores} == {(1, 1)}


# gRPC alone: deadlines and cancellation are the protocol's own


@pytest.fixture(scope="module")
def endless(tmp_path_factory, arrays) -> Iterator[Server]:
    """One worker that takes ten minutes for anything, within an SLO of ten hours; a first job has it already."""
    folder = copy_endless(tmp_path_factory.mktemp("endless") / "tiny")
    with serving(folder, "--grpc-port", "0") as running:
        maker = Flavour("grpc", peer_of(running))
        with tritonclient.grpc.InferenceServerClient(running.grpc_address) as connection:
            first = connection.async_infer("tiny", inputs(maker, arrays), lambda result, error: None)
            running.wait_until(lambda: running.metric('poise_workers{state="busy"}') == 1)
            yield running
            first.cancel()
        maker.close()


def test_the_deadline_of_a_call_is_the_jobs(endless, arrays):
    """The server refuses at once what it cannot do in the call's time, long before the client gives up."""
    client = Flavour("grpc", peer_of(endless))
    refused = 'poise_refused_jobs_total{reason="deadline_unreachable"}'
    before = endless.metric(refused)
    heard = client.call("infer", "tiny", inputs(client, arrays), client_timeout=LONG_S)
    assert heard == {"refused": "StatusCode.DEADLINE_EXCEEDED"}
    assert endless.metric(refused) == before + 1
    client.close()


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Its workers do not run: what is sent to them stays with them."""
    workers = server.workers()
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def test_a_call_that_runs_out_of_time_leaves_the_queue(server, arrays):
    """The job could be done in time, but for its worker, which is stopped: the client gives up, and so does poise."""
    client = Flavour("grpc", peer_of(server))
    with stopped(server):
        heard = client.call("infer", "tiny", inputs(client, arrays), client_timeout=1.0)
        assert heard == {"refused": "StatusCode.DEADLINE_EXCEEDED"}
    server.wait_until(lambda: server.metric("poise_queue_jobs") == 0)
    client.close()


CANCELLED = 'poise_refused_jobs_total{reason="cancelled"}'


def test_a_cancelled_call_leaves_the_queue(endless, arrays):
    client = Flavour("grpc", peer_of(endless))
    told: concurrent.futures.Future[Any] = concurrent.futures.Future()
    jobs, cancelled = endless.metric("poise_queue_jobs"), endless.metric(CANCELLED)
    with tritonclient.grpc.InferenceServerClient(endless.grpc_address) as connection:
        waiting = connection.async_infer(
            "tiny", inputs(client, arrays), lambda result, error: told.set_result(error)
        )
        endless.wait_until(lambda: endless.metric("poise_queue_jobs") == jobs + 1)
        waiting.cancel()
        endless.wait_until(lambda: endless.metric(CANCELLED) == cancelled + 1)
        assert endless.metric("poise_queue_jobs") == jobs
        assert told.result(LONG_S).status() == "StatusCode.CANCELLED"
    client.close()


@pytest.mark.parametrize("flavour", ["grpc.aio", "http.aio"])
def test_a_cancelled_task_leaves_the_queue(endless, arrays, flavour):
    """Over HTTP the client closes its connection."""
    client = Flavour(flavour, peer_of(endless))
    address = endless.grpc_address if client.over_grpc else endless.address
    jobs, cancelled = endless.metric("poise_queue_jobs"), endless.metric(CANCELLED)

    async def ask() -> None:
        async with client.module.InferenceServerClient(address) as connection:
            task = asyncio.create_task(connection.infer("tiny", inputs(client, arrays)))
            await until(lambda: endless.metric("poise_queue_jobs") == jobs + 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: endless.metric(CANCELLED) == cancelled + 1)

    async def until(holds: Callable[[], bool]) -> None:
        while not await asyncio.to_thread(holds):
            pass

    asyncio.run(ask())
    assert endless.metric("poise_queue_jobs") == jobs
    client.close()
