"""Inference over HTTP: from a request's body to a job, and from its outcome to a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from poise.errors import InternalError, MalformedRequestError
from poise.ingress.gate import Gate, Outcome, PendingJob, Refused, outcome_of
from poise.ingress.guard import Identity, check_class
from poise.ingress.limits import Limits
from poise.ingress.routes import BINARY, JSON, Bytes, HttpRequest, Later, Reply, error_reply
from poise.protocol import status
from poise.protocol.answers import NotFiniteError, encode_answer
from poise.protocol.codec import ReplyTerms, decode_infer, shown
from poise.protocol.compression import Encoding, accepted_encoding, deflate, encoding_of, inflate

COMPRESSED_AT_LEAST_BYTES = 1024
"""Replies below go out as they are, whatever the client accepts."""
INLINE_BYTES = 64 * 2**10
"""What is larger is inflated and compressed in a thread, so that others need not wait for it."""


class LaterAnswer:
    """The reply of a job that waits."""

    __slots__ = ("_accepted", "_gate", "_pending", "_terms", "when_ready")

    def __init__(self, gate: Gate, pending: PendingJob, terms: ReplyTerms, accepted: Encoding | None) -> None:
        self._gate = gate
        self._pending = pending
        self._terms = terms
        self._accepted = accepted
        self.when_ready: Callable[[Reply], None] | None = None
        pending.when_settled = self._settled

    def cancel(self) -> None:
        """Give the job up: its client is gone."""
        self._pending.when_settled = None
        self.when_ready = None
        self._gate.cancel(self._pending)

    def _settled(self, pending: PendingJob) -> None:
        outcome = pending.outcome
        assert outcome is not None
        reply = _reply(self._gate, outcome, self._terms)
        if self._accepted is not None and _worth_a_thread(reply):
            compressing = asyncio.ensure_future(_compressed(reply, self._accepted))
            compressing.add_done_callback(lambda done: self._send(done.result()))
        else:
            self._send(_compressed_at_once(reply, self._accepted))

    def _send(self, reply: Reply) -> None:
        when_ready, self.when_ready = self.when_ready, None
        if when_ready is not None:
            when_ready(reply)


def infer(request: HttpRequest, gate: Gate, limits: Limits) -> Reply | Later | Coroutine[Any, Any, Reply]:
    """Answer an inference request.

    Raises:
        RequestError: it cannot be taken in as it is.
    """
    headers = request.headers
    given = headers.get(b"inference-header-content-length")
    header_length = None if given is None else _number(given, "Inference-Header-Content-Length")
    encoding = encoding_of(headers.get(b"content-encoding"))
    accepted = accepted_encoding(headers.get(b"accept-encoding"))
    if encoding is not None:
        body = request.body if request.owned else bytes(request.body)
        return _infer_inflated(request.identity, encoding, body, header_length, gate, limits, accepted)
    pending, terms = _admit(request.identity, request.body, header_length, gate)
    if isinstance(pending, Refused):
        return _reply(gate, pending, terms)
    if pending.outcome is not None:
        return _reply(gate, pending.outcome, terms)
    return LaterAnswer(gate, pending, terms, accepted)


async def _infer_inflated(
    identity: Identity,
    encoding: Encoding,
    body: Bytes,
    header_length: int | None,
    gate: Gate,
    limits: Limits,
    accepted: Encoding | None,
) -> Reply:
    content = await asyncio.to_thread(inflate, encoding, body, limits.body_bytes)
    pending, terms = _admit(identity, content, header_length, gate)
    outcome = pending if isinstance(pending, Refused) else await outcome_of(gate, pending)
    reply = _reply(gate, outcome, terms)
    return reply if accepted is None else await _compressed(reply, accepted)


def _admit(
    identity: Identity, body: Bytes, header_length: int | None, gate: Gate
) -> tuple[PendingJob | Refused, ReplyTerms]:
    """Take a job in. A function of its own, so that a waiting job holds nothing of its body any more."""
    request = decode_infer(body, header_length, gate.wire)
    check_class(identity, request.slo_class)
    return gate.admit(request), request.reply


def _reply(gate: Gate, outcome: Outcome | InternalError, terms: ReplyTerms) -> Reply:
    if isinstance(outcome, InternalError):
        return error_reply(status.INTERNAL, status.GENERIC)
    if isinstance(outcome, Refused):
        code = status.status_of_refusal(outcome.reason, own_terms=terms.own_terms)
        return error_reply(code, status.words_of_refusal(outcome.reason, outcome.detail), outcome.reason)
    try:
        body, json_length = encode_answer(terms, outcome.answer, outcome.outputs, gate.wire, gate.label)
    except NotFiniteError as error:
        return error_reply(status.HTTP_OF_REASON[error.reason], str(error))
    if json_length is None:
        return Reply(status.OK, body, (JSON,))
    length = (b"inference-header-content-length", b"%d" % json_length)
    return Reply(status.OK, body, (BINARY, length))


def _worth_a_thread(reply: Reply) -> bool:
    return sum(map(len, reply.body)) > INLINE_BYTES


async def _compressed(reply: Reply, accepted: Encoding) -> Reply:
    return await asyncio.to_thread(_compressed_at_once, reply, accepted)


def _compressed_at_once(reply: Reply, accepted: Encoding | None) -> Reply:
    if accepted is None or sum(map(len, reply.body)) < COMPRESSED_AT_LEAST_BYTES:
        return reply
    body = deflate(accepted, b"".join(reply.body))
    headers = (*reply.headers, (b"content-encoding", accepted.encode()))
    return Reply(reply.status, (body,), headers, close=reply.close)


def _number(value: bytes, header: str) -> int:
    if not (value.isdigit() and len(value) <= 18):
        raise MalformedRequestError(
            f"{header}: got {shown(value.decode('latin-1'))}, expected a number of bytes"
        )
    return int(value)
