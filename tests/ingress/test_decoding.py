"""Large JSON, decoded and encoded in a process of its own: as in this one, and whatever happens to that process."""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from tests.servers import DATATYPES
from tests.tiny import TINY

from poise.errors import InternalError, MalformedRequestError, NotReadyError, QueueFullError, TooLargeError
from poise.files import open_service
from poise.ingress import decoding, inflating
from poise.ingress.decoding import LargeJson, is_large
from poise.ingress.gate import Answered, Gate
from poise.ingress.json_room import (
    Malformed,
    Place,
    Room,
    Told,
    array_at,
    decode_told,
    put,
    take_outcome,
    view,
)
from poise.ingress.limits import Limits
from poise.protocol.answers import NotFiniteError, encode_answer
from poise.protocol.codec import ReplyTerms, decode_infer
from poise.protocol.compression import inflate
from poise.protocol.wire import wire_of
from poise.scheduling.commands import Answer, AnswerPart

WIRE = wire_of(open_service(TINY).service, 1_000_000)
LIMITS = Limits()
ITEMS = 5000


def label(mask: int) -> str:
    return f"set {mask}"


class FakeGate:
    wire = WIRE
    label = staticmethod(label)


GATE = cast(Gate, FakeGate())


def body_of(items: int, **more: object) -> bytes:
    rng = np.random.default_rng(items)
    shapes = {"pixels": (2, 3), "wave": (4,), "letters": (2,), "length": (1,)}
    inputs = [
        {
            "name": name,
            "datatype": DATATYPES[name],
            "shape": [items, *shape],
            "data": rng.integers(0, 200, (items, *shape)).ravel().tolist(),
        }
        for name, shape in shapes.items()
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


BODY = body_of(ITEMS, id="the \u00e9 one", parameters={"poise_class": "bulk", "priority": 3})


def run(test: Callable[[LargeJson], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        large = LargeJson(**{"patience_s": 60.0, **settings})  # the process's start is part of an order
        try:
            await test(large)
        finally:
            await large.stop()
        assert large.pid is None

    asyncio.run(whole())


def same(one: Any, other: Any) -> None:
    assert msgspec.structs.replace(one, tensors=()) == msgspec.structs.replace(other, tensors=())
    assert [tensor.wire for tensor in one.tensors] == [tensor.wire for tensor in other.tensors]
    for mine, its in zip(one.tensors, other.tensors, strict=True):
        assert mine.array.dtype == its.array.dtype
        np.testing.assert_array_equal(mine.array, its.array)


def received(large: LargeJson, body: bytes) -> memoryview:
    room = large.room_for(len(body))
    assert room is not None
    room[:] = body
    return room


def test_a_request_comes_back_as_it_would_here():
    async def test(large: LargeJson) -> None:
        assert large.pid is None  # nothing is started before it is needed
        same(await large.decode(received(large, BODY), None, WIRE, LIMITS), decode_infer(BODY, None, WIRE))
        first = large.pid
        same(await large.decode(bytes(BODY), None, WIRE, LIMITS), decode_infer(BODY, None, WIRE))
        inflated = inflate("gzip", gzip.compress(BODY), len(BODY))
        same(await large.decode(inflated, None, WIRE, LIMITS), decode_infer(BODY, None, WIRE))
        assert large.pid == first

    run(test)


def test_binary_tensors_behind_large_json():
    wave = np.arange(ITEMS * 4, dtype=np.float32).reshape(ITEMS, 4)
    pixels = np.arange(ITEMS * 6).reshape(ITEMS, 6) % 256
    sized = {"binary_data_size": wave.nbytes}
    header = json.dumps(
        {
            "inputs": [
                {"name": "wave", "datatype": "FP32", "shape": wave.shape, "parameters": sized},
                {"name": "pixels", "datatype": "UINT8", "shape": [ITEMS, 2, 3], "data": pixels.ravel().tolist()},
            ]
        }
    ).encode()  # fmt: skip
    body = header + wave.tobytes()

    async def test(large: LargeJson) -> None:
        same(
            await large.decode(received(large, body), len(header), WIRE, LIMITS),
            decode_infer(body, len(header), WIRE),
        )

    run(test)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"[" * 100_000, MalformedRequestError),
        (BODY[:-1], MalformedRequestError),
        (BODY.replace(b'"wave"', b'"tide"'), MalformedRequestError),
        (body_of(1).replace(b"[1, ", b"[1000001, "), TooLargeError),
    ],
)
def test_a_client_is_told_of_its_errors_as_it_would_be_here(body: bytes, error: type[Exception]):
    with pytest.raises(error) as here:
        decode_infer(body, None, WIRE)

    async def test(large: LargeJson) -> None:
        with pytest.raises(error) as there:
            await large.decode(body, None, WIRE, LIMITS)
        assert str(there.value) == str(here.value)
        first = large.pid
        same(await large.decode(BODY, None, WIRE, LIMITS), decode_infer(BODY, None, WIRE))
        assert large.pid == first  # and the process lives on

    run(test)


def answered(items: int, spoil: float = 1.0) -> Answered:
    outputs = {
        "logits": np.random.default_rng(5).normal(size=(items, 5)).astype(np.float32),
        "score": np.full((items, 1), spoil, np.float32),
    }
    parts = (AnswerPart(0, items - 1, 3, "late"), AnswerPart(items - 1, 1, 7, "whole"))
    return Answered(Answer(1, parts, 0.9, 0.01, 0.02, False), outputs)


@pytest.mark.parametrize("outputs", [(("logits", False),), (("score", True), ("logits", False))])
def test_an_answer_is_what_it_would_be_here(outputs: tuple[tuple[str, bool], ...]):
    terms = ReplyTerms('an "id" \u00e9', outputs, own_terms=False)
    one = answered(3000)
    expected, _ = encode_answer(terms, one.answer, one.outputs, WIRE, label)
    assert is_large(terms, one.outputs)
    assert not is_large(terms, answered(1600).outputs)

    async def test(large: LargeJson) -> None:
        assert b"".join(await large.encode(terms, one, GATE)) == b"".join(expected)
        with pytest.raises(NotFiniteError, match="score"):
            both = ReplyTerms(None, (("score", False),), own_terms=False)
            await large.encode(both, answered(10, np.inf), GATE)

    run(test)


async def stopped(large: LargeJson) -> int:
    """The process's id, once it is stopped."""
    await large.decode(BODY, None, WIRE, LIMITS)
    assert large.pid is not None
    os.kill(large.pid, signal.SIGSTOP)
    return large.pid


def test_a_process_that_dies_costs_what_it_had_and_the_rest_go_on():
    async def test(large: LargeJson) -> None:
        pid = await stopped(large)
        jobs = [asyncio.ensure_future(large.decode(BODY, None, WIRE, LIMITS)) for _ in range(3)]
        while not large._waiting:
            await asyncio.sleep(0.001)  # the bodies are copied by threads: any of them may be the first
        os.kill(pid, signal.SIGKILL)
        results = await asyncio.gather(*jobs, return_exceptions=True)
        others = [result for result in results if not isinstance(result, NotReadyError)]
        assert len(others) == 2
        for other in others:
            same(other, decode_infer(BODY, None, WIRE))
        assert large.pid != pid

    run(test)


def test_a_process_that_hangs_is_ended():
    async def test(large: LargeJson) -> None:
        pid = await stopped(large)
        patience_s, large._patience_s = large._patience_s, 0.2
        with pytest.raises(NotReadyError):
            await large.decode(BODY, None, WIRE, LIMITS)
        large._patience_s = patience_s
        same(await large.decode(BODY, None, WIRE, LIMITS), decode_infer(BODY, None, WIRE))
        assert large.pid != pid

    run(test)


@pytest.mark.parametrize(
    "garbage",
    [
        lambda told: Told(told.number + 1, told.place),
        lambda told: Told(told.number, Place(10**12, 5)),
        lambda told: Told(told.number, Place(-5, 5)),
        lambda told: Told(told.number, Place(0, 100)),
        lambda told: Told(told.number, Place(100, 10**12)),
    ],
)
def test_garbage_costs_one_request(monkeypatch, garbage):
    honest = decode_told

    async def test(large: LargeJson) -> None:
        monkeypatch.setattr(decoding, "decode_told", lambda data: garbage(honest(data)))
        with pytest.raises(NotReadyError):
            await large.decode(BODY, None, WIRE, LIMITS)
        monkeypatch.setattr(decoding, "decode_told", honest)
        same(await large.decode(BODY, None, WIRE, LIMITS), decode_infer(BODY, None, WIRE))

    run(test)


def test_more_than_may_wait_is_refused():
    async def test(large: LargeJson) -> None:
        pid = await stopped(large)
        bodies = [received(large, BODY) for _ in range(4)]
        jobs = [asyncio.ensure_future(large.decode(body, None, WIRE, LIMITS)) for body in bodies]
        found, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
        assert [type(job.exception()) for job in found] == [QueueFullError]
        os.kill(pid, signal.SIGCONT)
        assert (
            sum(isinstance(each, Exception) for each in await asyncio.gather(*jobs, return_exceptions=True))
            == 1
        )

    run(test, max_waiting=2)  # fmt: skip


def test_a_client_that_leaves_is_not_decoded_for(monkeypatch):
    monkeypatch.setattr(decoding, "GIVEN_UP_S", 60.0)

    async def test(large: LargeJson) -> None:
        pid = await stopped(large)
        first, second = (
            asyncio.ensure_future(large.decode(received(large, BODY), None, WIRE, LIMITS)) for _ in range(2)
        )
        while not large._waiting:
            await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await second
        os.kill(pid, signal.SIGCONT)
        same(await large.decode(BODY, None, WIRE, LIMITS), decode_infer(BODY, None, WIRE))
        assert large._waiting_bytes == 0
        assert large._next == 3 + 1  # numbers are given as work is queued
        assert large.pid == pid

    run(test)


def test_one_whose_client_leaves_does_not_keep_the_others_waiting(monkeypatch):
    monkeypatch.setattr(decoding, "GIVEN_UP_S", 0.1)

    async def test(large: LargeJson) -> None:
        pid = await stopped(large)
        first = asyncio.ensure_future(large.decode(received(large, BODY), None, WIRE, LIMITS))
        second = asyncio.ensure_future(large.decode(received(large, BODY), None, WIRE, LIMITS))
        while not large._waiting:
            await asyncio.sleep(0)
        first.cancel()
        same(await asyncio.wait_for(second, 20), decode_infer(BODY, None, WIRE))
        assert large.pid != pid

    run(test, patience_s=1e6)


def test_what_is_copied_counts_as_waiting(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_WAITING_BYTES", 2 * len(BODY))

    async def test(large: LargeJson) -> None:
        jobs = [large.decode(bytes(BODY), None, WIRE, LIMITS) for _ in range(6)]
        found = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(each) for each in found[2:]] == [QueueFullError] * 4
        for each in found[:2]:
            same(each, decode_infer(BODY, None, WIRE))
        assert large._waiting_bytes == 0

    run(test)


def test_what_waits_as_the_server_stops_is_refused():
    async def test(large: LargeJson) -> None:
        await stopped(large)
        jobs = [
            asyncio.ensure_future(large.decode(received(large, BODY), None, WIRE, LIMITS)) for _ in range(2)
        ]
        while not large._waiting:
            await asyncio.sleep(0)
        await large.stop()
        for job in jobs:
            with pytest.raises(NotReadyError):
                await job
        with pytest.raises(NotReadyError):
            await large.decode(BODY, None, WIRE, LIMITS)

    run(test)


def test_a_room_and_its_file_go_with_the_last_that_refers_to_it():
    room = Room(1 << 20)
    fd, inode = room.fd, os.fstat(room.fd).st_ino
    array = array_at(room, 64, (3, 4), np.dtype(np.float32))
    del room
    array[...] = 5
    assert os.fstat(fd).st_ino == inode
    del array
    assert not refers_to(fd, inode)


def refers_to(fd: int, inode: int) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


@pytest.mark.parametrize("encoded", [False, True])
def test_what_a_client_that_left_had_sent_is_written_to_no_other_file(monkeypatch, encoded: bool):
    """A thread that is about to write has its room for itself, even where nobody waits for it any more."""
    module = inflating if encoded else decoding
    name = "_piece_to" if encoded else "_write"
    write, begun, go_on, wrote = (
        getattr(module, name),
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )

    def slowly(*arguments: Any) -> Any:
        begun.set()
        go_on.wait()
        try:
            return write(*arguments)
        finally:
            wrote.set()

    monkeypatch.setattr(module, name, slowly)

    async def test(large: LargeJson) -> None:
        coming: Coroutine[Any, Any, object]
        if encoded:
            coming = inflating.Inflating(large).inflated(
                "gzip", gzip.compress(b"x" * 3_000_000), 2**22, inflating.Share(None)
            )
        else:
            coming = large.decode(BODY, None, WIRE, LIMITS)
        job = asyncio.ensure_future(coming)
        while not begun.is_set():
            await asyncio.sleep(0.001)
        job.cancel()
        await asyncio.wait([job])
        del job, coming
        rooms = [Room(2**22) for _ in range(16)]  # every number that is free is somebody else's now
        go_on.set()
        while not wrote.is_set():
            await asyncio.sleep(0.001)
        assert not any(room[:].strip(b"\0") for room in rooms)

    run(test)


def test_what_is_not_in_a_room_is_not_read():
    room = Room(4096)
    for place in (Place(-1, 2), Place(0, -1), Place(4000, 97), Place(10**18, 0)):
        with pytest.raises(InternalError):
            view(room, place)
    with pytest.raises(InternalError):
        array_at(room, 0, (-1, 5), np.dtype(np.uint8))
    with pytest.raises(InternalError):
        take_outcome(room, Place(0, 100))
    with pytest.raises(InternalError):
        put(room, 4090, Malformed("too long for what is left"))
    with pytest.raises(InternalError):
        decode_told(b"\xc1")
