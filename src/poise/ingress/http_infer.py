"""Inference over HTTP: from a request's body to a job, and from its outcome to a reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from poise.domain.job import RefusalReason
from poise.errors import InternalError, MalformedRequestError, RequestError
from poise.ingress.decoding import LARGE_JSON_BYTES, LargeJson, is_large
from poise.ingress.gate import Answered, Gate, Gates, Outcome, PendingJob, Refused, outcome_of
from poise.ingress.guard import Identity, check_class
from poise.ingress.inflating import Bodies, Inflating, Share
from poise.ingress.limits import Limits
from poise.ingress.routes import BINARY, JSON, Bytes, HttpRequest, Later, Reply, error_reply, reply_to
from poise.ingress.trace import RequestTrace
from poise.protocol import status
from poise.protocol.answers import NotFiniteError, encode_answer
from poise.protocol.codec import InferRequest, ReplyTerms, decode_infer, shown
from poise.protocol.compression import Encoding, accepted_encoding, deflate, encoding_of
from poise.protocol.json_tensors import MANY_EXPONENTS, is_costly
from poise.protocol.layouts import CONVERTED
from poise.protocol.wire import ServiceWire

COMPRESSED_AT_LEAST_BYTES = 1024
"""Replies below go out as they are, whatever the client accepts."""
INLINE_BYTES = 64 * 2**10
"""What is larger is compressed in a thread, so that others need not wait for it."""
LARGE_BODY_BYTES = 2**20
"""The tensors of larger bodies are copied into the arena a slice at a time."""
EXPONENTS_FROM_BYTES = 4 * MANY_EXPONENTS
"""Shorter JSON has no room for so many."""
SHORTEST_S = 1e-6
"""What a job has left to its deadline where decoding it took longer."""

log = logging.getLogger(__name__)


class Inference:
    """Answers inference requests. Large JSON is decoded and encoded by ``large_json``."""

    def __init__(self, gates: Gates, limits: Limits, large_json: LargeJson) -> None:
        self._gates = gates
        self._limits = limits
        self.large_json = large_json
        self.bodies: Bodies | None = None
        """Where what bodies inflate to is counted."""
        self._inflating = Inflating(large_json)

    def infer(self, request: HttpRequest, gate: Gate) -> Reply | Later | Coroutine[Any, Any, Reply]:
        """Answer an inference request.

        Raises:
            RequestError: it cannot be taken in as it is.
        """
        headers = request.headers
        given = headers.get(b"inference-header-content-length")
        header_length = None if given is None else _number(given, "Inference-Header-Content-Length")
        encoding = encoding_of(headers.get(b"content-encoding"))
        accepted = accepted_encoding(headers.get(b"accept-encoding"))
        body = request.body
        json_length = len(body) if header_length is None else header_length
        if encoding is not None or len(body) > LARGE_BODY_BYTES or _takes_long(body, json_length):
            owned = body if request.owned else bytes(body)
            return self._infer_slowly(
                request.identity, request.trace, encoding, owned, header_length, gate, accepted
            )
        pending, terms = _admit(request, header_length, gate, self._limits)
        self._gates.taken(gate, pending, terms.id, request.identity.name)
        if request.trace is not None:
            request.trace.taken(gate, pending)
        if isinstance(pending, Refused):
            return reply_of(gate, pending, terms)
        if pending.outcome is not None:
            return reply_of(gate, pending.outcome, terms)
        return LaterAnswer(self, gate, pending, terms, accepted)

    async def reply_slowly(self, gate: Gate, outcome: Outcome | InternalError, terms: ReplyTerms) -> Reply:
        """Return the reply of an outcome; large JSON in it is encoded elsewhere."""
        if not isinstance(outcome, Answered) or not is_large(terms, outcome.outputs):
            return reply_of(gate, outcome, terms)
        try:
            body = await self.large_json.encode(terms, outcome, gate)
        except NotFiniteError as error:
            return error_reply(status.NOT_IN_JSON, str(error))
        except RequestError as error:
            return reply_to(error)
        except InternalError:
            return error_reply(status.INTERNAL, status.GENERIC)
        return _answer_reply(body, len(body[0]) if len(body) > 1 else None)

    async def _infer_slowly(
        self,
        identity: Identity,
        trace: RequestTrace | None,
        encoding: Encoding | None,
        body: Bytes,
        header_length: int | None,
        gate: Gate,
        accepted: Encoding | None,
    ) -> Reply:
        """Answer a request that would keep the event loop for too long, if it were taken in at once."""
        begin_s = asyncio.get_running_loop().time()
        share = Share(self.bodies)
        try:
            if encoding is not None:
                body = await self._inflating.inflated(encoding, body, self._limits.body_bytes, share)
            gate, pending, terms = await self._admit_slowly(identity, body, header_length, gate, begin_s)
        finally:
            body = b""  # a job that waits holds nothing of it any more
            share.shrink()
        if trace is not None:
            trace.taken(gate, pending)
        outcome = pending if isinstance(pending, Refused) else await outcome_of(gate, pending)
        reply = await self.reply_slowly(gate, outcome, terms)
        return reply if accepted is None else await compressed(reply, accepted)

    async def _admit_slowly(
        self, identity: Identity, body: Bytes, header_length: int | None, gate: Gate, begin_s: float
    ) -> tuple[Gate, PendingJob | Refused, ReplyTerms]:
        """Take a job in, at the gate that is there when it is decoded: there may be another by then.

        The time that all this takes is the job's own.
        """
        wire = gate.wire
        json_length = len(body) if header_length is None else header_length
        request: InferRequest | None = None
        while True:
            if request is not None:
                pass  # the gate was replaced by one of the same tensors
            elif _takes_long(body, json_length):
                request = await self.large_json.decode(body, header_length, wire, self._limits)
            elif len(body) > LARGE_BODY_BYTES and not CONVERTED.isdisjoint(
                spec.datatype for spec in wire.inputs.values()
            ):
                request = await asyncio.to_thread(decode, body, header_length, wire, self._limits)
            else:
                request = decode(body, header_length, wire, self._limits)
            check_class(identity, request.slo_class)
            gate = self._gates.get(wire.name) or gate
            if gate.wire != wire:
                wire, request = gate.wire, None
                continue
            taken_s = asyncio.get_running_loop().time() - begin_s
            left_s = max(request.deadline_s - taken_s, SHORTEST_S)
            pending = await gate.admit_in_slices(msgspec.structs.replace(request, deadline_s=left_s))
            drained = isinstance(pending, Refused) and pending.reason is RefusalReason.DRAINING
            if not drained or (self._gates.get(wire.name) or gate) is gate:
                self._gates.taken(gate, pending, request.reply.id, identity.name)
                return gate, pending, request.reply


class LaterAnswer:
    """The reply of a job that waits."""

    __slots__ = ("_accepted", "_coming", "_gate", "_inference", "_pending", "_terms", "when_ready")

    def __init__(
        self,
        inference: Inference,
        gate: Gate,
        pending: PendingJob,
        terms: ReplyTerms,
        accepted: Encoding | None,
    ) -> None:
        self._inference = inference
        self._gate = gate
        self._pending = pending
        self._terms = terms
        self._accepted = accepted
        self._coming: asyncio.Future[Reply] | None = None
        self.when_ready: Callable[[Reply], None] | None = None
        pending.when_settled = self._settled

    def cancel(self) -> None:
        """Give the job up, or the writing of its answer: its client is gone."""
        self._pending.when_settled = None
        self.when_ready = None
        if self._coming is not None:
            self._coming.cancel()
        self._gate.cancel(self._pending)

    def _settled(self, pending: PendingJob) -> None:
        outcome = pending.outcome
        assert outcome is not None
        try:
            coming = self._reply_of(outcome)
        except Exception:  # whoever settles the job has others to settle, and this client waits
            log.exception("an answer could not be written")
            coming = error_reply(status.INTERNAL, status.GENERIC)
        if isinstance(coming, Reply):
            self._send(coming)
        else:
            self._coming = asyncio.ensure_future(coming)
            self._coming.add_done_callback(self._came)

    def _reply_of(self, outcome: Outcome | InternalError) -> Reply | Coroutine[Any, Any, Reply]:
        if isinstance(outcome, Answered) and is_large(self._terms, outcome.outputs):
            return self._reply_slowly(outcome)
        reply = reply_of(self._gate, outcome, self._terms)
        if self._accepted is not None and _worth_a_thread(reply):
            return compressed(reply, self._accepted)
        return _compressed_at_once(reply, self._accepted)

    async def _reply_slowly(self, outcome: Outcome) -> Reply:
        reply = await self._inference.reply_slowly(self._gate, outcome, self._terms)
        return reply if self._accepted is None else await compressed(reply, self._accepted)

    def _came(self, coming: asyncio.Future[Reply]) -> None:
        self._coming = None
        if not coming.cancelled():
            error = coming.exception()
            if error is not None:
                log.error("an answer could not be written", exc_info=error)
            self._send(coming.result() if error is None else error_reply(status.INTERNAL, status.GENERIC))

    def _send(self, reply: Reply) -> None:
        when_ready, self.when_ready = self.when_ready, None
        if when_ready is not None:
            when_ready(reply)


def decode(body: Bytes, header_length: int | None, wire: ServiceWire, limits: Limits) -> InferRequest:
    """Return the request in a body, within limits.

    Raises:
        RequestError: it cannot be taken in as it is.
    """
    return decode_infer(body, header_length, wire, json_depth=limits.json_depth, most_tensors=limits.tensors)


def _takes_long(body: Bytes, json_length: int) -> bool:
    """Say whether the JSON at the beginning of a body had better not be read on the event loop."""
    if not EXPONENTS_FROM_BYTES < json_length <= LARGE_JSON_BYTES:
        return json_length > LARGE_JSON_BYTES
    return is_costly(bytes(memoryview(body)[:json_length]))


def _admit(
    http: HttpRequest, header_length: int | None, gate: Gate, limits: Limits
) -> tuple[PendingJob | Refused, ReplyTerms]:
    """Take a job in. A function of its own, so that a waiting job holds nothing of its body any more."""
    request = http.layouts.decode(
        http.body, header_length, gate.wire, json_depth=limits.json_depth, most_tensors=limits.tensors
    )
    check_class(http.identity, request.slo_class)
    return gate.admit(request), request.reply


def reply_of(gate: Gate, outcome: Outcome | InternalError, terms: ReplyTerms) -> Reply:
    """Return the reply of an outcome."""
    if isinstance(outcome, InternalError):
        return error_reply(status.INTERNAL, status.GENERIC)
    if isinstance(outcome, Refused):
        code = status.status_of_refusal(outcome.reason, own_terms=terms.own_terms)
        return error_reply(code, status.words_of_refusal(outcome.reason, outcome.detail), outcome.reason)
    try:
        body, json_length = encode_answer(terms, outcome.answer, outcome.outputs, gate.wire, gate.label)
    except NotFiniteError as error:
        return error_reply(status.NOT_IN_JSON, str(error))
    return _answer_reply(body, json_length)


def _answer_reply(body: tuple[Bytes, ...], json_length: int | None) -> Reply:
    if json_length is None:
        return Reply(status.OK, body, (JSON,))
    length = (b"inference-header-content-length", b"%d" % json_length)
    return Reply(status.OK, body, (BINARY, length))


def _worth_a_thread(reply: Reply) -> bool:
    return sum(map(len, reply.body)) > INLINE_BYTES


async def compressed(reply: Reply, accepted: Encoding) -> Reply:
    """Return a reply compressed, if that is worth it, in a thread."""
    return await asyncio.to_thread(_compressed_at_once, reply, accepted)


def _compressed_at_once(reply: Reply, accepted: Encoding | None) -> Reply:
    if accepted is None or sum(map(len, reply.body)) < COMPRESSED_AT_LEAST_BYTES:
        return reply
    body = deflate(accepted, b"".join(reply.body))
    headers = (*reply.headers, (b"content-encoding", accepted.encode()), (b"vary", b"accept-encoding"))
    return Reply(reply.status, (body,), headers, close=reply.close)


def _number(value: bytes, header: str) -> int:
    if not (value.isdigit() and len(value) <= 18):
        raise MalformedRequestError(
            f"{header}: got {shown(value.decode('latin-1'))}, expected a number of bytes"
        )
    return int(value)
