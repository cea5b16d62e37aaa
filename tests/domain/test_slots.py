import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.domain.datatypes import SLOT_HEAD_BYTES
from poise.domain.service import MAX_ELEMENT_BYTES, TensorSpec
from poise.domain.slots import bytes_in, copy_slots, heads, slots_of, slots_of_array

ELEMENTS = st.lists(st.binary(max_size=6), min_size=1, max_size=5)


@given(ELEMENTS)
def test_elements_come_back_zeros_at_their_end_too(values):
    slots = slots_of(values, 6)
    assert slots.shape == (len(values),)
    assert slots.dtype == TensorSpec(datatype="BYTES", shape=(), max_bytes=6).numpy_type
    assert list(bytes_in(slots)) == values
    assert b"".join(heads(slots)) == b"".join(len(v).to_bytes(4, "little") + v for v in values)


@given(ELEMENTS, ELEMENTS)
def test_what_was_in_a_slot_before_does_not_show(before, values):
    count = min(len(before), len(values))
    slots = slots_of(before[:count], 6).copy()
    copy_slots(slots, slots_of(values[:count], 6))
    assert list(bytes_in(slots)) == values[:count]


def test_shapes_stay():
    array = np.array([["a", "bc"], ["ü", ""]])
    slots = slots_of_array(array, 4)
    assert slots.shape == (2, 2)
    assert bytes_in(slots).tolist() == [[b"a", b"bc"], ["ü".encode(), b""]]
    assert slots_of_array(np.array([b"x"]), 4).tobytes() == b"\1\0\0\0x\0\0\0"
    assert slots_of_array(np.array([bytearray(b"x"), "y"], object), 1).shape == (2,)


def test_too_long_and_no_text():
    with pytest.raises(ValueError, match="element of 3 bytes, expected at most 2"):
        slots_of([b"a", b"abc"], 2)
    with pytest.raises(ValueError, match="of type float, expected bytes or text"):
        slots_of_array(np.array([1.0], object), 2)


def test_a_length_that_lies_reads_no_other_slot():
    slots = slots_of([b"ab", b"cd"], 2).copy()
    slots.view(np.uint8)[0] = 255
    assert [len(head) for head in heads(slots)] == [SLOT_HEAD_BYTES + 2] * 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"datatype": "BYTES"}, "expected max_bytes"),
        (
            {"datatype": "FP32", "max_bytes": 4},
            "expected max_bytes, the most that an element may have, for BYTES",
        ),
        ({"datatype": "BYTES", "max_bytes": 0}, "got max_bytes 0, expected 1 to"),
        ({"datatype": "BYTES", "max_bytes": MAX_ELEMENT_BYTES + 1}, "expected 1 to"),
    ],
)
def test_max_bytes_goes_with_bytes(fields, words):
    with pytest.raises(ValueError, match=words):
        TensorSpec(shape=(2,), **fields)


def test_bytes_have_no_buckets():
    with pytest.raises(ValueError, match="BYTES has no buckets"):
        TensorSpec(datatype="BYTES", shape=(-1,), buckets=(2,), max_bytes=4)
