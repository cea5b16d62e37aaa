"""What every client says to a server, call by call, in one order; the answers are kept under the calls' names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from tests.conformance.clients import Clients, Flavour, Tree
from tests.conformance.peers import MAX_BATCH
from tritonclient.utils import triton_to_np_dtype

Answers = dict[str, Tree]

LEFT = np.array([[1, 2, 3, 4], [-1, 0.5, 0, 8]], np.float32)
RIGHT = np.array([[10, 20, 30, 40], [2, 4, 0.25, -8]], np.float32)
VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 1, 2**8 - 1],
    "UINT16": [0, 1, 2**16 - 1],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 1, 2**64 - 1],
    "INT8": [-(2**7), 0, 2**7 - 1],
    "INT16": [-(2**15), 0, 2**15 - 1],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1],
    "FP16": [0.5, -1, 3],
    "FP32": [0.1, -1, 1e38],
    "FP64": [0.1, -1, 1e307],
}
ARRAYS = {name: np.array([values], triton_to_np_dtype(name)) for name, values in VALUES.items()}
"""One item of each plain datatype, at the ends of what it holds."""

WORDS = np.array([[b"a", b"", "grün\n".encode()], [b"\xff\x00z", b"abc", b"."]], dtype=object)


def hold(clients: Clients) -> Answers:
    """Say everything and return what was heard."""
    answers: Answers = {}
    for name, flavour in clients.flavours.items():
        for said, call in (*_questions(flavour), *_inferences(flavour), *_mistakes(flavour)):
            answers[f"{name}: {said}"] = call()
    return answers


Said = Iterable[tuple[str, Callable[[], Tree]]]


def _questions(to: Flavour) -> Said:
    """Health, metadata, configuration, repository."""
    for method in ("is_server_live", "is_server_ready", "get_server_metadata", "get_model_repository_index"):
        yield method, partial(to.call, method)
    for method in ("is_model_ready", "get_model_metadata", "get_model_config"):
        for model in ("sums", "types", "words", "brief"):
            yield f"{method} {model}", partial(to.call, method, model)
        for model, version in (("sums", "1"), ("sums", "2"), ("nobody", "")):
            yield f"{method} {model} {version}", partial(to.call, method, model, version)
    for model, version in (("nobody", ""), ("sums", "2")):
        method = "get_inference_statistics"
        yield f"{method} {model} {version}", partial(to.call, method, model, version)
    for method in ("get_log_settings", "get_trace_settings", "get_system_shared_memory_status"):
        yield method, partial(to.call, method)


def sums(to: Flavour, left: np.ndarray = LEFT, right: np.ndarray = RIGHT, **how: Any) -> list[Any]:
    """The inputs of the model of that name."""
    return [to.tensor("left", "FP32", left, **how), to.tensor("right", "FP32", right, **how)]


def types(to: Flavour, **how: Any) -> list[Any]:
    """An input of every plain datatype; FP16 is always binary, since JSON is not offered for it."""
    return [
        to.tensor(f"in_{name.lower()}", name, array, **(how if name != "FP16" else {}))
        for name, array in ARRAYS.items()
    ]


def _inferences(to: Flavour) -> Said:
    """What both answer."""

    infer = partial(partial, to.call, "infer")

    yield "infer", infer("sums", sums(to))
    yield "infer, one item", infer("sums", sums(to, LEFT[:1], RIGHT[:1]))
    full = (np.tile(a, (MAX_BATCH // 2, 1)) for a in (LEFT, RIGHT))
    yield "infer, a full batch", infer("sums", sums(to, *full))
    more = (np.tile(a, (MAX_BATCH // 2 + 1, 1)) for a in (LEFT, RIGHT))
    yield "infer, more items than a batch", infer("sums", sums(to, *more))
    yield "infer with an id", infer("sums", sums(to), request_id="seven")
    yield "infer at version 1", infer("sums", sums(to), model_version="1")
    yield "infer, inputs in the other order", infer("sums", sums(to)[::-1])
    yield "infer with priority and timeout", infer("sums", sums(to), priority=1, timeout=50_000_000)
    yield (
        "infer with unknown parameters",
        infer("sums", sums(to), parameters={"mine": "x", "n": 3, "b": True}),
    )
    for names in (["sum"], ["difference"], ["sum", "difference"], ["difference", "sum"]):
        outputs = [to.output(name) for name in names]
        yield f"infer {' and '.join(names)}", infer("sums", sums(to), outputs=outputs)
    yield "infer every datatype", infer("types", types(to))
    yield (
        "infer some datatypes",
        infer("types", types(to), outputs=[to.output("out_int64"), to.output("out_fp16")]),
    )
    yield "infer BYTES", infer("words", [to.tensor("word", "BYTES", WORDS)])
    bf16 = np.array([[1.0, -2.5, 3e38]], triton_to_np_dtype("BF16"))
    yield "infer BF16", infer("brief", [to.tensor("short", "BF16", bf16)])
    if to.over_grpc:
        return
    as_json: dict[str, Any] = {"binary_data": False}
    yield "infer from JSON", infer("sums", sums(to, **as_json))
    yield "infer from JSON and binary", infer("sums", [sums(to, **as_json)[0], sums(to)[1]])
    yield "infer into JSON", infer("sums", sums(to), outputs=[to.output("sum", **as_json)])
    mixed = [to.output("sum", **as_json), to.output("difference", binary_data=True)]
    yield "infer into JSON and binary", infer("sums", sums(to), outputs=mixed)
    into_json = [to.output(f"out_{name.lower()}", **as_json) for name in ARRAYS if name != "FP16"]
    yield "infer every datatype in JSON", infer("types", types(to, **as_json), outputs=into_json)
    text = np.array([[b"a", b"", b"abc"]], dtype=object)
    yield (
        "infer BYTES in JSON",
        infer("words", [to.tensor("word", "BYTES", text, **as_json)], outputs=[to.output("drow", **as_json)]),
    )
    for algorithm in ("gzip", "deflate"):
        how = {f"{way}_compression_algorithm": algorithm for way in ("request", "response")}
        yield f"infer, {algorithm} both ways", infer("sums", sums(to), **how)
        yield f"infer JSON, {algorithm} both ways", infer("sums", sums(to, **as_json), **how)


def _mistakes(to: Flavour) -> Said:
    """What neither answers."""

    infer = partial(partial, to.call, "infer")

    left, right = sums(to)
    narrow = np.ones((2, 3), np.float32)
    yield "infer with an unknown model", infer("nobody", [left, right])
    yield "infer with an unknown version", infer("sums", [left, right], model_version="2")
    yield "infer with an unknown input", infer("sums", [left, right, to.tensor("more", "FP32", LEFT)])
    yield "infer with an unknown output", infer("sums", [left, right], outputs=[to.output("product")])
    yield "infer with an input missing", infer("sums", [left])
    yield "infer with an input twice", infer("sums", [left, left, right])
    yield "infer with another datatype", infer("sums", [to.tensor("left", "INT32", LEFT.astype("i4")), right])
    yield "infer with another shape", infer("sums", [to.tensor("left", "FP32", narrow), right])
    yield "infer without a batch dimension", infer("sums", sums(to, LEFT[0], RIGHT[0]))
    yield "infer with unequal batches", infer("sums", sums(to, LEFT[:1], RIGHT))
    yield "infer with BYTES for FP32", infer("sums", [to.tensor("left", "BYTES", WORDS), right])
    yield "infer with too few BYTES", infer("words", [to.tensor("word", "BYTES", WORDS[:, :2])])
    yield "infer where the model fails", infer("moody", [to.tensor("mood", "FP32", np.array([[-1]], "f4"))])
