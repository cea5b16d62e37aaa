"""One traced request at a front end: from its first byte to its reply."""

from __future__ import annotations

import time
from contextvars import ContextVar

from poise.ingress.gate import Answered, Gate, PendingJob, Refused
from poise.ingress.routes import HttpRequest, Route
from poise.protocol.status import GENERIC
from poise.telemetry.tracing import Attribute, BatchRecord, RequestRecord, TraceContext, Tracer

SERVER_FAULTS = 500
"""Statuses from here on are not the client's fault."""


class RequestTrace:
    """What is known of a traced request so far. ``batches``: whoever is behind the gate enters them.

    Units: ``begun_s`` in seconds, on the clock of ``time.monotonic``.
    """

    __slots__ = ("_attributes", "_begun_s", "_context", "_gate", "_name", "_taken", "_tracer", "batches")

    def __init__(
        self,
        tracer: Tracer,
        context: TraceContext,
        name: str,
        begun_s: float,
        attributes: dict[str, Attribute],
    ) -> None:
        self._tracer: Tracer | None = tracer
        self._context = context
        self._name = name
        self._begun_s = begun_s
        self._attributes = attributes
        self._gate: Gate | None = None
        self._taken: PendingJob | Refused | None = None
        self.batches: list[BatchRecord] = []

    def taken(self, gate: Gate, taken: PendingJob | Refused) -> None:
        """Note what a gate made of the request; a job's batches are entered from now on."""
        self._gate = gate
        self._taken = taken
        if isinstance(taken, PendingJob):
            taken.trace = self

    def end(self, code: int, **attributes: Attribute) -> None:
        """Hand the record over; a second end is none. ``code`` is the reply's HTTP status, whatever the protocol."""
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        taken = self._taken
        outcome = taken.outcome if isinstance(taken, PendingJob) else taken
        known = self._attributes
        if self._gate is not None:
            known["poise.service"] = self._gate.wire.name
        if isinstance(taken, PendingJob):
            job = taken.job
            known["poise.class"] = job.slo_class
            known["poise.items"] = job.items
            known["poise.deadline_s"] = job.deadline_s - job.arrival_s
            known["poise.accuracy_floor"] = job.accuracy_floor
        if isinstance(outcome, Answered):
            known["poise.accuracy"] = outcome.answer.accuracy
            known["poise.late"] = outcome.answer.late
            known["poise.below_floor"] = outcome.answer.below_floor
        elif isinstance(outcome, Refused):
            known["poise.refusal"] = outcome.reason.value
        tracer.finish(
            RequestRecord(
                name=self._name,
                context=self._context,
                begun_s=self._begun_s,
                ended_s=time.monotonic(),
                job=taken.job if isinstance(taken, PendingJob) else None,
                batches=tuple(self.batches),
                attributes={**known, **attributes},
                failure=_failure(code, outcome),
            )
        )


def _failure(code: int, outcome: object) -> str:
    if code < SERVER_FAULTS:
        return ""
    return outcome.reason.value if isinstance(outcome, Refused) else GENERIC


def http_trace(tracer: Tracer, request: HttpRequest, route: Route) -> RequestTrace | None:
    """Begin the trace of an HTTP request whose head is there; None where it is not traced."""
    begun_s = time.monotonic()
    given = request.headers.get(b"traceparent")
    context = tracer.begin(None if given is None else given.decode("latin-1"))
    if context is None:
        return None
    attributes: dict[str, Attribute] = {"http.request.method": request.method, "http.route": route.pattern}
    return RequestTrace(tracer, context, f"{request.method} {route.pattern}", begun_s, attributes)


def end_http_trace(trace: RequestTrace, code: int) -> None:
    """End the trace of an HTTP request with the status of its reply."""
    trace.end(code, **{"http.response.status_code": code})


CALL: ContextVar[RequestTrace | None] = ContextVar("CALL", default=None)
"""The trace of the gRPC call whose task this is."""


def grpc_trace(tracer: Tracer, traceparent: str | None, service: str, method: str) -> RequestTrace | None:
    """Begin the trace of a gRPC call, in its own task; None where it is not traced."""
    begun_s = time.monotonic()
    context = tracer.begin(traceparent)
    if context is None:
        return None
    attributes: dict[str, Attribute] = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    trace = RequestTrace(tracer, context, f"{service}/{method}", begun_s, attributes)
    CALL.set(trace)
    return trace
