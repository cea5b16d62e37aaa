"""What is said in bare gRPC, where the requests need not be what a client of the kind would write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import numpy as np
from tests.conformance.clients import Clients, Tree
from tests.conformance.conversation import LEFT, RIGHT, VALUES
from tests.conformance.peers import MAX_BATCH, WIDTH
from tritonclient.grpc import service_pb2 as pb

A, B = LEFT[:1].tobytes(), RIGHT[:1].tobytes()
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "UINT64": "uint64_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where each datatype's elements go that are not sent raw."""

Input = tuple[str, str, Sequence[int], dict[str, Any]]
"""Name, datatype, shape, and its contents by field."""


def infer(
    inputs: Iterable[Input], raw: Sequence[bytes] = (), *, outputs: Sequence[str] = (), **more: Any
) -> Any:
    """A request; ``more`` are fields of its message, and ``parameters`` a dict."""
    parameters = more.pop("parameters", {})
    request = pb.ModelInferRequest(**{"model_name": "sums", **more})
    for name, datatype, shape, contents in inputs:
        added = request.inputs.add(name=name, datatype=datatype, shape=shape)
        for field, values in contents.items():
            getattr(added.contents, field).extend(values)
    for name in outputs:
        request.outputs.add(name=name)
    request.raw_input_contents.extend(raw)
    for name, (field, value) in parameters.items():
        setattr(request.parameters[name], field, value)
    return request


def left(shape: Sequence[int] = (1, 4), datatype: str = "FP32", **contents: Any) -> Input:
    """An input of the model ``sums``."""
    return ("left", datatype, shape, contents)


def right(shape: Sequence[int] = (1, 4), **contents: Any) -> Input:
    """The other input of the model ``sums``."""
    return ("right", "FP32", shape, contents)


def hold_grpc(clients: Clients) -> dict[str, Tree]:
    """Say everything and return what was heard."""
    answers: dict[str, Tree] = {}

    def say(said: str, method: str, request: Any, **how: Any) -> None:
        answers[f"bare grpc: {said}"] = clients.grpc(method, request, **how)

    for method in ("ServerLive", "ServerReady", "ServerMetadata"):
        say(method, method, getattr(pb, f"{method}Request")())
    for service in ("", "sums", "nobody"):
        answers[f"bare grpc: Health/Check {service!r}"] = clients.health(service)
    for method in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
        message = getattr(pb, f"{method}Request")
        for name, version in (("sums", "1"), ("sums", "2"), ("sums", "x"), ("nobody", ""), ("", "")):
            # what was counted so far differs, since not all is answered by both: conversation_state counts
            if method != "ModelStatistics" or (name, version) not in (("sums", "1"), ("", "")):
                say(f"{method} {name!r} {version!r}", method, message(name=name, version=version))
    for said, request in (*_answered(), *_refused()):
        say(said, "ModelInfer", request)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        request = infer([left(), right()], [A, B])
        say(f"infer, {compression.name}", "ModelInfer", request, compression=compression)
    say(
        "repository index of another repository",
        "RepositoryIndex",
        pb.RepositoryIndexRequest(repository_name="x"),
    )
    for method in ("TraceSetting", "LogSettings", "SystemSharedMemoryStatus", "CudaSharedMemoryStatus"):
        say(method, method, getattr(pb, f"{method}Request")())
    say("an unknown method", "Nothing", b"")
    say("no message", "ModelInfer", b"\xff\xff\xff")
    return answers


def _answered() -> Iterable[tuple[str, Any]]:
    both = [left(), right()]
    yield "raw", infer(both, [A, B])
    yield "raw with an id", infer(both, [A, B], id="seven")
    yield "raw at version 1", infer(both, [A, B], model_version="1")
    yield "contents", infer([left(fp32_contents=LEFT[0]), right(fp32_contents=RIGHT[0])])
    yield "outputs in another order", infer(both, [A, B], outputs=["difference", "sum"])
    yield "an output twice", infer(both, [A, B], outputs=["sum", "sum"])
    yield "more raw contents than inputs", infer(both, [A, B, A])
    for name, field, value in (
        *(("priority", field, 1) for field in ("int64_param", "uint64_param")),
        ("priority", "int64_param", 9),
        ("timeout", "int64_param", 50_000_000),
        ("timeout", "int64_param", -5),
        ("mine", "string_param", "x"),
        ("mine", "double_param", 1.5),
    ):
        yield f"{name} {value!r} as {field}", infer(both, [A, B], parameters={name: (field, value)})
    contents = [
        (f"in_{name.lower()}", name, [1, WIDTH], {CONTENTS[name]: values})
        for name, values in VALUES.items()
        if name in CONTENTS
    ]
    # There is no field for FP16, and contents and raw contents do not go together: so this one is refused.
    fp16 = ("in_fp16", "FP16", [1, WIDTH], {"fp32_contents": VALUES["FP16"]})
    yield "contents of every datatype, FP16 too", infer([*contents, fp16], model_name="types")
    words = [b"a", b"", b"\xff\x00z"]
    yield (
        "contents of BYTES",
        infer([("word", "BYTES", [1, WIDTH], {"bytes_contents": words})], model_name="words"),
    )
    packed = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    for said, raw in (
        ("BYTES", packed),
        ("BYTES cut short", packed[:-1]),
        ("two of three BYTES", packed[:9]),
        ("four of three BYTES", packed + b"\x01\0\0\0q"),
    ):
        yield said, infer([("word", "BYTES", [1, WIDTH], {})], [raw], model_name="words")
    yield (
        "BF16",
        infer([("short", "BF16", [1, WIDTH], {})], [b"\x80\x3f\x00\x40\x40\x40"], model_name="brief"),
    )


def _refused() -> Iterable[tuple[str, Any]]:
    both = [left(), right()]
    yield "no inputs", infer([])
    yield "an input missing", infer([left()], [A])
    yield "an unknown input", infer([*both, ("more", "FP32", [1, 4], {})], [A, B, A])
    yield "an input twice", infer([left(), left(), right()], [A, A, B])
    yield "an unknown output", infer(both, [A, B], outputs=["product"])
    yield "an unknown model", infer(both, [A, B], model_name="nobody")
    yield "no model", infer(both, [A, B], model_name="")
    for version in ("2", "x"):
        yield f"version {version}", infer(both, [A, B], model_version=version)
    yield "fewer raw contents than inputs", infer(both, [A])
    yield "no contents at all", infer(both)
    full = [left(fp32_contents=LEFT[0]), right(fp32_contents=RIGHT[0])]
    yield "raw and contents", infer(full, [A, B])
    yield "one raw, one contents", infer([left(fp32_contents=LEFT[0]), right()], [B])
    yield "raw cut short", infer(both, [A[:12], B])
    yield "raw with more behind", infer(both, [A + A, B])
    yield "contents of another field", infer([left(int_contents=[1, 2, 3, 4]), full[1]])
    yield "too few contents", infer([left(fp32_contents=[1, 2, 3]), full[1]])
    yield "too many contents", infer([left(fp32_contents=[1, 2, 3, 4, 5]), full[1]])
    for datatype in ("INT32", "FP31", ""):
        yield f"datatype {datatype!r}", infer([left(datatype=datatype), right()], [A, B])
    for shape in ((1, 3), (4,), (2, 4), (-1, 4), (0, 4), (2**62, 4), (1, 4, 1), ()):
        yield f"shape {shape}", infer([left(shape), right()], [A, B])
    wide = (MAX_BATCH + 1, 4)
    many = np.ones(wide, np.float32).tobytes()
    yield "more items than a batch", infer([left(wide), right(wide)], [many, many])
    for name, field, value in (
        ("priority", "int64_param", -1),
        ("priority", "string_param", "x"),
        ("timeout", "string_param", "x"),
    ):
        yield f"{name} {value!r}", infer(both, [A, B], parameters={name: (field, value)})
    shared = infer(both, [A, B])
    shared.inputs[0].parameters["shared_memory_region"].string_param = "x"
    shared.inputs[0].parameters["shared_memory_byte_size"].int64_param = 16
    yield "shared memory", shared
    classified = infer(both, [A, B], outputs=["sum"])
    classified.outputs[0].parameters["classification"].int64_param = 2
    yield "classification", classified
