"""Traces: which requests are traced, as whose children, and what is told of each once it is answered.

Spans are made afterwards, from times that are known anyway. While it is under way a traced request costs a record, and
one that is not traced costs nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol

import msgspec

from poise.domain.job import Job

Attribute = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Attribute]

SAMPLED = 1
"""The flag of ``traceparent`` that says that the client's own part of the trace is kept."""

# version, trace, parent and flags; versions above 0 may say more
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Tracing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests are traced. ``endpoint`` is the URL of an OTLP collector over HTTP.

    ``sample_frac`` is the share of those requests that is traced whose clients say nothing of it.
    """

    endpoint: str
    sample_frac: float = 1.0

    def __post_init__(self) -> None:
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"got otel_endpoint {self.endpoint!r}, expected http://HOST:PORT or https://HOST:PORT"
            )
        if not 0.0 <= self.sample_frac <= 1.0:
            raise ValueError(f"got sample_frac {self.sample_frac!r}, expected a number from 0 to 1")


class TraceContext(msgspec.Struct, frozen=True):
    """Which trace a request belongs to. ``parent_id`` is the client's span; 0 where it has none."""

    trace_id: int
    parent_id: int = 0


class BatchRecord(msgspec.Struct, frozen=True):
    """A batch that answered items of a job, or did not. Units: seconds, absolute but for ``stage_s``.

    ``items`` are the job's own, ``batch_items`` all; ``stage_s`` pairs stages with how long each took, in their order.
    """

    batch_id: int
    worker_id: int
    variant: str
    modalities: tuple[str, ...]
    items: int
    batch_items: int
    sent_s: float
    back_s: float
    stage_s: tuple[tuple[str, float], ...] = ()
    failure: str = ""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A traced request from its first byte to its reply. Units: seconds, absolute, on one clock that never goes back.

    ``job`` None: it did not become one. ``attributes`` say what is known of the request and its outcome; ``failure`` is
    empty where the fault, if any, is the client's.
    """

    name: str
    context: TraceContext
    begun_s: float
    ended_s: float
    job: Job | None
    batches: tuple[BatchRecord, ...]
    attributes: Attributes
    failure: str = ""


class Tracer(Protocol):
    """Decides which requests are traced, and takes what became of them."""

    def begin(self, traceparent: str | None) -> TraceContext | None:
        """Return the trace that a request belongs to; None where it is not traced. Given is the client's header."""

    def finish(self, record: RequestRecord) -> None:
        """Take a traced request that has its reply."""

    def close(self) -> None:
        """Send what is left. It may take a while."""


MOST_A_SECOND = 200
"""So many requests are traced within a second: who asks for traces may not take the time of who does not."""


class Sampler:
    """Traces what clients trace, and a share of what they say nothing of. Units: ``clock`` in seconds."""

    def __init__(
        self, sample_frac: float, random: Random, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sample_frac = sample_frac
        self._random = random
        self._clock = clock
        self._since_s = clock()
        self._traced = 0

    def decide(self, traceparent: str | None) -> TraceContext | None:
        """Return the trace that a request belongs to; None where it is not traced.

        Source: W3C Trace Context, level 1. A header that is not right is as none.
        """
        context = self._asked_for(traceparent)
        if context is None:
            return None
        now_s = self._clock()
        if now_s - self._since_s >= 1.0:
            self._since_s, self._traced = now_s, 0
        self._traced += 1
        return context if self._traced <= MOST_A_SECOND else None

    def _asked_for(self, traceparent: str | None) -> TraceContext | None:
        if traceparent is not None:
            found = _TRACEPARENT.fullmatch(traceparent.strip())
            if found is not None:
                version, flags = int(found[1], 16), int(found[4], 16)
                trace_id, parent_id = int(found[2], 16), int(found[3], 16)
                if version != 0xFF and trace_id and parent_id and not (version == 0 and found[5]):
                    return TraceContext(trace_id, parent_id) if flags & SAMPLED else None
        if self._random.random() >= self._sample_frac:
            return None
        return TraceContext(self._random.getrandbits(128) or 1)


def open_tracer(tracing: Tracing) -> Tracer:
    """Return what traces requests, and begin to send.

    Raises:
        ConfigError: OpenTelemetry's packages are not installed.
    """
    from poise.telemetry.otel import OtelTracer

    return OtelTracer(tracing)
