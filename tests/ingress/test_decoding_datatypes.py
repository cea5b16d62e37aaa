"""Text and BF16 in large JSON, which another process reads and writes."""

import json
from typing import cast

import numpy as np
import pytest
from tests.ingress.test_decoding import LIMITS, label, run, same

from poise.domain.service import Modality, Service, TensorSpec, Variant
from poise.domain.slots import slots_of
from poise.errors import TooLargeError
from poise.ingress.decoding import LargeJson
from poise.ingress.gate import Answered, Gate
from poise.protocol.answers import NotFiniteError, encode_answer
from poise.protocol.codec import ReplyTerms, decode_infer
from poise.protocol.wire import wire_of
from poise.scheduling.commands import Answer, AnswerPart

ITEMS = 2000
WORDS = [f"wörd {number}\n" * 5 for number in range(ITEMS)]


class FakeGate:
    wire = wire_of(
        Service(
            format=1,
            service="texts",
            modalities={
                "text": Modality(inputs={"text": TensorSpec(datatype="BYTES", shape=(1,), max_bytes=128)}),
                "long": Modality(inputs={"long": TensorSpec(datatype="BYTES", shape=(), max_bytes=2**20)}),
                "half": Modality(inputs={"half": TensorSpec(datatype="BF16", shape=(2,))}),
            },
            outputs={
                "text": TensorSpec(datatype="BYTES", shape=(1,), max_bytes=128),
                "half": TensorSpec(datatype="BF16", shape=(2,)),
            },
            variants={"paper": Variant(runtime="emulated")},
        ),
        max_items=100_000,
    )
    label = staticmethod(label)


GATE = cast(Gate, FakeGate())


def body_of(*tensors: tuple[str, str, list[int], list]) -> bytes:
    inputs = [{"name": n, "datatype": d, "shape": s, "data": data} for n, d, s, data in tensors]
    return json.dumps({"inputs": inputs}).encode()


def test_a_request_comes_back_as_it_would_here():
    body = body_of(
        ("text", "BYTES", [ITEMS, 1], WORDS),
        ("half", "BF16", [ITEMS, 2], [number / 7 for number in range(2 * ITEMS)]),
    )

    async def test(large: LargeJson) -> None:
        same(await large.decode(body, None, GATE.wire, LIMITS), decode_infer(body, None, GATE.wire))

    run(test)


def test_short_elements_may_take_more_memory_than_text():
    body = body_of(("long", "BYTES", [30], ["a", ""] * 15))

    async def test(large: LargeJson) -> None:
        same(await large.decode(body, None, GATE.wire, LIMITS), decode_infer(body, None, GATE.wire))
        more = body_of(("long", "BYTES", [10_000], [""] * 10_000))
        with pytest.raises(TooLargeError, match="'long': got 10000 elements of BYTES, expected at most 31"):
            await large.decode(more, None, GATE.wire, LIMITS)

    run(test)


@pytest.mark.parametrize("binary", [("text",), ("half",), ()])
def test_an_answer_is_what_it_would_be_here(binary: tuple[str, ...]):
    outputs = {
        "text": slots_of([word.encode() for word in WORDS], 128).reshape(-1, 1),
        "half": np.random.default_rng(0).normal(size=(ITEMS, 2)).astype(np.float32),
    }
    answered = Answered(Answer(1, (AnswerPart(0, ITEMS, 1, "paper"),), 0.9, 0.01, 0.02, False), outputs)
    terms = ReplyTerms(None, tuple((name, name in binary) for name in outputs), own_terms=False)
    expected, _ = encode_answer(terms, answered.answer, outputs, GATE.wire, label)
    outputs_no_text = {**outputs, "text": slots_of([b"\xff"] * ITEMS, 128).reshape(-1, 1)}

    async def test(large: LargeJson) -> None:
        assert b"".join(await large.encode(terms, answered, GATE)) == b"".join(expected)
        if "text" not in binary:
            with pytest.raises(NotFiniteError, match="text"):
                await large.encode(terms, Answered(answered.answer, outputs_no_text), GATE)

    run(test)
