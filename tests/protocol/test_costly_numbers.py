"""Numbers that the quick JSON decoder takes 300 times as long for: it never sees many of them."""

import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.security.target import WIRE

from poise.errors import MalformedRequestError, TooLargeError
from poise.protocol import json_tensors
from poise.protocol.codec import MAX_PARAMETERS_BYTES, decode_infer
from poise.protocol.json_tensors import FEW_EXPONENTS, MANY_EXPONENTS, decode_elements, is_costly
from poise.protocol.wire import InputWire

COSTLY = ("9e-324", "1.5e-323", "2.2250738585072011e-308", "1.7976931348623157e308", "1e23", "-7.1E-323")
ITEMS = 50
SPEC = WIRE.inputs["wave"]  # FP32, four to an item


def decoded(text: str, shape: tuple[int, ...], spec: InputWire = SPEC) -> np.ndarray[Any, Any]:
    return decode_elements(msgspec.Raw(text.encode()), shape, spec)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the quick decoder is given, from now on."""
    given: list[str] = []
    quick = json_tensors._decoder

    class Watched:
        def __init__(self, *kind: Any) -> None:
            self.inner = quick(*kind)

        def decode(self, text: Any) -> Any:
            given.append(bytes(text).decode())
            return self.inner.decode(text)

    monkeypatch.setattr(json_tensors, "_decoder", Watched)
    return given


def exponents(texts: list[str]) -> int:
    return sum(len(re.findall("[eE]", text)) for text in texts)


@pytest.mark.parametrize("number", COSTLY)
@pytest.mark.parametrize("nested", [False, True])
def test_many_never_reach_the_quick_decoder(read: list[str], number: str, nested: bool):
    item = ",".join([number] * 4)
    text = ",".join([f"[{item}]" if nested else item] * ITEMS)
    try:
        array = decoded(f"[{text}]", (ITEMS, 4))
    except MalformedRequestError as error:
        assert "out of range" in error.message  # of FP32
        assert float(number) > 1e38
    else:
        assert (array == np.float32(float(number))).all()
    assert exponents(read) == 0
    decoded("[" + ",".join(["1e-05", "0.5", "2", "-3"] * 3) + "]", (3, 4))
    assert 0 < exponents(read) < FEW_EXPONENTS  # a few are read as quickly as any


def test_another_number_of_elements_is_refused_unread(read: list[str]):
    for text in (",".join(["9e-324"] * 5000), ",".join(["0.5"] * 5000)):
        with pytest.raises(MalformedRequestError, match="got 5000 elements, expected 200"):
            decoded(f"[{text}]", (ITEMS, 4))
        with pytest.raises(MalformedRequestError, match="got 5000 elements, expected 200"):
            decoded(f"[[{text}]]", (ITEMS, 4))
    assert read == []


numbers = st.one_of(
    st.sampled_from(COSTLY),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(("1e400", "-0.0", "true", "null", '"5"', "[1e5]", "{}", "0.1e1")),
)


@given(st.lists(numbers, min_size=6, max_size=6), st.booleans())
def test_both_ways_find_the_same(texts: list[str], nested: bool):
    spec = msgspec.structs.replace(SPEC, datatype="FP64", shape=(3,))

    def found(few: int) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_tensors, "FEW_EXPONENTS", few)
            first, second = ",".join(texts[:3]), ",".join(texts[3:])
            text = f"[[{first}],[{second}]]" if nested else f"[{first},{second}]"
            try:
                return decoded(text, (2, 3), spec).tolist()
            except MalformedRequestError:
                return None

    quick, careful = found(10**9), found(0)
    assert quick == careful


def test_they_go_elsewhere_where_they_are_too_many_for_an_event_loop():
    assert is_costly(b"9e-324," * (MANY_EXPONENTS + 1))
    assert is_costly(b"1E5," * (MANY_EXPONENTS + 1))
    assert not is_costly(b"9e-324," * MANY_EXPONENTS)
    assert not is_costly(b"an even evening; " * 100_000)  # words are none


def test_the_same_parameter_cannot_come_again_and_again():
    inputs = [{"name": "wave", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]
    body = json.dumps({"inputs": inputs, "parameters": {}}).replace("{}", "{%s}")
    again = ",".join(['"poise_accuracy_floor":9e-324'] * (MAX_PARAMETERS_BYTES // 29))
    decode_infer((body % '"poise_accuracy_floor":9e-324').encode(), None, WIRE)
    with pytest.raises(TooLargeError, match="expected at most 8192"):
        decode_infer((body % again).encode(), None, WIRE)
