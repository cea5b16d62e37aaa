"""OpenTelemetry: the spans of requests, sent by OTLP over HTTP from a thread of the SDK's.

The only file that imports OpenTelemetry; nothing imports it unless requests are to be traced. All that the SDK would
read from the environment is given to it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from random import Random
from urllib.parse import urlsplit

import poise
from poise.errors import ConfigError
from poise.telemetry.spans import Span, spans_of
from poise.telemetry.tracing import RequestRecord, Sampler, TraceContext, Tracing

try:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
except ImportError as error:
    raise ConfigError(
        f"spans cannot be sent: {error.name} is not installed", expected="pip install 'poise[otel]'"
    ) from None

PATH = "/v1/traces"
QUEUE_SPANS = 8192
"""So many spans may wait to be sent; more are dropped."""
SEND_EVERY_S = 1.0
SEND_SPANS = 512
SEND_LIMIT_S = 10.0
CLOSE_LIMIT_S = 3.0
"""How long the end of the server waits for what is left to be sent."""

_SCOPE = InstrumentationScope("poise", poise.__version__)
_FLAGS = TraceFlags(TraceFlags.SAMPLED)


class OtelTracer:
    """Samples requests and sends their spans. Spans that cannot be sent are dropped; the SDK logs why."""

    def __init__(self, tracing: Tracing) -> None:
        self._random = Random()  # seeded by the system: ids are unique, and no secrets
        self._sampler = Sampler(tracing.sample_frac, self._random)
        # Tries that fail and are made again are not worth a line each; giving up is.
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.ERROR)
        session = requests.Session()
        session.trust_env = False
        exporter = OTLPSpanExporter(
            endpoint=traces_url(tracing.endpoint),
            headers={},
            timeout=SEND_LIMIT_S,
            compression=Compression.Gzip,
            session=session,
        )
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=QUEUE_SPANS,
            schedule_delay_millis=SEND_EVERY_S * 1e3,
            max_export_batch_size=SEND_SPANS,
            export_timeout_millis=SEND_LIMIT_S * 1e3,
        )
        self._resource = Resource(
            {
                "service.name": "poise",
                "service.version": poise.__version__,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )

    def begin(self, traceparent: str | None) -> TraceContext | None:
        """Return the trace that a request belongs to; None where it is not traced."""
        return self._sampler.decide(traceparent)

    def finish(self, record: RequestRecord) -> None:
        """Hand the spans of a request to the thread that sends them."""
        context = record.context
        parent = None
        if context.parent_id:
            parent = SpanContext(context.trace_id, context.parent_id, is_remote=True, trace_flags=_FLAGS)
        since_epoch_ns = time.time_ns() - round(time.monotonic() * 1e9)
        self._send(spans_of(record), context.trace_id, parent, SpanKind.SERVER, since_epoch_ns)

    def close(self) -> None:
        """Send what is left, as far as it can be sent soon."""
        ending = threading.Thread(target=self._processor.shutdown, name="poise-spans-end", daemon=True)
        ending.start()
        ending.join(CLOSE_LIMIT_S)

    def _send(
        self, span: Span, trace_id: int, parent: SpanContext | None, kind: SpanKind, since_epoch_ns: int
    ) -> None:
        own = SpanContext(trace_id, self._random.getrandbits(64) or 1, is_remote=False, trace_flags=_FLAGS)
        status = Status(StatusCode.ERROR, span.failure) if span.failure else Status()
        self._processor.on_end(
            ReadableSpan(
                span.name,
                own,
                parent,
                self._resource,
                span.attributes,
                kind=kind,
                status=status,
                start_time=since_epoch_ns + round(span.begin_s * 1e9),
                end_time=since_epoch_ns + round(span.end_s * 1e9),
                instrumentation_scope=_SCOPE,
            )
        )
        for child in span.children:
            self._send(child, trace_id, own, SpanKind.INTERNAL, since_epoch_ns)


def traces_url(endpoint: str) -> str:
    """Return where spans are sent: an endpoint without a path has the standard's."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}{PATH}"
