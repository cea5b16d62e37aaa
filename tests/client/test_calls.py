"""Requests as the server's own decoder reads them, and responses of every kind."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.client import Answer as ClientAnswer
from poise.client import RefusedError, ServerFailedError, calls
from poise.client.response import Response
from poise.domain.job import RefusalReason
from poise.domain.service import Modality, Service, SLOClass, TensorSpec, Variant
from poise.errors import MalformedRequestError, PoiseError, RequestError
from poise.protocol import status
from poise.protocol.answers import encode_answer, encode_error
from poise.protocol.codec import InferRequest, decode_infer
from poise.protocol.wire import wire_of
from poise.scheduling.commands import Answer, AnswerPart

SERVICE = Service(
    format=1,
    service="two",
    modalities={
        "first": Modality(inputs={"a": TensorSpec(datatype="FP32", shape=(2, 3))}),
        "second": Modality(inputs={"b": TensorSpec(datatype="UINT8", shape=())}),
    },
    outputs={
        "logits": TensorSpec(datatype="FP32", shape=(4,)),
        "kind": TensorSpec(datatype="INT64", shape=()),
    },
    variants={"small": Variant(runtime="emulated")},
    classes={
        "fast": SLOClass(latency_slo_ms=100, accuracy_floor=0.5, max_floor=0.9),
        "slow": SLOClass(latency_slo_ms=1000),
    },
)
WIRE = wire_of(SERVICE, 100)
INPUTS: dict[str, Any] = {
    "a": np.arange(18, dtype=np.float32).reshape(3, 2, 3),
    "b": np.arange(3, dtype=np.uint8),
}
UNSET = dict.fromkeys(
    ("slo_class", "deadline_ms", "floor", "priority", "outputs", "request_id", "parameters")
)


def infer(inputs: Any = INPUTS, **more: Any) -> calls.Call[ClientAnswer]:
    return calls.infer("two", inputs, **{**UNSET, **more})


def as_the_server_reads_it(call: calls.Call[Any]) -> InferRequest:
    head, *body = map(bytes, call.parts("/root", b"Host: x\r\n"))
    assert head.startswith(b"POST /root/v2/models/two/infer HTTP/1.1\r\nHost: x\r\n")
    lines = {name: value for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n")[1:-2])}
    content = b"".join(body)
    assert int(lines[b"Content-Length"]) == len(content)
    return decode_infer(content, int(lines[b"Inference-Header-Content-Length"]), WIRE)


def test_a_request_with_everything():
    request = as_the_server_reads_it(
        infer(
            slo_class="slow",
            deadline_ms=20.5,
            floor=0.0,
            priority=3,
            outputs=["kind"],
            request_id="seven",
            parameters={"mine": 1, "binary_data_output": False},
        )
    )
    assert (request.items, request.available, request.slo_class) == (3, 3, "slow")
    assert (request.deadline_s, request.accuracy_floor, request.priority) == (0.0205, 0.0, 3)
    assert (request.reply.id, request.reply.outputs) == ("seven", (("kind", True),))
    for tensor in request.tensors:
        np.testing.assert_array_equal(tensor.array, INPUTS[tensor.wire.name])


def test_a_request_with_one_modality_and_nothing_else():
    request = as_the_server_reads_it(infer({"b": INPUTS["b"]}))
    assert (request.available, request.slo_class, request.priority) == (2, "fast", 0)
    assert (request.deadline_s, request.accuracy_floor, request.reply.id) == (0.1, 0.5, None)
    assert request.reply.outputs == (("logits", True), ("kind", True))


def test_a_request_without_inputs():
    with pytest.raises(MalformedRequestError, match="got none"):
        infer({})


@pytest.mark.parametrize("as_binary", [True, False])
def test_the_servers_own_answer(as_binary):
    outputs = {"logits": np.arange(12, dtype=np.float32).reshape(3, 4), "kind": np.array([1, -2, 3])}
    request = as_the_server_reads_it(infer(request_id="q"))
    terms = msgspec.structs.replace(
        request.reply, outputs=tuple((name, as_binary) for name in request.reply.outputs and outputs)
    )
    parts = (AnswerPart(1, 2, 2, "large"), AnswerPart(0, 1, 3, "small"))
    answered = Answer(1, parts, 0.75, 0.001, 0.002, late=True, below_floor=True)
    body, length = encode_answer(terms, answered, outputs, WIRE, SERVICE.modality_index.label)
    answer = infer().read(Response(200, b"".join(body), length, True))
    assert (answer.service, answer.id, answer.items) == ("two", "q", 3)
    assert answer.modalities == ("first+second", "second", "second")
    assert (answer.variants, answer.variant) == (("small", "large", "large"), "large,small")
    assert (answer.accuracy, answer.queue_s, answer.compute_s) == (0.75, 0.001, 0.002)
    assert answer.late
    assert answer.below_floor
    for name, array in outputs.items():
        assert answer.outputs[name].dtype == array.dtype
        np.testing.assert_array_equal(answer.outputs[name], array)
        with pytest.raises(ValueError, match="read-only"):
            answer.outputs[name][0] = 0


def test_an_answer_of_another_server_of_the_protocol():
    body = b'{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1,2]}]}'
    answer = infer().read(Response(200, body, None, True))
    assert answer.outputs["y"].tolist() == [1.0, 2.0]
    assert (answer.modalities, answer.variant, answer.accuracy, answer.queue_s) == ((), "", None, None)


@pytest.mark.parametrize(("error", "code"), list(status.HTTP_OF_ERROR.items()))
def test_errors_by_status(error, code):
    with pytest.raises(error, match=f"answered {code}: so it is") as caught:
        infer().read(Response(code, encode_error("so it is"), None, True))
    assert type(caught.value) is error


@pytest.mark.parametrize("reason", list(RefusalReason))
def test_refusals_say_their_reason(reason):
    code = status.HTTP_OF_REASON[reason]
    with pytest.raises(RefusedError, match="words") as caught:
        infer().read(Response(code, encode_error("words", reason), None, True))
    assert (caught.value.reason, caught.value.status) == (reason, code)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (418, RequestError),
        (405, RequestError),
        (301, ServerFailedError),
        (500, ServerFailedError),
        (502, ServerFailedError),
    ],
)
def test_other_statuses(code, error):
    with pytest.raises(error, match=f"answered {code}: no reason given") as caught:
        infer().read(Response(code, b"<html>", None, True))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"outputs":[]}', None),
        (b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}', None),
        (b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":["a",{}]}]}', None),
        (b'{"outputs":[{"name":"y","datatype":"INT8","shape":[1],"data":[1000]}]}', None),
        (b'{"outputs":[{"name":"y","datatype":"FP32","shape":[-1],"data":[1]}]}xxx', 63),
        (
            b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}abc',
            92,
        ),
        (
            b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":-4}}]}abc',
            93,
        ),
        (b'{"outputs":[]}', 1000),
    ],
)
def test_what_is_no_answer(body, length):
    with pytest.raises(ServerFailedError, match="not of the Open Inference Protocol"):
        infer().read(Response(200, body, length, True))


TENSOR = st.fixed_dictionaries(
    {
        "name": st.text(max_size=3),
        "datatype": st.sampled_from(["FP32", "BYTES", "BF16", "INT8", "BOOL", "x"]),
        "shape": st.lists(st.integers(-2, 2**70), max_size=3),
    },
    optional={
        "data": st.recursive(st.integers() | st.floats() | st.text() | st.none(), st.lists),
        "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-5, 20)),
    },
)


@given(outputs=st.lists(TENSOR, max_size=3), tail=st.binary(max_size=20), split=st.booleans())
def test_whatever_comes_back_ends_in_an_answer_or_an_error_of_ours(outputs, tail, split):
    text = json.dumps({"outputs": outputs}).encode()
    try:
        infer().read(Response(200, text + tail, len(text) if split else None, True))
    except PoiseError as error:
        assert type(error) is ServerFailedError


def test_names_are_quoted():
    assert calls.metadata("a/../b?c d").path == "/v2/models/a%2F..%2Fb%3Fc%20d"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "v2"), ("GET", "/v2 HTTP/1.1\r\nX: y"), ("GE T", "/v2"), ("GET", "/ü")]
)
def test_routes_that_no_request_can_name(method, path):
    with pytest.raises(MalformedRequestError, match="expected one such as"):
        calls.ask(method, path, None)


TWO = np.arange(2, dtype=np.uint8)


@pytest.mark.parametrize(
    ("inputs", "more", "words"),
    [
        (None, {"deadline_ms": np.nan}, "deadline_ms: got nan, expected a finite number"),
        (None, {"deadline_ms": "50"}, "deadline_ms: got '50', expected a number"),
        (None, {"deadline_ms": 10**400}, "deadline_ms: got inf, expected a finite number"),
        (None, {"floor": np.float32("inf")}, "floor: got inf"),
        (None, {"floor": True}, "floor: got True"),
        (None, {"priority": 1.0}, "priority: got 1.0, expected a whole number"),
        (None, {"priority": 2**70}, "priority: got more than 64 bits have"),
        (None, {"slo_class": 3}, "slo_class: got 3, expected text"),
        (None, {"request_id": 3}, "request_id: got 3, expected text"),
        (None, {"request_id": "\ud800"}, "request_id: .*text that UTF-8 has"),
        (None, {"outputs": "kind"}, "outputs: got 'kind', expected a list"),
        (None, {"outputs": [1]}, "outputs: a name: got 1"),
        (None, {"parameters": {"x": object()}}, r"parameters\['x'\]: got a value of type object"),
        (None, {"parameters": {"x": np.nan}}, r"parameters\['x'\]: got nan"),
        (None, {"parameters": {1: 2}}, "parameters: a name: got 1"),
        (None, {"parameters": [1]}, "parameters: got a value of type list, expected a mapping"),
        ([1], {}, "inputs: got a value of type list, expected a mapping"),
        ({1: TWO}, {}, "inputs: a name: got 1"),
        ({"chars": [[1], [2, 3]]}, {}, "input 'chars': got no array, expected lists of one length"),
        ({"b": ["\ud800"]}, {}, "input 'b': an element: .*text that UTF-8 has"),
    ],
)
def test_arguments_that_a_request_cannot_carry(inputs, more, words):
    with pytest.raises(MalformedRequestError, match=words):
        infer({"b": TWO} if inputs is None else inputs, **more)


def test_numpys_numbers_are_numbers():
    request = as_the_server_reads_it(
        infer(
            deadline_ms=np.float32(50),
            floor=np.float64(0.25),
            priority=np.int64(1),
            outputs=np.array(["kind"]),
            parameters={"mine": np.int8(1), "more": np.bool_(True), "most": np.str_("x")},
        )
    )
    assert (request.deadline_s, request.accuracy_floor, request.priority) == (0.05, 0.25, 1)


@pytest.mark.parametrize("service", [None, b"two", "", "\ud800"])
def test_services_without_a_name(service):
    for call in (calls.metadata, calls.statistics, calls.config, lambda name: calls.label(name, "q", [])):
        with pytest.raises(MalformedRequestError, match="service: got"):
            call(service)
    with pytest.raises(MalformedRequestError, match="service: got"):
        calls.infer(service, INPUTS, **UNSET)


def endless() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    "labels", [2, "ab", {"a": 1}, None, [np.nan], [b"x"], [object()], np.array(3), ["\ud800"], endless()]
)
def test_labels_that_json_has_not(labels):
    with pytest.raises(MalformedRequestError, match="labels: got"):
        calls.label("two", "q", labels)
    if isinstance(labels, list):
        with pytest.raises(MalformedRequestError, match="value: got"):
            calls.ask("POST", "/v2/x", labels)


def test_labels_may_be_arrays():
    for labels in (np.array([[2, 3]]), [np.array([2, 3])], [[2, np.int8(3)]]):
        assert json.loads(bytes(calls.label("two", "q", labels).body[0]))["labels"] == [[2, 3]]


def test_labels_of_any_kind():
    call = calls.label("two", "q", np.array([1, 2]))
    assert (call.path, json.loads(bytes(call.body[0]))) == (
        "/v2/models/two/labels",
        {"id": "q", "labels": [1, 2]},
    )
    assert json.loads(bytes(calls.label("two", "q", ["a", 1.5]).body[0]))["labels"] == ["a", 1.5]
