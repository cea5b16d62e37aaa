"""How an item travels to each kind of server: the bytes of a request, and the numbers in its answer.

Each server gets the shortest form that it takes: the Open Inference Protocol with binary tensors, the item's bytes
alone, or base64 in JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from poise.load.connections import Endpoint, Reply

Wire = Literal["binary", "raw", "json", "protocol_json"]
Items = NDArray[np.float32]
Body = tuple[bytes, bytes]
"""Headers that depend on the body, and the body."""

INPUT, OUTPUT = "tokens", "logits"
TYPES: dict[Wire, str] = {
    "binary": "application/octet-stream",
    "raw": "application/octet-stream",
    "json": "application/json",
    "protocol_json": "application/json",
}


def requests(wire: Wire, endpoint: Endpoint, path: str, items: Items) -> list[tuple[bytes, bytes]]:
    """Return the whole request of each item: head and body. Shapes: ``items`` [n, …]."""
    start = (
        f"POST {endpoint.root}{path} HTTP/1.1\r\nHost: {endpoint.host}:{endpoint.port}\r\n"
        f"Content-Type: {TYPES[wire]}\r\n"
    ).encode("latin-1")
    made = []
    for item in items:
        headers, body = _BODY[wire](item)
        made.append((b"%b%bContent-Length: %d\r\n\r\n" % (start, headers, len(body)), body))
    return made


def answer(wire: Wire, reply: Reply) -> NDArray[np.float32]:
    """Return the outputs in an answer to one item.

    Raises:
        ValueError: there are none.
    """
    try:
        if wire == "json":
            content = base64.b64decode(msgspec.json.decode(reply.body, type=list[str])[0], validate=True)
        elif wire == "protocol_json":
            content = base64.b64decode(
                msgspec.json.decode(reply.body)["outputs"][0]["data"][0], validate=True
            )
        elif wire == "binary":
            if reply.header_length is None:
                raise ValueError("no binary tensor in the answer")
            content = reply.body[reply.header_length :]
        else:
            content = reply.body
        return np.frombuffer(content, "<f4")
    except (msgspec.MsgspecError, LookupError, TypeError) as error:
        raise ValueError(f"not an answer: {error}") from None


def _binary(item: Items) -> Body:
    content = item.astype("<f4").tobytes()
    tensor = {
        "name": INPUT,
        "shape": [1, *item.shape],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(content)},
    }
    output = {"name": OUTPUT, "parameters": {"binary_data": True}}
    header = msgspec.json.encode({"inputs": [tensor], "outputs": [output]})
    return b"Inference-Header-Content-Length: %d\r\n" % len(header), header + content


def _raw(item: Items) -> Body:
    return b"", item.astype("<f4").tobytes()


def _json(item: Items) -> Body:
    return b"", msgspec.json.encode({"items": [_base64(item)]})


def _protocol_json(item: Items) -> Body:
    tensor = {"name": INPUT, "shape": [1, 1], "datatype": "BYTES", "data": [_base64(item)]}
    return b"", msgspec.json.encode({"inputs": [tensor]})


def _base64(item: Items) -> str:
    return base64.b64encode(item.astype("<f4").tobytes()).decode()


_BODY: dict[Wire, Callable[[Items], Body]] = {
    "binary": _binary,
    "raw": _raw,
    "json": _json,
    "protocol_json": _protocol_json,
}
