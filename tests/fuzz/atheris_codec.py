"""The codec under atheris: bytes to requests of HTTP and gRPC, heads and chunks. Run by ``atheris.sh``."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import atheris  # type: ignore[import-untyped,unused-ignore]  # has an environment of its own
import numpy as np

with atheris.instrument_imports(
    include=["poise.protocol", "poise.ingress.http_head", "poise.ingress.http_chunks"]
):
    from poise.errors import RequestError
    from poise.ingress.http_chunks import ChunkedBody
    from poise.ingress.http_head import Head, parse_head
    from poise.ingress.limits import Limits
    from poise.protocol.codec import decode_infer
    from poise.protocol.compression import inflate
    from poise.protocol.grpc_codec import infer_request_of, parse_infer

from tests.fuzz.damage import Damage
from tests.fuzz.wire import WIRE

LIMITS = Limits()
MOST_BYTES = 10_000


def json_body(data: bytes) -> None:
    decode_infer(data, None, WIRE)


def binary_body(data: bytes) -> None:
    length = int.from_bytes(data[:2], "little")
    decode_infer(data[2:], length, WIRE)


def message(data: bytes) -> None:
    infer_request_of(parse_infer(data), WIRE)


def head(data: bytes) -> None:
    found = parse_head(memoryview(data), LIMITS)
    if isinstance(found, Head):
        assert found.length is None or found.length >= 0


def chunks(data: bytes) -> None:
    body = ChunkedBody(MOST_BYTES)
    at = 0
    while at < len(data) and not body.complete:
        at = body.feed(data, at, len(data))
    assert len(body.content) <= MOST_BYTES


def gzipped(data: bytes) -> None:
    assert len(inflate("gzip", data, MOST_BYTES)) <= MOST_BYTES


def deflated(data: bytes) -> None:
    assert len(inflate("deflate", data, MOST_BYTES)) <= MOST_BYTES


TARGETS: tuple[Callable[[bytes], None], ...] = (
    json_body,
    binary_body,
    message,
    head,
    chunks,
    gzipped,
    deflated,
)


def one(data: bytes) -> None:
    """Take one input: its first byte says which part it is for. Anything raised but a client's error is a finding."""
    if not data:
        return
    with contextlib.suppress(RequestError):
        TARGETS[data[0] % len(TARGETS)](data[1:])


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """An input like another: by libFuzzer's own ways, or one that begins as a request that is right."""
    damage = Damage(np.random.default_rng(seed))
    if damage.chance(0.7):
        return bytes(atheris.Mutate(data, most))
    body, length = damage.infer_body()
    if length is not None:
        made = b"\x01" + length.to_bytes(2, "little") + body
    else:
        made = b"\x00" + body
    if damage.chance(0.2):
        made = b"\x03" + damage.framed("POST", "/v2", b"").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    return (damage.damaged(made) if damage.chance(0.7) else made)[:most]


def main() -> None:
    setup: Any = atheris.Setup
    setup(sys.argv, one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
