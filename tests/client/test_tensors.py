"""Arrays to bytes and back, and what the server's own decoder makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from poise.client.tensors import decode_json_tensor, decode_tensor, encode_tensor
from poise.domain.datatypes import NUMPY_TYPE
from poise.errors import MalformedRequestError

NUMBERS = {name: dtype for name, dtype in NUMPY_TYPE.items() if name not in ("BYTES", "BF16")}
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@given(data=st.data(), datatype=st.sampled_from(sorted(NUMBERS)), shape=SHAPES)
def test_numbers_come_back(data, datatype, shape):
    array = data.draw(hnp.arrays(NUMBERS[datatype], shape))
    told, told_shape, raw = encode_tensor("x", array)
    assert (told, told_shape) == (datatype, shape)
    assert bytes(raw) == array.tobytes()
    back = decode_tensor(told, told_shape, memoryview(bytes(raw)))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    if array.size:
        np.testing.assert_array_equal(decode_json_tensor(datatype, shape, array.tolist()), array)


@given(shape=SHAPES, data=st.data())
def test_texts_come_back(shape, data):
    texts = data.draw(hnp.arrays(object, shape, elements=st.binary(max_size=5) | st.text(max_size=5)))
    datatype, told_shape, raw = encode_tensor("x", texts)
    assert datatype == "BYTES"
    back = decode_tensor(datatype, told_shape, memoryview(raw))
    expected = [text.encode() if isinstance(text, str) else text for text in texts.ravel()]
    assert back.shape == shape
    assert list(back.ravel()) == expected


@pytest.mark.parametrize("array", [np.array(["ab", "ü"]), np.array([b"ab", "ü".encode()]), ["ab", "ü"]])
def test_kinds_of_text(array):
    assert encode_tensor("x", array) == ("BYTES", (2,), b"\2\0\0\0ab\2\0\0\0\xc3\xbc")


def test_an_array_of_another_order_is_sent_in_the_right_one():
    plain = np.arange(12, dtype="<f4").reshape(3, 4)
    for other in (plain.astype(">f4"), np.asfortranarray(plain), np.repeat(plain, 2, axis=1)[:, ::2]):
        assert bytes(encode_tensor("x", other)[2]) == plain.tobytes()


def test_a_contiguous_array_is_not_copied():
    array = np.zeros((3, 4), np.float32)
    raw = encode_tensor("x", array)[2]
    array[0, 0] = 1.0
    assert bytes(raw) == array.tobytes()


def test_half_floats_of_the_other_kind():
    floats = decode_tensor("BF16", (2, 1), memoryview(np.array([0x3F80, 0xC000], "<u2").tobytes()))
    assert floats.dtype == np.float32
    assert floats.tolist() == [[1.0], [-2.0]]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.float32(1), "a single value"),
        (np.zeros(2, complex), "numpy type complex128, expected one of bool"),
        (np.array(["2020-01-01"], "M8[D]"), "numpy type datetime64"),
        (np.array([None, "a"], object), "element of type NoneType"),
    ],
)
def test_what_the_protocol_does_not_carry(array, words):
    with pytest.raises(MalformedRequestError, match=words):
        encode_tensor("x", array)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", (2,), b"\0" * 7),
        ("FP32", (2,), b"\0" * 4),
        ("FP33", (2,), b"\0" * 8),
        ("BYTES", (1,), b"\2\0\0"),
        ("BYTES", (1,), b"\2\0\0\0a"),
        ("BYTES", (2,), b"\1\0\0\0a"),
        ("BF16", (2,), b"\0" * 3),
    ],
)
def test_bytes_that_are_no_such_tensor(datatype, shape, data):
    with pytest.raises(ValueError, match=r"\w"):
        decode_tensor(datatype, shape, memoryview(data))
