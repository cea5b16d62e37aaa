import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec.structs import replace
from tests.protocol.test_codec import ANSWER

from poise.domain.service import Modality, Service, TensorSpec, Variant
from poise.domain.slots import bytes_in, slots_of
from poise.errors import MalformedRequestError, RequestError, TooLargeError
from poise.protocol.answers import NotFiniteError, encode_answer
from poise.protocol.codec import ReplyTerms, decode_infer
from poise.protocol.elements import from_bf16, from_bytes, to_bf16, to_bytes
from poise.protocol.wire import MAX_SLOTS_BYTES, MAX_STRINGS, wire_of

HALF_OUT = TensorSpec(datatype="BF16", shape=(2,))
WIRE = wire_of(
    Service(
        format=1,
        service="texts",
        modalities={
            "text": Modality(inputs={"text": TensorSpec(datatype="BYTES", shape=(2,), max_bytes=4)}),
            "half": Modality(inputs={"half": TensorSpec(datatype="BF16", shape=(2,))}),
        },
        outputs={
            "text": TensorSpec(datatype="BYTES", shape=(2,), max_bytes=4),
            "half": HALF_OUT,
        },
        variants={"paper": Variant(runtime="emulated")},
    ),
    max_items=10**6,
)
TEXT, HALF = WIRE.inputs["text"], WIRE.inputs["half"]


@given(hnp.arrays(np.uint32, 40))
def test_rounding_to_bf16_is_that_of_a_library_for_it(bits):
    array = bits.view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        theirs = array.astype(ml_dtypes.bfloat16)
    ours = to_bf16(array)
    nan = np.isnan(array)
    np.testing.assert_array_equal(ours[~nan], theirs[~nan].view(np.uint16))
    assert np.isnan(from_bf16(ours[nan])).all()


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F7FFFFF, 0x3F808000, 0x3F818000])
def test_rounding_at_the_edges(bits):
    array = np.array([bits], np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        want = array.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(from_bf16(to_bf16(array)), want)


def test_every_number_of_bf16_comes_back():
    bits = np.arange(2**16, dtype=np.uint16)
    there = from_bf16(bits)
    numbers = ~np.isnan(there)
    np.testing.assert_array_equal(to_bf16(there)[numbers], bits[numbers])
    assert from_bytes(bits[:4].tobytes(), (2, 2), HALF).tolist() == there[:4].reshape(2, 2).tolist()
    assert bytes(to_bytes(there[:4], WIRE.outputs["half"])) == bits[:4].tobytes()


@given(st.lists(st.binary(max_size=4), min_size=4, max_size=4))
def test_strings_come_back_behind_their_lengths(values):
    data = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    array = from_bytes(data, (2, 2), TEXT)
    assert bytes_in(array).ravel().tolist() == values
    assert bytes(to_bytes(array, WIRE.outputs["text"])) == data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\1\0\0\0a", "got 5 bytes of binary data, expected 2 elements"),
        (b"\1\0\0\0a\0\0\0\0b", "not 2 elements"),
        (b"\1\0\0\0a\3\0\0\0bc", "not 2 elements"),
        (b"\4\0\0\0a\0\0\0", "not 2 elements"),
        (b"\1\0\0\0a\0\0\0\0\0\0\0\0", "not 2 elements"),
        (b"\xff\xff\xff\xffa\0\0\0", "not 2 elements"),
        (b"\5\0\0\0abcde\0\0\0\0", "got an element of 5 bytes, expected at most 4"),
    ],
)
def test_strings_that_are_cut_or_too_many_or_too_long(data, words):
    with pytest.raises(MalformedRequestError, match=words):
        from_bytes(data, (1, 2), TEXT)


@given(st.binary(max_size=40))
def test_garbage_is_refused_or_read_but_nothing_else(data):
    try:
        found = from_bytes(data, (2, 2), TEXT)
    except RequestError:
        return
    assert bytes(to_bytes(found, WIRE.outputs["text"])) == data


def test_too_many_strings():
    items = MAX_STRINGS // 2 + 1
    with pytest.raises(TooLargeError, match=f"expected at most {MAX_STRINGS}"):
        from_bytes(bytes(8 * items), (items, 2), TEXT)


def test_slots_that_would_take_too_much_memory():
    inputs = {name: TensorSpec(datatype="BYTES", shape=(2,), max_bytes=2**20 - 4) for name in ("a", "b")}
    vast = {"vast": TensorSpec(datatype="BYTES", shape=(100,), max_bytes=2**20)}
    service = Service(
        format=1,
        service="long",
        modalities={"both": Modality(inputs=inputs)},
        outputs={"out": HALF_OUT},
        variants={"paper": Variant(runtime="emulated")},
    )
    wire = wire_of(service, max_items=1000)
    assert wire.inputs["a"].max_strings == MAX_SLOTS_BYTES // 2 // 2**20
    with pytest.raises(TooLargeError, match="got 34 elements of BYTES, expected at most 32"):
        from_bytes(bytes(4 * 34), (17, 2), wire.inputs["a"])
    vast_service = replace(service, modalities={"both": Modality(inputs=vast)})
    assert wire_of(vast_service, 10).inputs["vast"].max_strings == 100  # one item is always taken


def request(name: str, datatype: str, data: object, items: int = 2) -> bytes:
    tensor = {"name": name, "datatype": datatype, "shape": [items, 2], "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize("data", [["a", "", "ü", "abcd"], [["a", ""], ["ü", "abcd"]]])
def test_text_in_json(data):
    (tensor,) = decode_infer(request("text", "BYTES", data), None, WIRE).tensors
    assert bytes_in(tensor.array).tolist() == [[b"a", b""], ["ü".encode(), b"abcd"]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (["a", "b", "c"], "got 3 elements, expected 4"),
        ([1, 2, 3, 4], "data is not of BYTES"),
        (["a", "b", "c", None], "data is not of BYTES"),
        (["a", "b", "c", "abcde"], "got an element of 5 bytes"),
        ([["a", "b", "c"], ["d"]], "nested otherwise"),
        ([["a", "b"]], "nested otherwise"),
        ([["a"], ["b"], ["c"], ["d"]], "nested otherwise"),
        ([[["a"]]], "data is not of BYTES"),
    ],
)
def test_text_in_json_that_is_not_as_its_shape_says(data, words):
    with pytest.raises(MalformedRequestError, match=words):
        decode_infer(request("text", "BYTES", data), None, WIRE)


def test_numbers_of_bf16_in_json_are_rounded_as_they_would_be_in_binary():
    (tensor,) = decode_infer(request("half", "BF16", [1.0, 1.001, 3e38, -0.1]), None, WIRE).tensors
    assert tensor.array.dtype == np.float32
    assert (
        tensor.array.ravel().tolist()
        == np.array([1.0, 1.001, 3e38, -0.1]).astype(ml_dtypes.bfloat16).tolist()
    )
    with pytest.raises(MalformedRequestError, match="out of range"):
        decode_infer(request("half", "BF16", [1.0, 1.0, 1.0, 3.4e38]), None, WIRE)


def answer(binary: bool, text: list[bytes]) -> tuple[bytes, int | None]:
    outputs = {"text": slots_of(text, 4).reshape(1, 2), "half": np.array([[1.0, 1.001]], np.float32)}
    terms = ReplyTerms(None, (("text", binary), ("half", binary)), own_terms=False)
    parts, length = encode_answer(terms, ANSWER, outputs, WIRE, lambda _: "text")
    return b"".join(parts), length


def test_answers_in_json_and_in_binary():
    told = json.loads(answer(binary=False, text=[b"a", "ü".encode()])[0])
    assert [output["data"] for output in told["outputs"]] == [["a", "ü"], [1.0, 1.0]]
    body, length = answer(binary=True, text=[b"\xff", b""])
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(body[:length])["outputs"]]
    assert sizes == [9, 4]
    assert body[length:] == b"\1\0\0\0\xff\0\0\0\0" + b"\x80\x3f\x80\x3f"


def test_bytes_that_are_no_text_are_not_written_as_json():
    with pytest.raises(NotFiniteError, match="bytes that are not UTF-8"):
        answer(binary=False, text=[b"\xff", b""])
