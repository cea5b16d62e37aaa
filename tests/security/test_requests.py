"""What a request may hold, and how much more than its class it may ask for. Named in ``guards.py``."""

import json
import time

import pytest
from tests.security.target import WIRE, attacked, infer, wave

from poise.errors import MalformedRequestError, RequestError, TooLargeError
from poise.protocol.codec import decode_infer
from poise.protocol.json_structure import check_structure


def decoded(request: dict | bytes, header_length: int | None = None):
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return decode_infer(body, header_length, WIRE)


def tensor(**more: object) -> dict:
    return {"inputs": [{"name": "wave", "datatype": "FP32", "shape": [1, 4], "data": [0.5] * 4} | more]}


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_json_is_not_deeper_than_allowed(opening, closing):
    for times in (17, 2000, 100_000):
        body = json.dumps(wave()).encode()[:-1] + b',"x":' + opening * times + b"1" + closing * times + b"}"
        with pytest.raises(TooLargeError):
            decoded(body)
    levels = 15 if len(opening) < 6 else 7
    body = json.dumps(wave()).encode()[:-1] + b',"x":' + opening * levels + b"1" + closing * levels + b"}"
    assert decoded(body).items == 1


def test_brackets_in_text_are_no_depth():
    assert decoded(wave(id="[{" * 400 + '\\"' + "[")).items == 1
    assert decoded(wave(id='"' + "]}" * 400)).items == 1


def test_deep_json_is_refused_in_time_that_grows_with_its_length_only():
    text = b"[" * 500_000 + b"]" * 500_000
    begin = time.process_time()
    with pytest.raises(TooLargeError):
        check_structure(text)
    assert time.process_time() - begin < 5.0  # by its square it would be hours


def test_more_tensors_than_allowed_are_refused():
    for count in (65, 1000, 100_000):
        request = {"inputs": [{"name": f"x{n}", "datatype": "FP32", "shape": [1]} for n in range(count)]}
        with pytest.raises(TooLargeError):
            decoded(request)


def test_more_objects_than_tensors_need_are_refused_before_they_are_decoded():
    with pytest.raises(TooLargeError):
        check_structure(json.dumps({"x": [{}] * 100_000}).encode())


def test_no_more_elements_than_the_service_takes():
    with pytest.raises(TooLargeError):
        decoded(wave(items=WIRE.max_items + 1))
    assert decoded(wave(items=WIRE.max_items)).items == WIRE.max_items


@pytest.mark.parametrize(
    "shape",
    [
        [-1, 4],
        [1, -4],
        [-1, -4],
        [0, 4],
        [1, 0],
        [],
        [4],
        [1, 4, 1],
        [1, 2, 2],
        [2**32, 4],
        [2**62, 4],
        [2**63 - 1, 4],
        [1, 2**62],
        [2**32, 2**32, 4],
        [2**63, 4],
        [10**30, 4],
        [1] * 1000,
        [1.5, 4],
        ["1", 4],
        [True, 4],
        [None, 4],
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_shapes_that_overflow_or_are_none_are_refused(shape, binary):
    if binary:
        size = {"binary_data_size": 16}
        body = {"inputs": [{"name": "wave", "datatype": "FP32", "shape": shape, "parameters": size}]}
        head = json.dumps(body).encode()
        with pytest.raises(RequestError):
            decoded(head + bytes(16), len(head))
    else:
        with pytest.raises(RequestError):
            decoded(tensor(shape=shape))


@pytest.mark.parametrize("size", [-1, 0, 15, 17, 32, 2**31, 2**32 + 16, 2**63 - 1, -(2**63), 2**64 + 16])
def test_binary_sizes_that_are_not_the_shapes_are_refused(size):
    parameters = {"binary_data_size": size}
    body = {"inputs": [{"name": "wave", "datatype": "FP32", "shape": [1, 4], "parameters": parameters}]}
    head = json.dumps(body).encode()
    with pytest.raises(MalformedRequestError):
        decoded(head + bytes(16), len(head))


@pytest.mark.parametrize("length", ["-1", "+1", "1_0", "0x1", "1e3", "9" * 30, "", " ", "\xb2"])
def test_header_lengths_that_are_none_are_refused(length):
    with attacked() as target:
        header = f"Inference-Header-Content-Length: {length}"
        assert target.ask(infer(wave(), header))[0] == 400
        assert target.gate.requests == []


def test_shared_memory_is_not_taken():
    parameters = {"shared_memory_region": "other", "shared_memory_byte_size": 16}
    with pytest.raises(MalformedRequestError):
        decoded({"inputs": [{"name": "wave", "datatype": "FP32", "shape": [1, 4], "parameters": parameters}]})


def test_a_floor_above_the_classs_highest_is_refused():
    highest = WIRE.classes["interactive"].accuracy_floor
    for floor in (highest + 0.01, 1.0, 1e308, -0.1):
        asked = wave(parameters={"poise_class": "interactive", "poise_accuracy_floor": floor})
        with pytest.raises(MalformedRequestError):
            decoded(asked)
    lower = wave(parameters={"poise_class": "interactive", "poise_accuracy_floor": highest - 0.1})
    assert decoded(lower).accuracy_floor == highest - 0.1


def test_a_longer_deadline_than_the_classs_is_cut():
    slo_s = WIRE.classes["interactive"].latency_slo_s
    for terms in ({"timeout": 10**15}, {"timeout": 2**63 - 1}, {"poise_deadline_ms": 1e300}, {"timeout": 0}):
        assert decoded(wave(parameters={"poise_class": "interactive", **terms})).deadline_s == slo_s
    shorter = wave(parameters={"poise_class": "interactive", "timeout": 1000})
    assert decoded(shorter).deadline_s == 0.001


def test_a_priority_is_one_within_the_class():
    for priority in (-1, 2**31, 2**63 - 1):
        with pytest.raises(MalformedRequestError):
            decoded(wave(parameters={"priority": priority}))


def test_another_class_than_the_services_is_refused():
    for name in ("", "root", "interactive ", "INTERACTIVE", "interactive\x00"):
        with pytest.raises(MalformedRequestError):
            decoded(wave(parameters={"poise_class": name}))
