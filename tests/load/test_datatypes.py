"""Test items of BF16 are sent and read as such; text has no one size, and is not sent."""

import numpy as np
import pytest
from numpy.random import default_rng
from tests.protocol.test_codec import ANSWER

from poise.domain.service import Modality, Service, TensorSpec, Variant
from poise.errors import ConfigError
from poise.files import LabelledItems
from poise.load.answers import AnswerReader
from poise.load.connections import Endpoint, Reply
from poise.load.requests import RequestMaker
from poise.protocol.answers import encode_answer
from poise.protocol.codec import decode_infer
from poise.protocol.wire import wire_of
from poise.workload import JobDraw

JOB = JobDraw(0, 0.0, "default", 3, None, None, 1)
ENDPOINT = Endpoint("127.0.0.1", 80, False, "")


def service_of(spec: TensorSpec) -> Service:
    return Service(
        format=1,
        service="one",
        modalities={"all": Modality(inputs={"x": spec})},
        outputs={"y": TensorSpec(datatype="BF16", shape=(2,))},
        variants={"paper": Variant(runtime="emulated")},
    )


@pytest.mark.parametrize("binary", [True, False])
def test_bf16_there_and_back(binary):
    service = service_of(TensorSpec(datatype="BF16", shape=(2,)))
    items = LabelledItems({"x": np.arange(6, dtype=np.float32).reshape(3, 2)}, np.array([1, 1, 0]))
    maker = RequestMaker(service, items, [JOB], default_rng(0), endpoint=ENDPOINT)
    head, body = maker.make(JOB)
    length = int(head.split(b"Inference-Header-Content-Length: ")[1])
    wire = wire_of(service, 10)
    request = decode_infer(body, length, wire)
    rows = maker.rows_of(JOB)
    np.testing.assert_array_equal(request.tensors[0].array, items.inputs["x"][rows])
    # the second number of an item is the greater: label 1 is right
    terms = request.reply if binary else decode_infer(JSON, None, wire).reply
    parts, told = encode_answer(terms, ANSWER, {"y": request.tensors[0].array}, wire, lambda _: "all")
    reply = Reply(200, b"".join(parts), 0.0, told)
    answer = AnswerReader(service, items.label).read(reply, rows)
    assert answer.scores is not None
    assert answer.scores.tolist() == [float(items.label[row] == 1) for row in rows]


JSON = b'{"inputs": [{"name": "x", "datatype": "BF16", "shape": [3, 2], "data": [0, 1, 2, 3, 4, 5]}]}'


def test_text_is_not_sent():
    service = service_of(TensorSpec(datatype="BYTES", shape=(), max_bytes=4))
    items = LabelledItems({"x": np.array([b"a"])}, np.zeros(1))
    with pytest.raises(
        ConfigError, match="input 'x' is BYTES, expected inputs whose items are all of one size"
    ):
        RequestMaker(service, items, [JOB], default_rng(0), endpoint=ENDPOINT)
