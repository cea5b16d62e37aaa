import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.generate_inference_pb2 import MADE, PROTOCOL, generate
from tests.protocol.test_codec import ANSWER, TINY_WIRE, TYPES_WIRE, drawn, on_the_wire
from tests.servers import DATATYPES

from poise.domain.slots import bytes_in
from poise.errors import MalformedRequestError, RequestError, TooLargeError
from poise.protocol import grpc_codec
from poise.protocol import inference_pb2 as pb
from poise.protocol.codec import InferRequest, ReplyTerms, decode_infer
from poise.protocol.grpc_codec import (
    CONTENTS,
    encode_infer_answer,
    infer_request_of,
    parse_infer,
)
from poise.protocol.wire import ServiceWire


def test_what_is_committed_is_what_the_proto_says(tmp_path):
    generate(tmp_path)
    for name in MADE:
        assert (tmp_path / name).read_text() == (PROTOCOL / name).read_text(), "run: make proto"


def test_the_messages_live_beside_those_of_another_client():
    from tritonclient.grpc import service_pb2

    ours = pb.ModelInferRequest(model_name="a", raw_input_contents=[b"x"])
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert (theirs.model_name, list(theirs.raw_input_contents)) == ("a", [b"x"])


def test_every_field_has_the_number_and_type_that_another_client_has_it_under():
    from tritonclient.grpc import model_config_pb2, service_pb2

    def fields(descriptor: Any) -> dict[str, tuple]:
        return {
            f.name: (f.number, f.type, f.label, f.message_type and f.message_type.full_name)
            for f in descriptor.fields
        }

    def check(ours: Any, theirs: Any) -> None:
        assert fields(ours).items() <= fields(theirs).items()
        for name, nested in ours.nested_types_by_name.items():
            check(nested, theirs.nested_types_by_name[name])
        for name, enum in ours.enum_types_by_name.items():
            numbers = theirs.enum_types_by_name[name].values_by_name
            assert all(value.number == numbers[value.name].number for value in enum.values)

    files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        (other,) = [f.message_types_by_name[name] for f in files if name in f.message_types_by_name]
        check(message, other)
    (enum,) = [f.enum_types_by_name["DataType"] for f in files if "DataType" in f.enum_types_by_name]
    assert [(v.name, v.number) for v in enum.values] == [
        (v.name, v.number) for v in pb.DESCRIPTOR.enum_types_by_name["DataType"].values
    ]
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in service.methods:
        other = theirs[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            other.input_type.full_name,
            other.output_type.full_name,
        )


def decoded(message: pb.ModelInferRequest, wire: ServiceWire, limit_s: float | None = None) -> InferRequest:
    return infer_request_of(parse_infer(message.SerializeToString()), wire, limit_s)


@st.composite
def requests(draw):
    """One request to TYPES_WIRE as a message, raw or typed, and as a body with binary tensors."""
    items = draw(st.integers(1, 4))
    names = draw(st.sampled_from([["free"], list(TYPES_WIRE.inputs), list(TYPES_WIRE.inputs)[:-1]]))
    names = draw(st.permutations(names))
    typed = draw(st.booleans()) and all(TYPES_WIRE.inputs[name].datatype in CONTENTS for name in names)
    message = pb.ModelInferRequest(model_name="types", id=draw(st.sampled_from(["", "seven"])))
    inputs, binary = [], b""
    for name in names:
        spec = TYPES_WIRE.inputs[name]
        shape = (items, draw(st.integers(1, 5)), 2) if name == "free" else (items, *spec.shape)
        array = drawn(draw, spec, shape, json=False)
        data = on_the_wire(array, spec)
        tensor = message.inputs.add(name=name, datatype=spec.datatype, shape=shape)
        if typed:
            values = bytes_in(array) if spec.datatype == "BYTES" else array
            getattr(tensor.contents, CONTENTS[spec.datatype]).extend(values.ravel().tolist())
        else:
            message.raw_input_contents.append(data)
        size = {"binary_data_size": len(data)}
        inputs.append({"name": name, "datatype": spec.datatype, "shape": list(shape), "parameters": size})
        binary += data
    outputs = draw(st.lists(st.sampled_from(["out", "flag"]), unique=True))
    for name in outputs:
        message.outputs.add(name=name)
    parameters = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "priority": st.integers(0, 9),
                "timeout": st.integers(0, 10**9),
                "poise_deadline_ms": st.floats(1e-3, 1e6),
                "sequence_id": st.just(0),
                "unknown": st.integers(0, 5),
            },
        )
    )
    for name, value in parameters.items():
        field = "double_param" if isinstance(value, float) else "int64_param"
        setattr(message.parameters[name], field, value)
    body = {
        "inputs": inputs,
        "id": message.id or None,
        "outputs": [{"name": name} for name in outputs],
        "parameters": {**parameters, "binary_data_output": True},
    }
    header = json.dumps(body).encode()
    return message, header + binary, len(header)


@given(requests())
def test_both_protocols_give_the_same_request_for_the_same_tensors(request):
    message, body, header_length = request
    ours, other = decoded(message, TYPES_WIRE), decode_infer(body, header_length, TYPES_WIRE)
    assert len(ours.tensors) == len(other.tensors)
    for mine, its in zip(ours.tensors, other.tensors, strict=True):
        assert mine.wire == its.wire
        assert (mine.array.dtype, mine.array.shape) == (its.array.dtype, its.array.shape)
        if mine.array.dtype.kind == "f" and not message.raw_input_contents:
            np.testing.assert_array_equal(mine.array, its.array)  # but for how a NaN is written
        else:
            assert mine.array.tobytes() == its.array.tobytes()
    for field in InferRequest.__struct_fields__:
        if field != "tensors":
            assert getattr(ours, field) == getattr(other, field), field


@pytest.mark.parametrize("datatype", CONTENTS)
@given(data=st.data())
def test_typed_contents_are_the_same_tensor_as_raw_ones(datatype, data):
    spec = TYPES_WIRE.inputs[datatype.lower()]
    wire = msgspec.structs.replace(
        TYPES_WIRE, inputs={spec.name: spec}, modalities={"all": (spec.name,)}, all_modalities=1
    )
    array = drawn(data.draw, spec, (2, *spec.shape), json=False)
    values = bytes_in(array) if datatype == "BYTES" else array
    messages = [pb.ModelInferRequest(), pb.ModelInferRequest()]
    for message in messages:
        message.inputs.add(name=spec.name, datatype=datatype, shape=array.shape)
    getattr(messages[0].inputs[0].contents, CONTENTS[datatype]).extend(values.ravel().tolist())
    messages[1].raw_input_contents.append(on_the_wire(array, spec))
    typed, raw = (decoded(message, wire).tensors[0].array for message in messages)
    assert typed.dtype == raw.dtype
    if datatype.startswith("FP"):
        np.testing.assert_array_equal(typed, raw)  # but for how a NaN is written
    else:
        assert typed.tobytes() == raw.tobytes() == array.tobytes()


def test_raw_tensors_are_not_copied():
    message = tiny()
    data = message.SerializeToString()
    request = infer_request_of(parse_infer(data), TINY_WIRE)
    memory = np.frombuffer(data, np.uint8)
    for tensor in request.tensors:
        assert np.shares_memory(tensor.array, memory)


@given(requests(), st.data())
def test_a_damaged_message_is_refused_or_read_but_nothing_else(request, data):
    damaged = bytearray(request[0].SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        what = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if what == "flip" and damaged:
            damaged[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del damaged[at:]
        else:
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=6))
    try:
        infer_request_of(parse_infer(bytes(damaged)), TYPES_WIRE)
    except RequestError as error:
        assert len(error.message) < 2000


@given(st.binary(max_size=200))
def test_the_fields_of_a_message_are_those_that_protobuf_finds(data):
    """Whatever protobuf reads we read alike, but for groups, which no message of ours has."""
    try:
        theirs = pb.ModelInferRequest.FromString(data)
    except Exception:
        theirs = None
    try:
        ours = parse_infer(data)
    except MalformedRequestError:
        return
    assert theirs is not None
    assert [bytes(raw) for raw in ours.raw] == list(theirs.raw_input_contents)
    theirs.ClearField("raw_input_contents")
    assert ours.message == theirs


def tiny(**changes: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="tiny", id="a")
    shapes = {"pixels": (2, 2, 3), "wave": (2, 4), "letters": (2, 2), "length": (2, 1)}
    for name, shape in shapes.items():
        spec = TINY_WIRE.inputs[name]
        message.inputs.add(name=name, datatype=DATATYPES[name], shape=shape)
        message.raw_input_contents.append(bytes(int(np.prod(shape)) * spec.dtype.itemsize))
    for path, value in changes.items():
        setattr(message.inputs[0], path, value)
    return message


def without_raw(**contents: Any) -> pb.ModelInferRequest:
    message = tiny()
    del message.raw_input_contents[:]
    for name, values in contents.items():
        getattr(message.inputs[0].contents, name).extend(values)
    return message


def with_parameter(name: str, field: str, value: object) -> pb.ModelInferRequest:
    message = tiny()
    setattr(message.parameters[name], field, value)
    return message


def edited(edit: Any) -> pb.ModelInferRequest:
    message = tiny()
    edit(message)
    return message


def shaped(*shape: int) -> pb.ModelInferRequest:
    return edited(lambda m: m.inputs[0].shape.__setitem__(slice(None), shape))


MALFORMED = {
    "no inputs": (pb.ModelInferRequest(), "expected the inputs of one of image, sound, word"),
    "unknown input": (tiny(name="nix"), "got 'nix', expected one of pixels, wave"),
    "wrong datatype": (tiny(datatype="FP32"), "got datatype 'FP32', expected UINT8"),
    "wrong shape": (shaped(2, 3, 2), "expected [n, 2, 3]"),
    "no items": (shaped(0, 2, 3), "with n of at least 1"),
    "negative": (shaped(-1, 2, 3), "with n of at least 1"),
    "fewer raws than inputs": (edited(lambda m: m.raw_input_contents.pop()), "got 3 raw_input_contents"),
    "more raws than inputs": (
        edited(lambda m: m.raw_input_contents.append(b"")),
        "got 5 raw_input_contents, expected 4",
    ),
    "short raw": (
        edited(lambda m: m.raw_input_contents.__setitem__(0, bytes(11))),
        "got 11 bytes of binary data, expected 12",
    ),
    "long raw": (edited(lambda m: m.raw_input_contents.__setitem__(0, bytes(13))), "got 13 bytes"),
    "contents beside raws": (edited(lambda m: m.inputs[0].contents.SetInParent()), "expected one"),
    "no contents": (without_raw(), "got 0 elements, expected 12"),
    "contents in another list": (without_raw(int_contents=[0] * 12), "got int_contents, expected uint_cont"),
    "too many elements": (without_raw(uint_contents=[0] * 13), "got 13 elements, expected 12"),
    "out of range": (without_raw(uint_contents=[256] * 12), "a number is out of range"),
    "shared memory": (
        edited(lambda m: m.inputs[0].parameters["shared_memory_region"].SetInParent()),
        "not offered",
    ),
    "unknown output": (edited(lambda m: m.outputs.add(name="nix")), "expected one of logits, score"),
    "output twice": (edited(lambda m: [m.outputs.add(name="score") for _ in range(2)]), "twice"),
    "classification": (
        edited(lambda m: m.outputs.add(name="score").parameters["classification"].SetInParent()),
        "not offered",
    ),
    "unknown class": (with_parameter("poise_class", "string_param", "gold"), "one of interactive, bulk"),
    "class of another type": (with_parameter("poise_class", "int64_param", 1), "poise_class"),
    "timeout in words": (with_parameter("timeout", "string_param", "soon"), "timeout"),
    "negative priority": (with_parameter("priority", "int64_param", -1), "priority: got -1"),
    "priority beyond all": (with_parameter("priority", "uint64_param", 2**64 - 1), "priority"),
    "long id": (
        edited(lambda m: setattr(m, "id", "x" * 1001)),
        "id: got 1001 characters, expected at most 1000",
    ),
    "sequence": (with_parameter("sequence_id", "int64_param", 5), "sequence_id: got '5', expected 0 or none"),
    "named sequence": (with_parameter("sequence_id", "string_param", "s"), "sequence_id: got 's'"),
    "deadline of no number": (
        with_parameter("poise_deadline_ms", "double_param", float("nan")),
        "poise_deadline_ms: got nan",
    ),
    "half a modality": (
        edited(lambda m: (m.inputs.pop(), m.raw_input_contents.pop())),
        "got letters without length",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_name_the_thing_and_what_was_expected(case):
    message, words = MALFORMED[case]
    with pytest.raises(MalformedRequestError) as caught:
        decoded(message, TINY_WIRE)
    assert words in caught.value.message
    assert len(caught.value.message) < 500


def test_the_request_that_those_are_made_from_is_right():
    request = decoded(tiny(), TINY_WIRE)
    assert (request.reply.id, request.items, request.available) == ("a", 2, 7)
    assert request.reply.outputs == (("logits", True), ("score", True))


@pytest.mark.parametrize(
    "data", [b"\x3a", b"\x3a\x05abc", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x3b"]
)
def test_what_is_no_message_is_malformed(data):
    with pytest.raises(MalformedRequestError, match="damaged"):
        parse_infer(data)


def test_raw_contents_of_halves_only():
    message = pb.ModelInferRequest()
    message.inputs.add(name="fp16", datatype="FP16", shape=(1, 2, 3)).contents.fp32_contents.extend([0.0] * 6)
    with pytest.raises(
        MalformedRequestError, match="FP16 has no typed contents, expected raw_input_contents"
    ):
        decoded(message, TYPES_WIRE)


def test_a_message_may_not_be_more_work_than_its_tensors():
    with pytest.raises(TooLargeError, match="got 3 inputs, expected at most 2"):
        parse_infer(b"\x2a\x00" * 3, tensors=2)
    with pytest.raises(TooLargeError, match="got 3 raw_input_contents, expected at most 2"):
        parse_infer(b"\x3a\x00" * 3, tensors=2)
    with pytest.raises(TooLargeError, match="more than 1024 fields"):
        parse_infer(b"\x3a\x00" * 10**6)
    long = pb.ModelInferRequest(id="x" * grpc_codec.HEAD_BYTES).SerializeToString()
    with pytest.raises(TooLargeError, match="beside raw_input_contents"):
        parse_infer(long)


def test_more_items_than_can_ever_be_held_are_too_large():
    with pytest.raises(TooLargeError, match="items, expected at most 100"):
        decoded(shaped(2**62, 2, 3), TINY_WIRE)


def test_the_clients_deadline_counts_where_it_is_shorter():
    assert decoded(tiny(), TINY_WIRE, 0.02).deadline_s == 0.02
    assert decoded(tiny(), TINY_WIRE, 5.0).deadline_s == pytest.approx(0.1)
    message = with_parameter("timeout", "int64_param", 10_000)
    assert decoded(message, TINY_WIRE, 0.02).deadline_s == pytest.approx(0.01)


def test_an_answer_is_read_back_with_its_parameters():
    outputs = {
        "out": np.arange(600, dtype=np.float32).reshape(300, 2),
        "flag": np.array([True] * 300),
    }
    terms = ReplyTerms("q", (("flag", True), ("out", True)), own_terms=False)
    data = encode_infer_answer(terms, ANSWER, outputs, TYPES_WIRE, {2: "x", 3: "x+y"}.__getitem__)
    message = pb.ModelInferResponse.FromString(data)
    assert (message.model_name, message.model_version, message.id) == ("types", "1", "q")
    assert [(o.name, o.datatype, list(o.shape)) for o in message.outputs] == [
        ("flag", "BOOL", [300]),
        ("out", "FP32", [300, 2]),
    ]
    assert list(message.raw_output_contents) == [outputs["flag"].tobytes(), outputs["out"].tobytes()]
    told = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in message.parameters.items()}
    assert told == {
        "poise_variant": "a,b,b",
        "poise_modalities": "x+y,x,x",
        "poise_accuracy": 0.75,
        "poise_queue_us": 1000,
        "poise_compute_us": 2000,
        "poise_late": True,
        "poise_below_floor": True,
    }
