"""True labels of answered requests: ``POST /v2/models/NAME/labels``, an extension of poise's own.

A client that gave its request an id may say later what would have been right; accuracy observed is then counted beside
the accuracy that was expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from poise.errors import MalformedRequestError, TooLargeError
from poise.ingress.gate import Gate, PendingJob
from poise.ingress.http_app import HttpApp
from poise.ingress.routes import MODEL, HttpRequest, Reply, json_reply
from poise.protocol.json_structure import check_structure
from poise.protocol.json_tensors import body_problem

MAX_BODY_BYTES = 64 * 2**10
"""Of labels: whoever has more sends them request by request."""
MAX_DEPTH = 8
EXTENSION = "poise_labels"


class Labelled(msgspec.Struct, frozen=True):
    """What labels say of one request's answer: mean scores over its items, in [0, 1]."""

    id: str
    items: int
    accuracy_observed: float
    accuracy_expected: float


class Labels(Protocol):
    """Where answers wait for their labels."""

    def expect(self, gate: Gate, pending: PendingJob, request_id: str, sender: str) -> None:
        """Keep the outputs of a job, if it is answered, under the id that its sender gave it."""

    async def label(self, gate: Gate, request_id: str, sender: str, labels: Sequence[Any]) -> Labelled:
        """Score a kept answer. Labels that are still JSON are read only if there are as many as items.

        Raises:
            NotFoundError: nothing is kept of such a request of this sender.
            ConflictError: it was labelled before, or the service's metric does not score labels.
            MalformedRequestError: another number of labels than items, or labels that the metric does not take.
        """


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    labels: list[msgspec.Raw]


_decoder = msgspec.json.Decoder(_Body)


def add_feedback_route(app: HttpApp, labels: Labels) -> None:
    """Take labels, and keep what they are about."""

    async def label(request: HttpRequest, gate: Gate, body: _Body) -> Reply:
        return json_reply(await labels.label(gate, body.id, request.identity.name, body.labels))

    app.gates.labels = labels
    app.extensions.append(EXTENSION)
    app.routes.add(
        "POST", f"{MODEL}/labels", lambda request: label(request, app.gate_of(request), _body_of(request))
    )


def _body_of(request: HttpRequest) -> _Body:
    if len(request.body) > MAX_BODY_BYTES:
        raise TooLargeError(f"got {len(request.body)} bytes of labels, expected at most {MAX_BODY_BYTES}")
    body = bytes(request.body)
    check_structure(body, MAX_DEPTH, len(body))
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequestError(
            f"{body_problem(error, body)}; expected a JSON object of id and labels, one for each item"
        ) from None
