"""Requests that are taken in over several turns of the event loop: the gate may be another when they are read."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from tests.ingress.test_decoding import BODY, ITEMS, WIRE, body_of, stopped

from poise.domain.job import Job, RefusalReason
from poise.errors import ForbiddenError, NotReadyError
from poise.ingress import http_infer
from poise.ingress.decoding import LargeJson
from poise.ingress.gate import Answered, Gate, Gates, Outcome, PendingJob, Refused
from poise.ingress.guard import Identity
from poise.ingress.http_infer import Inference, LaterAnswer
from poise.ingress.limits import Limits
from poise.ingress.routes import HttpRequest, Reply
from poise.ingress.slices import SLICE_BYTES, copy_in_slices
from poise.protocol.requests import InferRequest, ReplyTerms
from poise.protocol.wire import ServiceWire
from poise.scheduling.commands import Answer, AnswerPart

DRAINING = Refused(RefusalReason.DRAINING, "the server is draining")
OUTPUTS = {"logits": np.ones((ITEMS, 5), np.float32), "score": np.ones((ITEMS, 1), np.float32)}


class FakeGate:
    """Answers or refuses each request as it is told to, and keeps what it was given."""

    ready, draining = True, False

    def __init__(
        self, wire: ServiceWire, *outcomes: Outcome, meanwhile: Callable[[], object] | None = None
    ) -> None:
        self.wire = wire
        self.requests: list[InferRequest] = []
        self._outcomes = list(outcomes)
        self._meanwhile = meanwhile

    def label(self, mask: int) -> str:
        return str(mask)

    def cancel(self, pending: PendingJob) -> None:
        pass

    async def admit_in_slices(self, request: InferRequest) -> PendingJob | Refused:
        self.requests.append(request)
        if self._meanwhile is not None:
            self._meanwhile()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Refused):
            return outcome
        job = Job(
            id=1, slo_class=request.slo_class, items=request.items, arrival_s=0.0, deadline_s=1.0,
            accuracy_floor=0.0, available=request.available, priority=0,
        )  # fmt: skip
        pending = PendingJob(job, 0)
        pending.settle(outcome)
        return pending


def answered(items: int) -> Answered:
    outputs = {name: array[:items] for name, array in OUTPUTS.items()}
    parts = (AnswerPart(0, items, 7, "late"),)
    return Answered(Answer(1, parts, 0.9, 0.0, 0.1, False), outputs)


def post(
    gates: Gates, gate: FakeGate, body: bytes, identity: Identity | None = None, **headers: bytes
) -> Any:
    """The reply to a request, or what it raises."""

    async def run() -> Any:
        large = LargeJson(patience_s=60.0)
        inference = Inference(gates, Limits(), large)
        names = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        request = HttpRequest("POST", b"/v2/models/tiny/infer", names)
        if identity is not None:
            request.identity = identity
        room = large.room_for(len(body))
        assert room is not None
        room[:] = body
        request.body, request.owned = room, True
        try:
            coming = inference.infer(request, cast(Gate, gate))
            return await cast(Any, coming)
        finally:
            await large.stop()

    return asyncio.run(run())


def gates_of(gate: FakeGate) -> Gates:
    return Gates({"tiny": cast(Gate, gate)})


def data_of(reply: Reply, at: int = 0) -> list[float]:
    return json.loads(b"".join(reply.body))["outputs"][at]["data"]


@pytest.mark.parametrize("encoded", [False, True])
def test_a_large_request_and_a_large_answer(encoded: bool) -> None:
    gate = FakeGate(WIRE, answered(ITEMS))
    headers: Any = {"content_encoding": b"gzip"} if encoded else {}
    reply = post(gates_of(gate), gate, gzip.compress(BODY) if encoded else BODY, **headers)
    assert reply.status == 200
    assert data_of(reply) == [1.0] * (5 * ITEMS)
    (request,) = gate.requests
    assert request.items == ITEMS
    # What it took to read it is the job's own time.
    assert 0 < request.deadline_s < WIRE.classes["bulk"].latency_slo_s


def test_a_compressed_answer_says_what_it_depends_on() -> None:
    gate = FakeGate(WIRE, answered(ITEMS))
    reply = post(gates_of(gate), gate, BODY, accept_encoding=b"gzip")
    assert {(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")} < set(reply.headers)


def test_a_gate_of_the_same_tensors_takes_what_the_last_one_would_not() -> None:
    after = FakeGate(WIRE, answered(2))
    before = FakeGate(WIRE, DRAINING, meanwhile=lambda: gates.replace({"tiny": cast(Gate, after)}))
    gates = gates_of(before)
    assert post(gates, before, BODY).status == 200
    assert len(before.requests) == len(after.requests) == 1
    np.testing.assert_array_equal(after.requests[0].tensors[1].array, before.requests[0].tensors[1].array)


def test_a_gate_of_other_tensors_has_the_request_read_again() -> None:
    other = msgspec.structs.replace(WIRE, max_items=ITEMS + 1)
    after = FakeGate(other, answered(2))
    before = FakeGate(WIRE, DRAINING, meanwhile=lambda: gates.replace({"tiny": cast(Gate, after)}))
    gates = gates_of(before)
    assert post(gates, before, BODY).status == 200
    np.testing.assert_array_equal(after.requests[0].tensors[1].array, before.requests[0].tensors[1].array)


def test_a_gate_that_drains_and_is_not_replaced_refuses() -> None:
    gate = FakeGate(WIRE, DRAINING)
    assert post(gates_of(gate), gate, BODY).status == 503


def test_a_token_of_another_class_is_refused() -> None:
    gate = FakeGate(WIRE, answered(2))
    with pytest.raises(ForbiddenError):
        post(gates_of(gate), gate, BODY, Identity("t", frozenset({"interactive"})))
    assert not gate.requests


def test_an_answer_whose_json_cannot_be_made_is_an_error(monkeypatch) -> None:
    async def lost(*_: object) -> None:
        raise NotReadyError("gone")

    monkeypatch.setattr(LargeJson, "encode", lost)
    gate = FakeGate(WIRE, answered(ITEMS))
    assert post(gates_of(gate), gate, BODY).status == 503


def test_who_leaves_has_no_large_answer_written() -> None:
    """Neither one that waits for its turn, nor the one that is being written, which has a second more at the most."""

    async def run() -> None:
        large = LargeJson(patience_s=60.0)
        inference = Inference(Gates({}), Limits(), large)
        gate = cast(Gate, FakeGate(WIRE))
        terms = ReplyTerms(None, (("logits", False),), own_terms=False)
        try:
            await stopped(large)
            pending = [PendingJob(Job(n, "default", ITEMS, 0.0, 1.0, 0.0, 7, 0), 0) for n in (1, 2)]
            later = [LaterAnswer(inference, gate, one, terms, None) for one in pending]
            replies: list[Reply] = []
            for one, job in zip(later, pending, strict=True):
                one.when_ready = replies.append
                job.settle(answered(ITEMS))
            while not large._waiting:
                await asyncio.sleep(0.001)  # the outputs are copied by threads
            for one in later:
                one.cancel()
            async with asyncio.timeout(20):
                while large.pid is not None:
                    await asyncio.sleep(0.001)
            assert not large._waiting
            assert not replies
        finally:
            await large.stop()

    asyncio.run(run())


@pytest.mark.parametrize("encoded", [False, True])
def test_many_exponents_are_not_read_on_the_event_loop(monkeypatch, encoded: bool) -> None:
    monkeypatch.setattr(http_infer, "decode_infer", lambda *_, **__: pytest.fail("read on the event loop"))
    gate = FakeGate(WIRE, answered(2))
    wave = {"name": "wave", "datatype": "FP32", "shape": [600, 4], "data": [1e-45] * 2400}
    body = json.dumps({"inputs": [wave]}).encode()
    headers: Any = {"content_encoding": b"gzip"} if encoded else {}
    assert post(gates_of(gate), gate, gzip.compress(body) if encoded else body, **headers).status == 200
    assert (gate.requests[0].tensors[0].array == np.float32(1e-45)).all()


def test_one_that_is_small_when_inflated_is_read_here() -> None:
    gate = FakeGate(WIRE, answered(2))
    assert post(gates_of(gate), gate, gzip.compress(body_of(2)), content_encoding=b"gzip").status == 200
    assert gate.requests[0].items == 2


@pytest.mark.parametrize("shape", [(3,), (1, 700_000), (700_000, 1), (40, 300, 100), (2, 3, 400_000)])
@pytest.mark.parametrize("strided", [False, True])
def test_what_is_copied_in_slices_is_all_there(shape: tuple[int, ...], strided: bool) -> None:
    source = np.random.default_rng(3).random(shape)
    room = np.zeros((*shape[:-1], shape[-1] + strided))
    target = room[..., : shape[-1]]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        counting = asyncio.ensure_future(count())
        await copy_in_slices(target, source)
        counting.cancel()

    asyncio.run(run())
    np.testing.assert_array_equal(target, source)
    assert turns >= source.nbytes // SLICE_BYTES  # others had their turn as often as that
