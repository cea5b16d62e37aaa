"""Damage: requests that were right, and what becomes of them; all by one generator, so by one seed."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

INFER = "/v2/models/tiny/infer"
# not the route that has the server reload: new workers are what it is for
PATHS = (
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/tiny",
    "/v2/models/tiny/versions/1/ready",
    "/v2/models/tiny/config",
    "/v2/models/stats",
    "/v2/models/nix",
    "/metrics",
    "/openapi.json",
    "/v2/repository/index",
    INFER,
)
TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b"\xff",
    b": ",
    b"HTTP/1.1",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Inference-Header-Content-Length: 10\r\n",
    b"0\r\n\r\n",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"NaN",
    b"1e400",
    b"9e-324,",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"9223372036854775807",
    b"%00",
    b"%2f..%2f",
    b"../",
)
NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"255",
    b"1e308",
    b"1e-400",
    b"0.5",
    b"9e-324",
    b"1e23",
    b"1.7976931348623157e308",
    b"2.2250738585072011e-308",
    b"4294967296",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"1" + b"0" * 400,
)
GZIP = b"\x1f\x8b"
_NUMBER = re.compile(rb"\d+")
DATATYPES = {"pixels": "UINT8", "wave": "FP32", "letters": "INT64", "length": "FP32"}
SHAPES: dict[str, list[int]] = {"pixels": [2, 3], "wave": [4], "letters": [2], "length": [1]}
SIZES = {"pixels": 6, "wave": 16, "letters": 16, "length": 4}
SETS = (("pixels",), ("wave",), ("letters", "length"), ("pixels", "wave", "letters", "length"))


class Damage:
    """Makes requests. Every draw is from ``rng``."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one_of(self, values: Sequence[Any]) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def some_bytes(self, most: int) -> bytes:
        return self.rng.bytes(int(self.rng.integers(most)))

    # What is right

    def infer_body(self) -> tuple[bytes, int | None]:
        """A body that the tiny service takes, and the length of its JSON where binary tensors follow."""
        names = self.one_of(SETS)
        items = int(self.rng.integers(1, 4))
        inputs: list[dict[str, Any]] = []
        binary = b""
        for name in names:
            tensor = {"name": name, "datatype": DATATYPES[name], "shape": [items, *SHAPES[name]]}
            count = items * int(np.prod(SHAPES[name]))
            if self.chance(0.5):
                tensor["parameters"] = {"binary_data_size": items * SIZES[name]}
                binary += self.rng.bytes(items * SIZES[name])
            else:
                tensor["data"] = self.rng.integers(0, 9, count).tolist()
            inputs.append(tensor)
        request: dict[str, Any] = {"inputs": inputs}
        if self.chance(0.5):
            request["id"] = self.one_of(("a", "", "ä", "x" * 1000))
            request["parameters"] = {
                "timeout": self.one_of((0, 1, 10**9)),
                "priority": self.one_of((0, 1, 9)),
                "poise_class": self.one_of(("interactive", "bulk")),
            }
            if self.chance(0.5):
                request["parameters"]["poise_accuracy_floor"] = float(self.rng.integers(600)) / 1000
                request["parameters"]["poise_deadline_ms"] = float(10.0 ** self.rng.uniform(0, 5))
            request["outputs"] = [
                {"name": "logits", "parameters": {"binary_data": self.chance(0.5)}},
                {"name": "score"},
            ]
        head = json.dumps(request).encode()
        return head + binary, len(head) if binary else None

    def framed(self, method: str, path: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
        """A request's bytes; its body of known length, in chunks, or compressed."""
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
        if body and self.chance(0.1):
            body = gzip.compress(body, 1) if self.chance(0.5) else zlib.compress(body)
            lines.append(f"Content-Encoding: {'gzip' if body[:2] == GZIP else 'deflate'}")
        if self.chance(0.2):
            lines.append("Accept-Encoding: gzip")
        if body and self.chance(0.2):
            lines.append("Transfer-Encoding: chunked")
            cut = int(self.rng.integers(len(body)))
            pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def right(self) -> bytes:
        """A request that is right, or nearly so."""
        if self.chance(0.6):
            body, length = self.infer_body()
            headers = [] if length is None else [f"Inference-Header-Content-Length: {length}"]
            return self.framed("POST", INFER, body, headers)
        method = self.one_of(("GET", "GET", "GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"))
        return self.framed(method, self.one_of(PATHS), b"{}" if method == "POST" else b"")

    # What is wrong

    def damaged(self, data: bytes) -> bytes:
        """Data with one to four things wrong in it."""
        for _ in range(int(self.rng.integers(1, 5))):
            data = self.one_of(self._ways())(data)
        return data

    def request(self) -> bytes:
        """A request with something wrong: anywhere, in its body alone, or all of it."""
        kind = self.rng.random()
        if kind < 0.2:
            return self.right()
        if kind < 0.25:
            return self.some_bytes(300)
        if kind < 0.5:
            return self.damaged(self.right())
        body, length = self.infer_body()
        if length is not None and self.chance(0.7):  # the JSON alone, its length still true
            header = self.damaged(body[:length])
            body, length = header + body[length:], len(header)
        else:
            body = self.damaged(body)
        headers = [] if length is None else [f"Inference-Header-Content-Length: {length}"]
        return self.framed("POST", INFER, body, headers)

    def _ways(self) -> tuple[Callable[[bytes], bytes], ...]:
        return (self._flip, self._cut, self._double, self._insert, self._insert, self._replace, self._number)

    def _place(self, data: bytes) -> int:
        return int(self.rng.integers(len(data) + 1))

    def _flip(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + bytes([int(self.rng.integers(256))]) + data[at + 1 :]

    def _cut(self, data: bytes) -> bytes:
        begin, end = sorted((self._place(data), self._place(data)))
        return data[:begin] + data[min(end, begin + 40) :]

    def _double(self, data: bytes) -> bytes:
        begin, end = sorted((self._place(data), self._place(data)))
        end = min(end, begin + 200)
        return data[:end] + data[begin:end] + data[end:]

    def _insert(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self.one_of(TOKENS) * int(self.one_of((1, 1, 1, 2, 30))) + data[at:]

    def _replace(self, data: bytes) -> bytes:
        at = self._place(data)
        token = self.one_of(TOKENS)
        return data[:at] + token + data[at + len(token) :]

    def _number(self, data: bytes) -> bytes:
        """Another number in the place of one that is there."""
        found = [match.span() for match in _NUMBER.finditer(data[:2000])]
        if not found:
            return data
        begin, end = self.one_of(found)
        return data[:begin] + self.one_of(NUMBERS) + data[end:]
