import copy
import json
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.servers import DATATYPES, MODALITY_INPUTS, json_request
from tests.tiny import TINY

from poise.domain.service import Datatype, Modality, Service, TensorSpec, Variant, length_key
from poise.domain.slots import bytes_in, slots_of
from poise.errors import MalformedRequestError, RequestError, TooLargeError
from poise.files import open_service
from poise.protocol.answers import NotFiniteError, encode_answer
from poise.protocol.codec import ReplyTerms, decode_infer
from poise.protocol.elements import from_bf16, to_bytes
from poise.protocol.wire import Array, InputWire, OutputWire, metadata, wire_of
from poise.scheduling.commands import Answer, AnswerPart

TINY_WIRE = wire_of(open_service(TINY).service, max_items=100)


def every_datatype() -> Service:
    """A service with one input of each datatype, each its own modality in turn, and one with a free axis."""
    inputs = {
        name.lower(): TensorSpec(datatype=name, shape=(2, 3), max_bytes=8 if name == "BYTES" else None)
        for name in get_args(Datatype)
    }
    free = TensorSpec(datatype="FP32", shape=(-1, 2), buckets=(2, 5))
    return Service(
        format=1,
        service="types",
        modalities={"all": Modality(inputs=inputs), "free": Modality(inputs={"free": free})},
        outputs={
            "out": TensorSpec(datatype="FP32", shape=(2,)),
            "flag": TensorSpec(datatype="BOOL", shape=()),
            "half": TensorSpec(datatype="BF16", shape=(2,)),
            "text": TensorSpec(datatype="BYTES", shape=(2,), max_bytes=8),
        },
        variants={"paper": Variant(runtime="emulated")},
    )


TYPES_WIRE = wire_of(every_datatype(), max_items=100)


def drawn(draw: st.DrawFn, spec: InputWire, shape: tuple[int, ...], *, json: bool = True) -> Array:
    """A tensor as an arena holds it; ``json``: one that JSON can carry."""
    count = int(np.prod(shape))
    if spec.datatype == "BYTES":
        text = st.text(max_size=2).map(str.encode)
        values = draw(st.lists(text if json else st.binary(max_size=8), min_size=count, max_size=count))
        return slots_of(values, spec.max_bytes).reshape(shape)
    if spec.datatype == "BF16":
        wide = from_bf16(draw(hnp.arrays(np.uint16, shape)))
        return np.where(np.isfinite(wide), wide, np.float32(1.5)) if json else wide
    elements: dict[str, Any] = {}
    if json and spec.dtype.kind == "f":
        elements = {"allow_nan": False, "allow_infinity": False}
    return draw(hnp.arrays(spec.dtype, shape, elements=hnp.from_dtype(spec.dtype, **elements)))


def on_the_wire(array: Array, spec: InputWire) -> bytes:
    return bytes(to_bytes(array, OutputWire(spec.name, spec.datatype, spec.dtype, spec.shape)))


def in_json(array: Array, spec: InputWire) -> np.ndarray:
    return np.vectorize(bytes.decode, [object])(bytes_in(array)) if spec.datatype == "BYTES" else array


@st.composite
def requests(draw):
    """A request to TYPES_WIRE as (body, header length, arrays), each tensor in a form of its own."""
    items = draw(st.integers(1, 4))
    names = draw(st.sampled_from([["free"], list(TYPES_WIRE.inputs), list(TYPES_WIRE.inputs)[:-1]]))
    names = draw(st.permutations(names))
    arrays, inputs, binary = {}, [], b""
    for name in names:
        spec = TYPES_WIRE.inputs[name]
        shape = (items, draw(st.integers(1, 5)), 2) if name == "free" else (items, *spec.shape)
        array = drawn(draw, spec, shape)
        arrays[name] = array
        tensor = {"name": name, "datatype": spec.datatype, "shape": list(shape), "unknown": [1, {"a": None}]}
        form = draw(st.sampled_from(["flat", "nested", "binary"]))
        if form == "binary":
            data = on_the_wire(array, spec)
            tensor["parameters"] = {"binary_data_size": len(data), "unknown": 1}
            binary += data
        else:
            values = in_json(array, spec)
            tensor["data"] = (values if form == "nested" else values.ravel()).tolist()
        inputs.append(tensor)
    header = json.dumps({"inputs": inputs, "unknown": {}}).encode()
    return header + binary, (len(header) if binary or draw(st.booleans()) else None), arrays


@given(requests())
def test_tensors_come_back_bit_for_bit_in_every_form(request):
    body, header_length, arrays = request
    decoded = decode_infer(body, header_length, TYPES_WIRE)
    found = {tensor.wire.name: tensor for tensor in decoded.tensors}
    lengths = found.pop(length_key("free"), None)
    assert set(found) == set(arrays)
    if "free" in arrays:
        assert lengths is not None
        assert lengths.array.tolist() == [arrays["free"].shape[1]] * len(arrays["free"])
    else:
        assert lengths is None
    for name, tensor in found.items():
        sent = arrays[name]
        assert tensor.array.dtype == sent.dtype
        assert tensor.array.shape == sent.shape
        assert tensor.array.tobytes() == sent.tobytes()
    assert decoded.items == len(next(iter(arrays.values())))
    assert decoded.available == ("fp32" in arrays) + 2 * ("free" in arrays)
    assert decoded.reply.own_terms == (decoded.available != 3)


@given(requests(), st.data())
def test_a_damaged_request_is_refused_or_read_but_nothing_else(request, data):
    body, header_length, _ = request
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        what = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if what == "flip" and damaged:
            damaged[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del damaged[at:]
        else:
            damaged[at:at] = data.draw(st.sampled_from([b"[", b"}", b'"', b"-1", b"1e999", b"\xff", b"null"]))
    try:
        decode_infer(bytes(damaged), header_length, TYPES_WIRE)
    except RequestError as error:
        assert "\n" not in error.message
        assert len(error.message) < 2000


@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(-5, 400)))
def test_garbage_is_malformed(body, header_length):
    with pytest.raises(MalformedRequestError):
        decode_infer(body, header_length, TINY_WIRE)


def tiny_request(**more: object) -> dict:
    arrays: dict[str, np.ndarray] = {
        "pixels": np.zeros((2, 2, 3), np.uint8),
        "wave": np.zeros((2, 4), np.float32),
        "letters": np.zeros((2, 2), np.int64),
        "length": np.zeros((2, 1), np.float32),
    }
    return json_request(arrays, tuple(DATATYPES), 2, **more)


def with_input(index: int, **changes: object) -> dict:
    request = tiny_request()
    for key, value in changes.items():
        if value is ...:
            del request["inputs"][index][key]
        else:
            request["inputs"][index][key] = value
    return request


DEEP = "[" * 100_000
MALFORMED = {
    "empty body": (b"", "not JSON: got nothing, expected an object"),
    "half a pair": (rb'{"id": "\ud800"}', "not JSON: got half of a surrogate pair at byte 8"),
    "half a pair before text": (rb'{"id": "\ud83dx"}', "not JSON: got half of a surrogate pair at byte 8"),
    "cut short behind a whole pair": (rb'{"id": "\ud83d\ude00"', "not JSON: got text that is cut short"),
    "cut short behind a backslash": (rb'{"id": "\\ud83d"', "not JSON: got text that is cut short"),
    "cut short in a pair": (rb'{"id": "\ud83d\u', "not JSON: got text that is cut short"),
    "long id": (tiny_request(id="x" * 1001), "id: got 1001 characters, expected at most 1000"),
    "sequence": (tiny_request(parameters={"sequence_id": 5}), "sequence_id: got '5', expected 0 or none"),
    "named sequence": (tiny_request(parameters={"sequence_id": "s"}), "sequence_id: got 's', expected 0"),
    "no object": (b"[]", "Expected `object`, got `array`"),
    "truncated": (json.dumps(tiny_request()).encode()[:-20], "not JSON"),
    "not UTF-8": (b'{"inputs": [{"name": "\xff"}]}', "not JSON"),
    "deep": (f'{{"inputs": [{{"name": "wave", "data": {DEEP}'.encode(), "nested too deeply"),
    "deep in an unknown field": (f'{{"x": {DEEP}'.encode(), "nested too deeply"),
    "no inputs field": (b"{}", "missing required field `inputs`"),
    "no inputs": ({"inputs": []}, "expected the inputs of one of image, sound, word"),
    "inputs of another type": ({"inputs": {"a": 1}}, "Expected `array`"),
    "unknown input": (with_input(0, name="nix"), "got 'nix', expected one of pixels, wave"),
    "long unknown input": (with_input(0, name="x" * 10_000), "xxx..."),
    "input twice": (with_input(1, name="pixels", datatype="UINT8", shape=[2, 2, 3], data=[0] * 12), "twice"),
    "no name": (with_input(0, name=...), "missing required field `name`"),
    "wrong datatype": (with_input(0, datatype="FP32"), "got datatype 'FP32', expected UINT8"),
    "unknown datatype": (with_input(0, datatype="BYTES"), "got datatype 'BYTES', expected UINT8"),
    "no batch dimension": (with_input(0, shape=[2, 3]), "got shape [2, 3], expected [n, 2, 3]"),
    "wrong shape": (with_input(0, shape=[2, 3, 2]), "expected [n, 2, 3]"),
    "empty shape": (with_input(0, shape=[]), "expected [n, 2, 3]"),
    "no items": (with_input(0, shape=[0, 2, 3], data=[]), "with n of at least 1"),
    "negative": (with_input(0, shape=[-1, 2, 3]), "with n of at least 1"),
    "negative dims": (with_input(0, shape=[2, -2, -3]), "expected [n, 2, 3]"),
    "fraction": (with_input(0, shape=[2.5, 2, 3]), "Expected `int`, got `float`"),
    "overflow": (with_input(0, shape=[2**64, 2, 3]), "Expected `int` <="),
    "thousands of digits": (
        b'{"inputs": [{"name": "wave", "datatype": "FP32", "shape": [' + b"9" * 6000 + b", 4]}]}",
        "shape",
    ),
    "unequal items": (with_input(1, shape=[1, 4], data=[0] * 4), "got 1 items, expected 2"),
    "too few elements": (with_input(0, data=[0] * 11), "got 11 elements, expected 12"),
    "too many elements": (with_input(0, data=[0] * 13), "got 13 elements, expected 12"),
    "no data": (with_input(0, data=...), "expected data or binary_data_size"),
    "null data": (with_input(0, data=None), "data is not of UINT8"),
    "text data": (with_input(0, data=["a"] * 12), "data is not of UINT8"),
    "fractions in whole numbers": (with_input(0, data=[0.5] * 12), "data is not of UINT8"),
    "out of range": (with_input(0, data=[256] * 12), "<= 255"),
    "out of range of FP32": (with_input(1, data=[1e300] * 8), "out of range"),
    "out of range of JSON": (
        json.dumps(with_input(1, data=[1] * 8)).replace("[1,", "[1e999,").encode(),
        "range",
    ),
    "out of range of INT64": (with_input(2, data=[2**63] * 4), "out of range"),
    "NaN": (with_input(1, data=[float("nan")] * 8), "got NaN or an infinity"),
    "infinity": (with_input(1, data=[float("-inf")] * 8), "got NaN or an infinity"),
    "uneven": (with_input(1, data=[[0, 0, 0, 0], [0, 0, 0]]), "nested unevenly"),
    "nested otherwise": (with_input(1, data=[[0, 0]] * 4), "nested as [4, 2], expected [2, 4]"),
    "nested too deep": (with_input(1, data=[[[0]]] * 8), "data is not of FP32"),
    "half a modality": ({"inputs": tiny_request()["inputs"][:3]}, "got letters without length"),
    "binary size without bytes": (
        with_input(1, data=..., parameters={"binary_data_size": 32}),
        "got 0 bytes",
    ),
    "data and binary size": (with_input(1, parameters={"binary_data_size": 32}), "expected one"),
    "wrong binary size": (with_input(1, data=..., parameters={"binary_data_size": 31}), "expected 32"),
    "negative binary size": (with_input(1, data=..., parameters={"binary_data_size": -32}), "expected 32"),
    "shared memory": (with_input(1, parameters={"shared_memory_region": "x"}), "not offered"),
    "unknown output": (tiny_request(outputs=[{"name": "nix"}]), "got 'nix', expected one of logits, score"),
    "output twice": (tiny_request(outputs=[{"name": "score"}] * 2), "twice"),
    "classification": (
        tiny_request(outputs=[{"name": "score", "parameters": {"classification": 3}}]),
        "not offered",
    ),
    "unknown class": (tiny_request(parameters={"poise_class": "gold"}), "expected one of interactive, bulk"),
    "class of another type": (tiny_request(parameters={"poise_class": 1}), "poise_class"),
    "deadline of zero": (tiny_request(parameters={"poise_deadline_ms": 0}), "poise_deadline_ms: got 0"),
    "deadline in words": (tiny_request(parameters={"poise_deadline_ms": "soon"}), "poise_deadline_ms"),
    "negative timeout": (tiny_request(parameters={"timeout": -1}), "timeout: got -1"),
    "floor too high": (tiny_request(parameters={"poise_accuracy_floor": 0.7}), "expected 0 to 0.6"),
    "negative floor": (tiny_request(parameters={"poise_accuracy_floor": -0.1}), "expected 0 to 0.6"),
    "negative priority": (
        tiny_request(parameters={"priority": -1}),
        "priority: got -1, expected a whole number from 0 to 2147483647",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_name_the_thing_and_what_was_expected(case):
    body, words = MALFORMED[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(MalformedRequestError) as caught:
        decode_infer(data, None, TINY_WIRE)
    assert words in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("sequence", [0, "", None])
def test_no_sequence_and_the_longest_id(sequence):
    body = json.dumps(
        tiny_request(id="x" * 1000, parameters={"sequence_id": sequence, "sequence_start": False})
    )
    assert decode_infer(body.encode(), None, TINY_WIRE).reply.id == "x" * 1000


def test_the_request_that_those_are_made_from_is_right():
    decoded = decode_infer(json.dumps(tiny_request(id="a")).encode(), None, TINY_WIRE)
    assert (decoded.reply.id, decoded.items, decoded.available) == ("a", 2, 7)
    assert decoded.reply.outputs == (("logits", False), ("score", False))


def test_more_items_than_can_ever_be_held_are_too_large():
    request = json_request({"wave": np.zeros((101, 4), np.float32)}, ("wave",), 101)
    with pytest.raises(TooLargeError, match="101 items, expected at most 100"):
        decode_infer(json.dumps(request).encode(), None, TINY_WIRE)


@pytest.mark.parametrize("header_length", [-1, 10**6])
def test_header_length_beyond_the_body(header_length):
    with pytest.raises(MalformedRequestError, match="Inference-Header-Content-Length"):
        decode_infer(json.dumps(tiny_request()).encode(), header_length, TINY_WIRE)


def test_binary_bytes_that_no_tensor_claims():
    header = json.dumps(tiny_request()).encode()
    with pytest.raises(MalformedRequestError, match="got 3 bytes of binary data, expected 0"):
        decode_infer(header + b"abc", len(header), TINY_WIRE)


@pytest.mark.parametrize("names", MODALITY_INPUTS.values())
def test_one_modality_is_enough(names):
    request = tiny_request()
    request["inputs"] = [tensor for tensor in request["inputs"] if tensor["name"] in names]
    decoded = decode_infer(json.dumps(request).encode(), None, TINY_WIRE)
    assert decoded.available == 1 << list(MODALITY_INPUTS.values()).index(names)
    assert decoded.reply.own_terms


@pytest.mark.parametrize(
    ("parameters", "deadline_s"),
    [
        ({}, 0.1),
        ({"poise_class": "bulk"}, 1.0),
        ({"timeout": 0}, 0.1),
        ({"timeout": 50_000}, 0.05),
        ({"timeout": 10**18}, 0.1),
        ({"poise_deadline_ms": 20}, 0.02),
        ({"poise_deadline_ms": 5000}, 0.1),
        ({"poise_deadline_ms": 30, "timeout": 20_000}, 0.02),
        ({"poise_class": "bulk", "poise_deadline_ms": 1e300}, 1.0),
    ],
)
def test_deadlines_may_only_be_shortened(parameters, deadline_s):
    body = json.dumps(tiny_request(parameters=parameters)).encode()
    assert decode_infer(body, None, TINY_WIRE).deadline_s == pytest.approx(deadline_s)


def test_a_floor_may_be_lowered_and_raised_to_the_classs_highest():
    service = open_service(TINY).service
    classes = copy.copy(service.classes)
    classes["interactive"] = msgspec.structs.replace(classes["interactive"], max_floor=0.8)
    wire = wire_of(msgspec.structs.replace(service, classes=classes), 10)
    for floor in (0.0, 0.3, 0.8):
        body = json.dumps(tiny_request(parameters={"poise_accuracy_floor": floor})).encode()
        decoded = decode_infer(body, None, wire)
        assert decoded.accuracy_floor == floor
        assert decoded.reply.own_terms


def test_binary_outputs_by_default_and_one_by_one():
    def outputs(**more: object) -> tuple[tuple[str, bool], ...]:
        return decode_infer(json.dumps(tiny_request(**more)).encode(), None, TINY_WIRE).reply.outputs

    assert outputs(parameters={"binary_data_output": True}) == (("logits", True), ("score", True))
    asked = [{"name": "score", "parameters": {"binary_data": False}}, {"name": "logits"}]
    assert outputs(outputs=asked, parameters={"binary_data_output": True}) == (
        ("score", False),
        ("logits", True),
    )


def test_metadata_tells_shapes_with_the_batch_first_and_modalities():
    told = metadata(TYPES_WIRE)
    assert told["inputs"][-1] == {
        "name": "free",
        "datatype": "FP32",
        "shape": [-1, -1, 2],
        "parameters": {"modality": "free"},
    }
    assert told["outputs"][1] == {"name": "flag", "datatype": "BOOL", "shape": [-1]}


ANSWER = Answer(
    job_id=1,
    parts=(AnswerPart(1, 2, 2, "b"), AnswerPart(0, 1, 3, "a")),
    accuracy=0.75,
    queue_s=0.001,
    compute_s=0.002,
    late=True,
    below_floor=True,
)


def answered(outputs: dict[str, np.ndarray], asked: tuple[tuple[str, bool], ...]) -> tuple[bytes, int | None]:
    terms = ReplyTerms("q", asked, own_terms=False)
    parts, length = encode_answer(terms, ANSWER, outputs, TYPES_WIRE, {2: "x", 3: "x+y"}.__getitem__)
    return b"".join(parts), length


def test_an_answer_says_how_each_item_was_answered():
    outputs = {"out": np.array([[1, 2], [3, 4], [5, 6]], np.float32), "flag": np.array([True, False, True])}
    body, length = answered(outputs, (("out", True), ("flag", False)))
    told = json.loads(body[:length])
    assert told["id"] == "q"
    assert told["model_version"] == "1"
    assert told["parameters"] == {
        "poise_variant": "a,b,b",
        "poise_modalities": "x+y,x,x",
        "poise_accuracy": 0.75,
        "poise_queue_us": 1000,
        "poise_compute_us": 2000,
        "poise_late": True,
        "poise_below_floor": True,
    }
    assert told["outputs"] == [
        {"name": "out", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": 24}},
        {"name": "flag", "datatype": "BOOL", "shape": [3], "data": [True, False, True]},
    ]
    assert body[length:] == outputs["out"].tobytes()


def test_numbers_that_json_does_not_have_go_out_in_binary_only():
    outputs = {"out": np.array([[1, np.nan]], np.float32)}
    with pytest.raises(NotFiniteError, match="'out' holds a NaN"):
        answered(outputs, (("out", False),))
    body, length = answered(outputs, (("out", True),))
    assert np.isnan(np.frombuffer(body[length:], np.float32)[1])
