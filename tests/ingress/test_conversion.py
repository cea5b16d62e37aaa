"""Tensors that are not used as they came: much of one is converted beside the event loop."""

import json
import threading

import msgspec
import numpy as np
import pytest
from tests.ingress.test_decoding import WIRE
from tests.ingress.test_slow_inference import FakeGate, answered, gates_of, post

from poise.ingress import http_infer
from poise.protocol.codec import decode_infer


@pytest.mark.parametrize(
    ("datatype", "items", "elsewhere"),
    [("FP32", 150_000, False), ("BF16", 150_000, True), ("BOOL", 300_000, True)],
)
def test_much_that_is_converted_is_converted_in_a_thread(monkeypatch, datatype, items, elsewhere):
    threads = []

    def decode(*given, **more):
        threads.append(threading.current_thread() is not threading.main_thread())
        return decode_infer(*given, **more)

    monkeypatch.setattr(http_infer, "decode_infer", decode)
    dtype, size = (np.bool_, 1) if datatype == "BOOL" else (np.float32, 2 if datatype == "BF16" else 4)
    spec = msgspec.structs.replace(WIRE.inputs["wave"], datatype=datatype, dtype=np.dtype(dtype))
    wire = msgspec.structs.replace(WIRE, inputs=WIRE.inputs | {"wave": spec})
    gate = FakeGate(wire, answered(2))
    wave = np.random.default_rng(1).integers(0, 50, items * 4 * size, np.uint8).tobytes()
    tensor = {"name": "wave", "datatype": datatype, "shape": [items, 4]}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(wave)}}]}).encode()
    reply = post(gates_of(gate), gate, head + wave, inference_header_content_length=b"%d" % len(head))
    assert (reply.status, threads) == (200, [elsewhere])
