"""What a client sent last may speed up what it sends next, and change nothing of it."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.protocol.test_codec import TINY_WIRE, TYPES_WIRE, requests

from poise.errors import RequestError
from poise.ingress.http_head import REMEMBERED_BYTES, Head, Heads, parse_head
from poise.ingress.limits import Limits
from poise.ingress.routes import Reply
from poise.protocol import layouts
from poise.protocol.codec import Body, InferRequest, decode_infer
from poise.protocol.layouts import Layouts
from poise.protocol.wire import ServiceWire


def decoded(client: Layouts, body: Body, length: int | None, wire: ServiceWire = TINY_WIRE) -> InferRequest:
    return client.decode(body, length, wire, json_depth=16, most_tensors=64)


def told(request: InferRequest) -> tuple[Any, ...]:
    """All that a request says, in a form that can be compared."""
    tensors = [(t.wire, t.array.shape, t.array.dtype, t.array.tobytes()) for t in request.tensors]
    return tensors, msgspec.structs.replace(request, tensors=())


def outcome(decode: Any, *given: Any) -> Any:
    try:
        return told(decode(*given))
    except RequestError as error:
        return type(error), error.message


def binary_request(fill: float, items: int = 1, **more: object) -> tuple[bytes, int]:
    """A request to the tiny service whose tensors are all binary."""
    inputs, tensors = [], b""
    for spec in TINY_WIRE.inputs.values():
        array = np.full((items, *spec.shape), fill, spec.dtype)
        size = {"binary_data_size": array.nbytes}
        inputs.append(
            {"name": spec.name, "datatype": spec.datatype, "shape": array.shape, "parameters": size}
        )
        tensors += array.tobytes()
    text = json.dumps({"inputs": inputs, **more}).encode()
    return text + tensors, len(text)


@settings(suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])  # two requests are much
@given(st.lists(requests(), min_size=1, max_size=2), st.data())
def test_every_request_says_what_it_says_by_itself(sent, data):
    client = Layouts()
    for _ in range(6):
        body, length, _ = data.draw(st.sampled_from(sent))
        changed = bytearray(body)
        if data.draw(st.booleans()):  # mostly other tensors behind the same JSON
            from_ = data.draw(st.sampled_from([0, length or 0]))
            at = data.draw(st.integers(min(from_, len(body) - 1), len(body) - 1))
            changed[at] = data.draw(st.integers(0, 255))
        if data.draw(st.integers(0, 5)) == 0:
            del changed[data.draw(st.integers(0, len(changed))) :]
        now = outcome(decoded, client, changed, length, TYPES_WIRE)
        assert now == outcome(decode_infer, changed, length, TYPES_WIRE)


def test_the_same_json_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*given: Any, **more: Any) -> InferRequest:
        nonlocal calls
        calls += 1
        return decode_infer(*given, **more)

    monkeypatch.setattr(layouts, "decode_infer", counted)
    client = Layouts()
    for fill in (1.0, 2.0, 3.0):
        body, length = binary_request(fill)
        request = decoded(client, body, length)
        assert all((tensor.array == fill).all() for tensor in request.tensors)
        assert told(request) == told(decode_infer(body, length, TINY_WIRE))
    assert calls == 1
    for number in range(100):  # ids that grow longer
        body, length = binary_request(number, id=f"{2**number}")
        assert told(decoded(client, body, length)) == told(decode_infer(body, length, TINY_WIRE))
    assert calls == 2
    decoded(client, *binary_request(1.0, 2))
    decoded(Layouts(), *binary_request(1.0, 2))
    assert calls == 4, "one client's requests say nothing of another's"


def test_a_client_that_never_repeats_itself_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = 0
    inner = layouts._layout_of

    def counted(*given: Any) -> Any:
        nonlocal remembered
        remembered += 1
        return inner(*given)

    monkeypatch.setattr(layouts, "_layout_of", counted)
    client = Layouts()
    for number in range(10 * layouts.TRIES):
        decoded(client, *binary_request(1.0, unknown=number))
    assert remembered == layouts.TRIES + 9
    for _ in range(layouts.TRIES + 1):  # and one that does so from now on is found out soon
        decoded(client, *binary_request(1.0, unknown="now"))
    assert remembered == layouts.TRIES + 10
    assert client._missed == 0


TRICKY = [
    '"id":"a"',
    '"id": "b-2"',
    '"id":""',
    '"id":null',
    '"id":"a\\"b"',
    '"id":"\\u0061"',
    '"id":"a","id":"b"',
    '"id":"a","\\u0069d":"b"',
    '"\\u0069d":"b","id":"a"',
    '"parameters":{"id":"a"}',
    '"parameters":{"id":"c"}',
    '"unknown":["\\"id\\":\\"a\\""]',
    '"unknown":"id\\":\\"a"',
    '"id":"a","unknown":{"id":"a"}',
    '"id":"a","unknown":{"id":3}',
    '"id":"~"',
    '"id":"~","unknown":{"id":"a"}',
    '"id":"~","unknown":{"id":"b"}',
    '"unknown":{"id":"b"},"id":"~"',
    '"unknown":{"id":"c"},"id":"~"',
    '"id":"\\u007e","unknown":{"id":"a"}',
    '"id":"a","id":"~"',
    '"id":"b","id":"~"',
    '"id":"b","unknown":{"id":"a"}',
    '"id":"' + "a" * 100 + '"',
    '"id":"' + "a" * 101 + '"',
    '"id":"' + "a" * 1001 + '"',
    '"id":"a}"',
    '"id":a',
    '"id":"a',
]
"""What stands behind the inputs, with and without an id that can be told."""


@given(st.lists(st.sampled_from(TRICKY), max_size=8), st.data())
def test_an_id_is_its_requests_own(told_by, data):
    client = Layouts()
    body, length = binary_request(1.0)
    for more in told_by:
        text = body[: length - 1] + b"," + more.encode() + b"}"
        if data.draw(st.integers(0, 5)) == 0:
            text = text[: data.draw(st.integers(0, len(text)))]
        given = text + body[length:], len(text), TINY_WIRE
        now = outcome(decoded, client, *given)
        assert now == outcome(decode_infer, *given)


def test_another_service_is_another_matter() -> None:
    body, length = binary_request(1.0, parameters={"poise_class": TINY_WIRE.default_class})
    client = Layouts()
    decoded(client, body, length)
    without = msgspec.structs.replace(TINY_WIRE, classes={}, default_class="")
    with pytest.raises(RequestError, match="poise_class"):
        decoded(client, body, length, without)


def test_what_is_not_all_there_is_refused_however_often_it_was_there() -> None:
    body, length = binary_request(1.0)
    client = Layouts()
    for _ in range(2):
        decoded(client, body, length)
        for other in (body[:-1], body + b"x", body[:length]):
            with pytest.raises(RequestError, match="bytes of binary data"):
                decoded(client, other, length)


def test_what_is_remembered_does_not_grow_with_the_items() -> None:
    items, client = 100, Layouts()
    data = np.arange(items * 5 * 2, dtype=np.float32).tobytes()
    tensor = {"name": "free", "datatype": "FP32", "shape": [items, 5, 2]}
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}]}).encode()
    for _ in range(2):
        request = decoded(client, text + data, len(text), TYPES_WIRE)
        assert told(request) == told(decode_infer(text + data, len(text), TYPES_WIRE))
    assert client._last is not None
    assert [length for _, length in client._last.lengths] == [5]
    assert client._last.request.tensors == ()


def test_long_json_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Layouts()
    decoded(client, *binary_request(1.0, unknown="x" * layouts.REMEMBERED_BYTES))
    assert client._last is None


HEAD = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n%b\r\n"


def said(head: Head | Reply) -> dict[str, object]:
    return {name: getattr(head, name) for name in head.__slots__}


@given(
    st.lists(
        st.sampled_from(
            [
                HEAD % (1, b""),
                HEAD % (2, b""),
                HEAD % (1, b"Connection: close\r\n"),
                HEAD % (1, b"Transfer-Encoding: chunked\r\n"),
                HEAD % (1, b"X: 1\r\nX: 2\r\n"),
                HEAD % (1, b"Host: b\r\n"),
                HEAD % (1, b"X: %b\r\n" % (b"x" * REMEMBERED_BYTES)),
                b"GET /v2 HTTP/1.0\r\n\r\n",
                b"GET /v2\r\n\r\n",
            ]
        ),
        max_size=12,
    ),
    st.integers(0, 3),
)
def test_every_head_says_what_it_says_by_itself(heads, before):
    reader = Heads(Limits())
    for head in heads:
        data = bytearray(b"." * before + head + b"tensors")
        found = reader.read(data, before, before + len(head))
        assert said(found) == said(parse_head(memoryview(head), Limits()))


def test_the_same_head_is_read_once() -> None:
    reader, head = Heads(Limits()), HEAD % (1, b"")
    first = reader.read(head, 0, len(head))
    assert reader.read(head, 0, len(head)) is first
    other = HEAD % (2, b"")
    assert reader.read(other, 0, len(other)) is not first
    long = HEAD % (1, b"X: %b\r\n" % (b"x" * REMEMBERED_BYTES))
    assert reader.read(long, 0, len(long)) is not reader.read(long, 0, len(long))
