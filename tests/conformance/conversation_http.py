"""Bare HTTP: routes, headers, compression, and bodies that no client of the kind writes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from typing import Any

from tests.conformance.clients import Clients
from tests.conformance.conversation import ARRAYS, LEFT, VALUES, Answers
from tests.conformance.peers import MAX_BATCH, WIDTH


def hold_http(clients: Clients) -> Answers:
    """Say everything and return what was heard."""
    answers: Answers = {}
    for method, path in (
        *(("GET", path) for path in _pages()),
        *(("POST", path) for path in ("/v2", "/v2/health/live", "/v2/models/sums", "/v2/models/sums/config")),
        *(("GET", path) for path in ("/v2/models/sums/infer", "/v2/repository/index")),
        ("PUT", "/v2/models/sums/infer"),
        ("POST", "/v2/models/sums/nothing"),
        ("HEAD", "/v2/health/live"),
    ):
        answers[f"bare http: {method} {path}"] = clients.http(method, path)
    for said, body, headers in (*_bodies(), *_binaries(), *_compressed(), *_json_values()):
        model = "types" if said.startswith("types") else "words" if said.startswith("words") else "sums"
        path = f"/v2/models/{model}/infer"
        answers[f"bare http: {said}"] = clients.http("POST", path, body, **headers)
    return answers


def _pages() -> Iterable[str]:
    yield from ("/v2", "/v2/health/live", "/v2/health/ready", "/nothing", "/v2/nothing")
    for model in ("sums", "sums/versions/1", "sums/versions/2", "nobody"):
        for page in ("", "/ready", "/config"):
            yield f"/v2/models/{model}{page}"
    yield from ("/v2/models/nobody/stats", "/v2/models/sums/versions/2/stats", "/v2/models/sums/nothing")
    yield from ("/v2/models/sums/versions/x", "/v2/models", "/v2/models/sums/ready/more")


Body = tuple[str, bytes, dict[str, str]]


def tensor(name: str, datatype: str, shape: list[Any], data: Any = None, **parameters: Any) -> dict[str, Any]:
    """An input of the protocol's JSON."""
    made = {"name": name, "datatype": datatype, "shape": shape}
    return (
        made | ({} if data is None else {"data": data}) | ({"parameters": parameters} if parameters else {})
    )


ONE = tensor("left", "FP32", [1, 4], [1, 2, 3, 4])
OTHER = tensor("right", "FP32", [1, 4], [10, 20, 30, 40])


def encode(*inputs: Any, **more: Any) -> bytes:
    """A request's JSON."""
    return json.dumps({"inputs": list(inputs), **more}).encode()


def _bodies() -> Iterable[Body]:
    """Requests in JSON alone."""
    plain: list[tuple[str, bytes]] = [
        *_terms(),
        ("nested data", encode(tensor("left", "FP32", [1, 4], [[1, 2, 3, 4]]), OTHER)),
        ("data nested in another way", encode(tensor("left", "FP32", [1, 4], [[[1, 2], [3, 4]]]), OTHER)),
        ("nothing", b""),
        ("half an object", b"{"),
        ("a list", b"[]"),
        ("a string", b'"x"'),
        ("an object", b"{}"),
        ("something after it", encode(ONE, OTHER) + b"more"),
        *((f"inputs {value}", b'{"inputs": %s}' % value.encode()) for value in ("null", "{}", "[]")),
    ]
    for field in ("name", "datatype", "shape", "data"):
        cut = {key: value for key, value in ONE.items() if key != field}
        plain.append((f"an input without {field}", encode(cut, OTHER)))
    shapes: list[list[Any]] = [
        [1, 3],
        [4],
        [2, 4],
        [-1, 4],
        [0, 4],
        [2**62, 4],
        [1, 4, 1],
        ["x", 4],
        [1.0, 4],
    ]
    for shape in (*shapes, [2**64, 4]):
        plain.append((f"shape {shape}", encode(tensor("left", "FP32", shape, [1, 2, 3, 4]), OTHER)))
    wide = [tensor(name, "FP32", [MAX_BATCH + 1, 4], [1] * 4 * (MAX_BATCH + 1)) for name in ("left", "right")]
    plain.append(("more items than a batch", encode(*wide)))
    plain.append(("unknown datatype", encode(tensor("left", "FP31", [1, 4], [1, 2, 3, 4]), OTHER)))
    values: list[Any] = [
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        ["1", "2", "3", "4"],
        [1, 2, None, 4],
        [1, 2, True, 4],
        7,
        {},
    ]
    for data in values:
        plain.append((f"data {data}", encode(tensor("left", "FP32", [1, 4], data), OTHER)))
    plain.append(("NaN", encode(tensor("left", "FP32", [1, 4], [float("nan"), 2, 3, 4]), OTHER)))
    shared = tensor("left", "FP32", [1, 4], shared_memory_region="x", shared_memory_byte_size=16)
    plain.append(("shared memory", encode(shared, OTHER)))
    for said, body in plain:
        yield said, body, {}


def _terms() -> Iterable[tuple[str, bytes]]:
    """What a request says beside its tensors."""
    yield "as it should be", encode(ONE, OTHER, id="seven")
    yield "without an id", encode(ONE, OTHER)
    yield "with an empty id", encode(ONE, OTHER, id="")
    yield "with a number as id", encode(ONE, OTHER, id=7)
    yield "an unknown field", encode(ONE, OTHER, mine={"a": 1})
    binary, plain = ({"binary_data": value} for value in (True, False))
    for said, outputs in (
        ("no outputs named", []),
        ("an output twice", [{"name": "sum"}] * 2),
        ("outputs in another order", [{"name": "difference"}, {"name": "sum"}]),
        ("one output binary", [{"name": "sum", "parameters": binary}, {"name": "difference"}]),
        ("classification", [{"name": "sum", "parameters": {"classification": 2}}]),
    ):
        yield said, encode(ONE, OTHER, outputs=outputs)
    all_binary = {"binary_data_output": True}
    yield "binary_data_output", encode(ONE, OTHER, parameters=all_binary)
    outputs = [{"name": "sum", "parameters": plain}, {"name": "difference"}]
    yield "binary_data_output and an output", encode(ONE, OTHER, outputs=outputs, parameters=all_binary)
    terms: list[tuple[str, Any]] = [("priority", 9), ("priority", -1), ("priority", "x")]
    for name, value in (*terms, ("timeout", -5), ("timeout", "x")):
        yield f"{name} {value!r}", encode(ONE, OTHER, parameters={name: value})
    yield "parameters in a list", encode(ONE, OTHER, parameters=[])


def _binaries() -> Iterable[Body]:
    raw = LEFT[:1].tobytes()

    def body(
        sizes: tuple[int, int], data: bytes, length: object = None, **more: Any
    ) -> tuple[bytes, dict[str, str]]:
        inputs = [
            tensor(name, "FP32", [1, 4], binary_data_size=size)
            for name, size in zip(("left", "right"), sizes, strict=True)
        ]
        header = encode(*inputs, **more)
        shown = len(header) if length is None else length
        return header + data, {"Inference_Header_Content_Length": str(shown)}

    for said, given in (
        ("binary", body((16, 16), raw + raw)),
        ("binary in, binary out", body((16, 16), raw + raw, parameters={"binary_data_output": True})),
        ("binary cut short", body((16, 16), raw)),
        ("binary with more behind", body((16, 16), raw + raw + b"more")),
        ("binary of another size", body((12, 16), raw[:12] + raw)),
        ("binary of a negative size", body((-16, 16), raw + raw)),
        ("header length beyond the body", body((16, 16), raw + raw, 9999)),
        ("header length too small", body((16, 16), raw + raw, 5)),
        ("header length 0", body((16, 16), raw + raw, 0)),
        ("header length no number", body((16, 16), raw + raw, "x")),
        ("header length negative", body((16, 16), raw + raw, -1)),
    ):
        yield said, *given
    header = encode(ONE, tensor("right", "FP32", [1, 4], binary_data_size=16))
    yield "one input binary", header + raw, {"Inference_Header_Content_Length": str(len(header))}
    header = encode(tensor("left", "FP32", [1, 4], [1, 2, 3, 4], binary_data_size=16), OTHER)
    yield "data and binary", header + raw, {"Inference_Header_Content_Length": str(len(header))}
    good = b"".join(len(word).to_bytes(4, "little") + word for word in (b"a", b"", b"\xff\x00z"))
    for said, data in (
        ("words", good),
        ("words cut short", good[:-1]),
        ("words, two of three", good[:9]),
        ("words, four of three", good + b"\x01\0\0\0q"),
        ("words, one longer than all", (2**31).to_bytes(4, "little") + b"abc"),
    ):
        outputs = [{"name": "drow", "parameters": {"binary_data": True}}]
        header = encode(tensor("word", "BYTES", [1, WIDTH], binary_data_size=len(data)), outputs=outputs)
        yield said, header + data, {"Inference_Header_Content_Length": str(len(header))}


def _compressed() -> Iterable[Body]:
    plain = encode(ONE, OTHER, id="seven")
    bare = zlib.compressobj(wbits=-15)
    raw_deflate = bare.compress(plain) + bare.flush()
    for said, body, encoding in (
        ("gzip", gzip.compress(plain), "gzip"),
        ("deflate", zlib.compress(plain), "deflate"),
        ("deflate without its header", raw_deflate, "deflate"),
        ("GZIP", gzip.compress(plain), "GZIP"),
        ("identity", plain, "identity"),
        ("br", plain, "br"),
        ("gzip that is none", b"nonsense", "gzip"),
        ("gzip cut short", gzip.compress(plain)[:-10], "gzip"),
    ):
        yield f"body: {said}", body, {"Content_Encoding": encoding}
    values = {"left": [0.1, 0.7], "right": [0.3, 0.4]}  # sums and differences of many digits
    long = [tensor(name, "FP32", [MAX_BATCH, 4], pair * 2 * MAX_BATCH) for name, pair in values.items()]
    for accepted in (
        *("gzip", "deflate", "br", "*", "identity", "gzip, deflate", "deflate, gzip"),
        *("gzip;q=0", "gzip;q=0.5, deflate;q=0.9", "gzip;q=0.1, identity"),
    ):
        yield f"short answer: {accepted}", plain, {"Accept_Encoding": accepted}
        yield f"answer: {accepted}", encode(*long), {"Accept_Encoding": accepted}
    some_binary = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference"}]
    binary = encode(*long, outputs=some_binary)
    yield "binary answer: gzip", binary, {"Accept_Encoding": "gzip"}


def _json_values() -> Iterable[Body]:
    """One datatype's JSON at a time; the others are as they should be."""

    def body(datatype: str, data: list[Any]) -> tuple[bytes, bytes]:
        fp16 = ARRAYS["FP16"].tobytes()
        rest = [
            tensor("in_fp16", "FP16", [1, WIDTH], binary_data_size=len(fp16))
            if name == "FP16"
            else tensor(f"in_{name.lower()}", name, [1, WIDTH], values)
            for name, values in VALUES.items()
            if name != datatype
        ]
        mine = tensor(f"in_{datatype.lower()}", datatype, [1, WIDTH], data)
        return encode(mine, *rest, outputs=[{"name": f"out_{datatype.lower()}"}]), fp16

    one_by_one: dict[str, list[list[Any]]] = {
        "BOOL": [[1, 0, 1], ["a", True, True]],
        "UINT8": [[256, 0, 0], [-1, 0, 0], [1.0, 0, 0]],
        "INT8": [[128, 0, 0], [1.5, 0, 0]],
        "INT32": [[2**31, 0, 0]],
        "INT64": [[2**63, 0, 0]],
        "UINT64": [[2**64, 0, 0]],
        "FP32": [[1, 2, 3], [1e39, 0, 0]],
        "FP64": [[1, 2, 3]],
    }
    for datatype, lists in one_by_one.items():
        for data in lists:
            header, fp16 = body(datatype, data)
            length = {"Inference_Header_Content_Length": str(len(header))}
            yield f"types {datatype} {data}", header + fp16, length
    yield "types FP16 in JSON", body("FP16", VALUES["FP16"])[0], {}
    header, fp16 = body("UINT8", VALUES["UINT8"])
    fp16_out = header.replace(b"out_uint8", b"out_fp16") + fp16
    yield "types FP16 into JSON", fp16_out, {"Inference_Header_Content_Length": str(len(header) - 1)}
    words: list[list[Any]] = [[1, 2, 3], ["a", "b", None], ["a", "b"], [["a", "b", "c"]]]
    for data in words:
        yield f"words {data}", encode(tensor("word", "BYTES", [1, WIDTH], data)), {}
